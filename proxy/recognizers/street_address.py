"""Postal addresses: an anchor that hardly occurs elsewhere (a street word with a number, `Apt. 12`, `P.O. Box 7`, a
military box, a postcode after its name), then the words and numbers around it that read like the rest of the address.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Final

from ahocorasick_rs import AhoCorasick

from proxy.model import Finding
from proxy.recognizers._hints import Hints, holds
from proxy.recognizers.base import LIKELY, POSSIBLE, WITH_CONTEXT_ONLY, Recognizer, has_digit

_NAME: Final = r"[^\W\d_a-zßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþ][\w'\u2019\-]{0,30}\.?"
_PARTICLES: Final = frozenset(
    [
        "de",
        "la",
        "le",
        "les",
        "du",
        "des",
        "di",
        "da",
        "do",
        "dos",
        "das",
        "del",
        "della",
        "delle",
        "degli",
        "dei",
        "van",
        "den",
        "der",
        "het",
        "von",
        "zu",
        "zum",
        "zur",
        "am",
        "an",
        "im",
        "of",
        "the",
        "y",
        "e",
        "et",
        "og",
        "och",
        "ul.",
        "u.",
        "út",
        "utca",
        "ter",
        "st.",
        "c/",
        "r",
        "rue",
        "via",
    ]
)
_WORD: Final = rf"(?:{_NAME}|de|la|le|du|des|di|da|do|dos|das|del|della|degli|dei|van|den|der|het|von|zur?|am|of)"
_WORDS: Final = rf"{_WORD}(?:[ ]{_WORD}){{0,4}}"
_NUMBER: Final = r"[0-9]{1,5}(?:[A-Za-z](?![A-Za-z]))?(?:[\-/][0-9]{1,4})?"
_ENGLISH: Final = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Court|Ct|Boulevard|Blvd|Way|Place|Pl|Square|Sq|Terrace|Close|"
    r"Crescent|Cres|Highway|Hwy|Parkway|Pkwy|Circle|Cir|Trail|Trl|Grove|Gardens|Mews|Row|Alley|Quay|Esplanade|Parade)"
)
_FIRST: Final = (
    r"(?:Rue|Avenue|Boulevard|Place|Chemin|Allée|Quai|Impasse|Cours|Route|Via|Viale|Piazza|Corso|Largo|Vicolo|Strada|"
    r"Calle|C/|Avda\.?|Avenida|Plaza|Paseo|Ronda|Rambla|Camino|Camiño|Carrer|Rua|R\.?|Travessa|Praça|Estrada|Ulica|ul\.?|"
    r"Aleja|al\.|Trg|Strada|Str\.|Rruga|Λεωφόρος|Οδός)"
)
_ENDING: Final = (
    r"(?:straße|strasse|str\.|gasse|gässli|weg|platz|allee|damm|ufer|ring|gata|gatan|gate|gaten|gade|vej|vejen|veien|"
    r"vegen|vägen|väg|gränd|straat|laan|plein|dreef|kade|gracht|singel|steenweg|plaats|baan|katu|tie|kuja|polku|tänav|"
    r"gatve|iela|utca|tér|körút|stígur|vegur|braut|stigen|stræde|torv|alléen)"
)
_POSTCODE: Final = (
    r"(?:[0-9]{4,6}(?:-[0-9]{4})?|[A-Z]{1,2}[0-9][0-9A-Z]?[ ]?[0-9][A-Z]{2}|[A-Z][0-9][A-Z][ ]?[0-9][A-Z][0-9])"
)
_ANCHORS: Final = tuple(
    (re.compile(pattern, flags), score, tuple(filter(None, hints.split("|"))))
    for pattern, flags, score, hints in (
        (rf"(?<!\w){_NUMBER},?[ ]{_WORDS}[ ]{_ENGLISH}(?!\w)\.?", 0, LIKELY, ""),
        (
            rf"(?<!\w)(?:{_NAME}[ ]){{1,3}}(?:Street|Avenue|Road|Lane|Boulevard|Square)(?!\w)",
            0,
            POSSIBLE,
            "street|avenue|road|lane|boulevard|square",
        ),
        (rf"(?<!\w)(?:{_NUMBER},?[ ])?{_FIRST}[ ]{_WORDS},?[ ]{_NUMBER}(?!\w)", 0, LIKELY, ""),
        (rf"(?<!\w){_NUMBER},?[ ]{_FIRST}[ ]{_WORDS}", 0, LIKELY, ""),
        (
            rf"(?<!\w)(?:{_NUMBER},?[ ])?[^\W\d_]\w{{1,30}}{_ENDING}[ ]{_NUMBER}(?!\w)",
            re.IGNORECASE,
            LIKELY,
            _ENDING.strip("(?:)").replace("\\", ""),
        ),
        (
            r"(?<!\w)(?:apt|suite|ste|apartment|flat)\.?[ ]#?[0-9]{1,5}[A-Za-z]?(?!\w)",
            re.IGNORECASE,
            LIKELY,
            "apt|suite|ste|apartment|flat",
        ),
        (
            r"(?<!\w)(?:p\.?[ ]?o\.?[ ]?box|postbus|postfach|boîte postale|apartado)[ ]#?[0-9]{1,6}(?!\w)",
            re.IGNORECASE,
            LIKELY,
            "box|postbus|postfach|boîte|apartado",
        ),
        (r"(?<!\w)(?:unit|psc)[ ][0-9]{1,5},?[ ]box[ ][0-9]{1,5}(?!\w)", re.IGNORECASE, LIKELY, "box"),
        (r"(?<!\w)[ADF]PO[ ]A[AEP][ ][0-9]{5}(?!\w)", re.IGNORECASE, LIKELY, "apo|fpo|dpo"),
        (
            rf"(?<!\w)(?:zip(?:[ -]?code)?|post[ -]?code|postal[ -]?code|plz)(?:[ ]is|:)?[ ](?P<value>{_POSTCODE})\b",
            re.IGNORECASE,
            LIKELY,
            "zip|code|plz",
        ),
        (rf"(?<!\w){_NUMBER}[ ]{_WORDS}[ ]{_NUMBER}(?!\w)", 0, WITH_CONTEXT_ONLY, ""),
        (rf"(?<!\w){_NUMBER}[ ]{_WORDS}(?=[,\n])", 0, WITH_CONTEXT_ONLY, ""),
    )
)
_FROM_HOUSE: Final = (0, 3, 10, 11)
_NUMBERLESS: Final = 1
_STREET_FIRST: Final = 2
"""Which of them begin with a house number, hold none, or may begin with the word for a street."""
_HOUSE: Final = re.compile(rf"(?<!\w){_NUMBER},?[ ](?=[^\W\d_])")
_HINTS: Final = Hints([hints for _, _, hints in _ANCHORS])
_STREETS_FIRST: Final = _FIRST.strip("(?:)").replace("\\.", "").replace("?", "").split("|")
_STREETS: Final = AhoCorasick([f"{word}{end}" for word in _STREETS_FIRST for end in (" ", ". ")])
_DIGIT: Final = re.compile(r"[0-9]")
_TOKEN_AFTER: Final = re.compile(r"(?:,?[ ]{1,3}|,?[ ]?\n[>#? ]{0,4},?[ ]?)([^\s,;:!?()]{1,40})")
_TOKEN_BEFORE: Final = re.compile(r"([^\s;:!?()]{1,40})(?:[ ]{1,3}|[ ]?\n[>#? ]{0,4})\Z")
_MAX_AFTER: Final = 9
_MAX_BEFORE: Final = 7
_WINDOW_CHARS: Final = 48
_PLACE_WORD: Final = re.compile(rf"(?:{_NAME}|[0-9]{{1,6}}[A-Za-z]?(?:-[0-9]{{3,4}})?|[A-Z]{{2,3}}[0-9]{{0,2}})\Z")
_FIRST_DIGIT: Final = re.compile(r"(?<!\w)[0-9]")
_UNIT: Final = re.compile(r"(?:apt|suite|ste|apartment|flat|unit|floor|box)\.?\Z", re.IGNORECASE)
_MONTHS: Final = re.compile(
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec|Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)", 0
)
_SENTENCE_WORDS: Final = frozenset(
    [
        "I",
        "The",
        "We",
        "He",
        "She",
        "It",
        "They",
        "This",
        "That",
        "You",
        "Please",
        "My",
        "Our",
        "And",
        "But",
        "If",
        "When",
        "Is",
        "In",
        "At",
        "On",
        "To",
    ]
)


def _belongs(token: str) -> bool:
    if token in _SENTENCE_WORDS or _MONTHS.match(token):
        return False
    return token in _PARTICLES or _UNIT.match(token) is not None or _PLACE_WORD.match(token) is not None


def _extended_end(
    text: str, following: Callable[[int], re.Match[str] | None], belongs: Callable[[str], bool], end: int
) -> int:
    """Over what follows: house number, unit, town, region, country, postcode; to the end of the sentence at most."""
    kept = end
    numbers = 0
    for _ in range(_MAX_AFTER):
        match = following(end)
        if match is None:
            break
        token = match[1].rstrip(".")
        stops = token != match[1] and not _UNIT.match(token)
        # A number on the line after a number is no longer the address but, mostly, a telephone.
        numbers = numbers + 1 if token[:1].isdigit() else 0
        if not belongs(token) or numbers > 1 or (numbers and "\n" in match[0] and text[end - 1].isdigit()):
            break
        end = match.start(1) + len(token)
        if token not in _PARTICLES:
            kept = end
        if stops:
            break
        end = match.end(1)
    return kept


def _following(text: str, end: int) -> re.Match[str] | None:
    return _TOKEN_AFTER.match(text, end, end + _WINDOW_CHARS)


def _extended_start(text: str, start: int) -> int:
    """Over the house number and street in front of a unit, on the same line or the one before."""
    kept = start
    lines = 0
    for _ in range(_MAX_BEFORE):
        match = _TOKEN_BEFORE.search(text, max(0, start - _WINDOW_CHARS), start)
        if match is None:
            break
        token = match[1].rstrip(",")
        lines += "\n" in match[0]
        if not _belongs(token) or lines > 1 or (match[1].endswith(".") and "\n" not in match[0] and len(token) > 5):
            break
        start = match.start(1)
        if token not in _PARTICLES:
            kept = start
    # A run of names without a number in front may be the sentence: begin at its first number.
    first = _FIRST_DIGIT.search(text, kept)
    return kept if first is None or first.start() < kept + 6 else first.start()


def _numbered(text: str) -> Iterator[tuple[int, int]]:
    """Runs of lines with a number, line ends included. No anchor goes over a line end; all but one hold numbers."""
    first = last = 0
    while (digit := _DIGIT.search(text, last)) is not None:
        start = text.rfind("\n", last, digit.start()) + 1 or last
        if first < last < start:
            yield first, last
        first = first if start == last and first < last else start
        last = text.find("\n", digit.start()) + 1 or len(text)
    if first < last:
        yield first, last


def _possible(text: str) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Anchors that could match and where: what begins with a house number is sought by `_from_houses`."""
    stretches: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for start, end in _numbered(text):
        part = text[start:end]
        for anchor in _HINTS.rows(part):
            stretches[anchor].append((start, end))
        if holds(part, _STREETS):
            stretches[_STREET_FIRST].append((start, end))
    if _NUMBERLESS in _HINTS.rows(text):
        stretches[_NUMBERLESS] = [(0, len(text))]
    yield from sorted(stretches.items())


