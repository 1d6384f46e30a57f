"""From texts to hits: every reading of every text is shown to a detector, and its findings are mapped to where they
stand. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from proxy.bodies import head, joins
from proxy.bodies.charset import printable
from proxy.bodies.form import PercentLayer
from proxy.bodies.json_spans import Leaf
from proxy.bodies.layers import Edit, Layer, TextLayer, TextRoot, is_editable
from proxy.bodies.limits import Limits, refuse_size
from proxy.bodies.views import MAX_READINGS, Reading, TooManyReadings, readings
from proxy.customdata.across import across
from proxy.model import Finding
from proxy.placeholders import inside_placeholder
from proxy.redaction import Hit

_NEEDS_PROSE: Final = frozenset(("PERSON", "LOCATION", "ORGANIZATION", "NRP", "DATE_TIME", "AGE", "TITLE"))
"""Found by a language model from the sentence around them: a lone word in a key, a URL or an identifier has none."""

_MACHINE_WORD: Final = re.compile(r"[a-z0-9]*[0-9._:/@+-][a-z0-9._:/@+-]*|[A-Za-z0-9]+[._:/-][A-Za-z0-9._:/-]*")
_PEOPLE_KEY: Final = re.compile(
    r"name|customer|patient|client|employee|person|owner|author|recipient|sender|contact|surname|address|street|city",
    re.IGNORECASE,
)
_THINGS_KEY: Final = re.compile(
    r"(?:file|host|path|domain|class|model|tool|table|column|field|event|space|node)_?name", re.IGNORECASE
)
_SECRET_KEY: Final = re.compile(
    r"pass(?:word|wd|phrase|code)|pwd\Z|secret|credential"
    r"|(?:api|access|private|auth|account|signing|encryption|master)[_\- ]?key"
    r"|(?:access|auth|api|bearer|session|refresh|private|security)[_\- ]?token",
    re.IGNORECASE,
)
_DECLARATIONS: Final = frozenset(
    ("tools", "functions", "function", "tool_choice", "tool_calls", "response_format", "properties", "input_schema")
)
"""Members of a provider's request that name tools and fields, not people."""

_KEYED_CHARS: Final = 64
_KEYED_VALUE: Final = re.compile(r"[0-9 .,()/+-]{4,40}")


class Detector(Protocol):
    """What finds entities in texts. Offsets are characters of each text; `location` and `action` are left unset."""

    def detect(
        self, texts: Sequence[str], profile: str, entities: frozenset[str] | None = None
    ) -> Sequence[Sequence[Finding]]:
        """Findings per text, in the order of `texts`. `entities`: to be looked for even where the profile leaves them
        out, because a rule names them. Raises on any failure, never skips."""


@dataclass(slots=True)
class Source:
    """One reading of one leaf: `reading` None is the leaf's text itself, behind `prefix` characters of context.
    `chain`: of several leaves on end, instead of `leaf`."""

    leaf: int
    text: str
    reading: Reading | None = None
    prefix: int = 0
    chain: joins.Chain | None = None


def sources_of(leaves: Sequence[TextLayer], limits: Limits) -> list[Source]:
    """All that a detector has to see. Raises Denied `too_large`."""
    out: list[Source] = []
    others: dict[str, list[Reading]] = {}
    total = 0
    for index, leaf in enumerate(leaves):
        text = printable(leaf.text)
        if not text:
            continue
        context = _context(leaf)
        out.append(Source(index, context + text, prefix=len(context)))
        if text not in others:
            others[text] = _readings(text)
        out += [Source(index, printable(other.text), other) for other in others[text]]
        total += len(text) + sum(len(other.text) for other in others[text])
        if total > limits.max_text_chars or len(out) > 2 * limits.max_leaves:
            raise refuse_size("the text of the message", limits.max_text_chars, "characters")
    for chain in joins.chains(leaves):
        out += [Source(-1, joined.text, joined, chain=chain) for joined in joins.readings(chain)]
    return out


def _readings(text: str) -> list[Reading]:
    try:
        return readings(text)
    except TooManyReadings:
        raise refuse_size("the encoded texts in one text", MAX_READINGS, "pieces") from None


def _context(leaf: TextLayer) -> str:
    """A bare value says little, `ssn: 536228176`, `name: jane` or `password: …` say what it is: the key is in front."""
    if len(leaf.text) > _KEYED_CHARS:
        return ""
    key: str | None
    if isinstance(leaf, head.MachineText):
        key = leaf.variable if _SECRET_KEY.search(leaf.variable) else None
        told = True
    elif isinstance(leaf, PercentLayer):
        key, told = leaf.name, leaf.name is not None and _SECRET_KEY.search(leaf.name) is not None
    elif isinstance(leaf, Leaf) and leaf.kind != "key":
        key = leaf.node[1] if isinstance(leaf.node[1], str) else None
        told = key is not None and (_names_people(key, leaf) or _names_a_secret(key, leaf))
    else:
        return ""
    if key is None or len(key) > _KEYED_CHARS or not (told or _KEYED_VALUE.fullmatch(leaf.text)):
        return ""
    return printable(key).replace("_", " ").replace("-", " ") + ": "


def _names_a_secret(key: str, leaf: Leaf) -> bool:
    return leaf.kind == "string" and _SECRET_KEY.search(key) is not None


def _names_people(key: str, leaf: Leaf) -> bool:
    if leaf.kind != "string" or not _PEOPLE_KEY.search(key) or _THINGS_KEY.search(key):
        return False
    at = leaf.node[0]
    while at is not None:
        if at[1] in _DECLARATIONS:
            return False
        at = at[0]
    return True


def detect(
    leaves: Sequence[TextLayer], sources: Sequence[Source], detector: Detector, profile: str, named: frozenset[str]
) -> list[Hit]:
    """What the detector found, once per place. `named`: entities to look for beyond the profile's own."""
    unique = list(dict.fromkeys(source.text for source in sources))
    if not unique:
        return []
    found = detector.detect(unique, profile, named)
    if len(found) != len(unique):
        raise RuntimeError("the detector did not answer for every text")
    by_text = dict(zip(unique, found, strict=True))
    hits: dict[tuple[int, int, int, str], Hit] = {}
    for source, more in zip(sources, across(detector, sources), strict=True):
        for finding in (*by_text[source.text], *more):
            hit = _hit(source, finding, leaves[source.leaf]) if source.chain is None else None
            if hit is not None:
                hits.setdefault((hit.leaf, hit.start, hit.end, hit.entity), hit)
    single = _without_echoes(hits, leaves)
    return [*single, *_joined_hits(leaves, sources, by_text, single)]


def _without_echoes(hits: Mapping[tuple[int, int, int, str], Hit], leaves: Sequence[TextLayer]) -> list[Hit]:
    """What is no JSON is looked at as a text too; there, a finding in one of its strings is not a second one."""
    places = {id(leaf): index for index, leaf in enumerate(leaves)}
    spans: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for hit in hits.values():
        spans.setdefault((hit.leaf, hit.entity), []).append((hit.start, hit.end))
    echoes: dict[tuple[int, str], list[tuple[int, int]]] = {}
    out: list[Hit] = []
    for hit in hits.values():
        leaf = leaves[hit.leaf]
        outer = places.get(id(leaf.parent)) if isinstance(leaf, Leaf) else None
        if outer is None or not isinstance(leaf, Leaf):
            out.append(hit)
        elif leaf.kind == "string":
            out.append(hit)
            lifted = leaf.lift([Edit(hit.start, hit.end, "")])
            echoes.setdefault((outer, hit.entity), []).extend((edit.start, edit.end) for edit in lifted)
        elif not _overlap(spans.get((outer, hit.entity), ()), leaf.start, leaf.end):
            out.append(hit)
    return [hit for hit in out if not _contained(echoes.get((hit.leaf, hit.entity), ()), hit)]


def _contained(spans_known: Sequence[tuple[int, int]], hit: Hit) -> bool:
    return any(first <= hit.start and hit.end <= last for first, last in spans_known)


def _joined_hits(
    leaves: Sequence[TextLayer],
    sources: Sequence[Source],
    by_text: Mapping[str, Sequence[Finding]],
    single: Iterable[Hit],
) -> list[Hit]:
    """Findings over several leaves, one hit per leaf. Where one leaf alone holds a value of that kind, the next one
    only happens to stand behind it."""
    chained = [source for source in sources if source.chain is not None and by_text[source.text]]
    if not chained:
        return []
    known: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for hit in single:
        known.setdefault((hit.leaf, hit.entity), []).append((hit.start, hit.end))
    out: dict[tuple[int, int, int, str], Hit] = {}
    for source in chained:
        for finding in by_text[source.text]:
            for hit in _pieces(source, finding, leaves, known):
                out.setdefault((hit.leaf, hit.start, hit.end, hit.entity), hit)
    return list(out.values())


def _pieces(
    source: Source,
    finding: Finding,
    leaves: Sequence[TextLayer],
    known: Mapping[tuple[int, str], Sequence[tuple[int, int]]],
) -> list[Hit]:
    chain, reading = source.chain, source.reading
    if chain is None or reading is None or not reading.believes(finding.entity, finding.start, finding.end):
        return []
    parts = chain.parts(*reading.span(finding.start, finding.end))
    if len(parts) < 2 or any(_overlap(known.get((leaf, finding.entity), ()), start, end) for leaf, start, end in parts):
        return []
    value = source.text[finding.start : finding.end]
    editable = all(is_editable(leaves[leaf]) for leaf, _, _ in parts)
    return [
        Hit(leaf, start, end, finding.entity, value, finding.score, finding.recognizer, editable=editable, part=number)
        for number, (leaf, start, end) in enumerate(parts, 1)
    ]


def _overlap(spans_known: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    return any(first < end and start < last for first, last in spans_known)


def _hit(source: Source, finding: Finding, leaf: TextLayer) -> Hit | None:
    start, end = max(finding.start, source.prefix), finding.end
    if start >= end:
        return None
    value = source.text[start:end]
    if finding.entity in _NEEDS_PROSE and _is_machine_text(leaf, value):
        return None
    if inside_placeholder(source.text, start, end):
        return None
    if isinstance(leaf, head.JoinedText) and (source.reading is not None or not leaf.counts(start, end)):
        return None
    if source.reading is not None and not source.reading.believes(finding.entity, finding.start, finding.end):
        return None
    if source.reading is None:
        start, end = start - source.prefix, end - source.prefix
    else:
        start, end = source.reading.span(start, end)
    whole = source.reading is not None and source.reading.whole
    return Hit(
        source.leaf, start, end, finding.entity, value, finding.score, finding.recognizer, whole, is_editable(leaf)
    )


def _is_machine_text(leaf: TextLayer, value: str) -> bool:
    """True where a name is not to be believed: one word in a place that programs write, or a text that is one id."""
    if " " in value.strip():
        return False
    written_by_programs = not isinstance(leaf, Leaf) or leaf.kind != "string"
    if written_by_programs and _is_outside_body(leaf):
        return True
    return (isinstance(leaf, Leaf) and leaf.kind == "key") or _MACHINE_WORD.fullmatch(leaf.text) is not None


def _is_outside_body(leaf: Layer) -> bool:
    while leaf.parent is not None:
        leaf = leaf.parent
    return isinstance(leaf, TextRoot)