def _matches(text: str) -> Iterator[tuple[float, re.Match[str]]]:
    """Matches of all anchors with their scores."""
    houses = [house.start() for house in _HOUSE.finditer(text)]
    for anchor in _FROM_HOUSE:
        pattern, score, _ = _ANCHORS[anchor]
        yield from ((score, match) for match in _from_houses(text, houses, pattern))
    for anchor, stretches in _possible(text):
        pattern, score, _ = _ANCHORS[anchor]
        yield from ((score, match) for start, end in stretches for match in pattern.finditer(text, start, end))


def _from_houses(text: str, houses: Sequence[int], pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """As `finditer`, which would try at every character."""
    last = 0
    for house in houses:
        match = pattern.match(text, house) if house >= last else None
        if match is not None:
            yield match
            last = match.end()


def _find(text: str) -> Iterator[Finding]:
    # Several anchors end at the same place, or before the same words.
    extended = cache(partial(_extended_end, text, cache(partial(_following, text)), cache(_belongs)))
    for score, match in _matches(text):
        start, end = match.span("value") if "value" in match.re.groupindex else match.span()
        if _MONTHS.search(match[0]):
            continue
        unit = score == LIKELY and _UNIT.match(match[0].partition(" ")[0]) is not None
        begin = min(start, _extended_start(text, start)) if unit else start
        yield Finding("LOCATION", begin, extended(end), score, "street_address")


_STREET: Final = re.compile(r"Street|Avenue|Road|Lane|Boulevard|Square")


def _trigger(text: str) -> bool:
    return has_digit(text) or _STREET.search(text) is not None


RECOGNIZER: Final = Recognizer(
    name="street_address",
    entities=frozenset({"LOCATION"}),
    layer="pattern",
    find=_find,
    trigger=_trigger,
    context=frozenset(
        [
            "address",
            "addresses",
            "adress",
            "lives",
            "live",
            "living",
            "moved",
            "located",
            "delivered",
            "deliver",
            "delivery",
            "ship",
            "shipping",
            "meet",
            "office",
            "residence",
            "resides",
            "arrived",
            "mailing",
            "billing",
            "home",
            "adresse",
            "anschrift",
            "dirección",
            "indirizzo",
        ]
    ),
)
