"""Values pulled apart by what stands between their characters: markup, brackets, symbols, spaces, quotes and pluses.

A guess that joins characters is right by chance now and then, so that each reading names the entities it may show, all
of them with a checksum or an unmistakable form. Ordinary separators (space, dash, dot, line end) are left to the
recognisers.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from proxy.bodies.offsets import Piece, substitute
from proxy.bodies.views import Reading, replaced

CHECKED: Final = frozenset(
    ("CREDIT_CARD", "IBAN_CODE", "US_SSN", "EMAIL_ADDRESS", "SECRET", "PRIVATE_KEY", "PHONE_NUMBER", "CRYPTO")
)
_NUMBERS: Final = frozenset(("CREDIT_CARD",))
_SSN: Final = frozenset(("US_SSN",))
_CONTEXT_CHARS: Final = 48
_CARD_SIZES: Final = frozenset(((4, 6, 5), (4, 6, 4), (4, 4, 5), (4, 4, 4, 4), (4, 4, 4, 4, 3), (8, 8)))

_DIGIT_TABLE: Final = bytes(code for code in range(256) if code not in b"0123456789")
_SPACED_OUT: Final = re.compile(r"[0-9](?:(?:[^\w]|_){0,6}[0-9]){8,}+")
_GAPS: Final = bytes(
    0x64 if 48 <= code < 58 else 0x73 if chr(code) in " \t\r\n.-/_|*`~,:" else 0x77 if chr(code).isalnum() else 0x65
    for code in range(256)
)
_ODD_GAPS: Final = (b"ded", b"deed", b"desd", b"dsed", b"dsesd", b"desed", b"deeed", b"deesd", b"dseed")
"""A gap with a sign that recognisers do not bridge, between digits: `d` digit, `s` usual separator, `e` other sign."""
_LEAST_DIGITS: Final = 9
_LEAST_CARD: Final = 13
_MOST_DIGITS: Final = 19
_AROUND_CHARS: Final = 120
_TIGHT: Final = re.compile(r"[0-9]++(?:[\s.\-\u2010-\u2015/_|*`~,:]{1,5}[0-9]++)*")
_GROUP: Final = re.compile(r"[0-9]+")

_MARKUP: Final = r"(?:<[/!]?[A-Za-z\-][^<>]{0,120}>|<!\[CDATA\[|\]\]>)"
_TAG: Final = re.compile(_MARKUP)
_TAG_WITHIN: Final = re.compile(rf"[0-9@.]\s?{_MARKUP}|{_MARKUP}\s?[0-9@.]")
_CONCATENATION: Final = re.compile(r"""(?<=[\w@.\- ])(["'])\s{0,16}[+&]\s{0,64}\1(?=[\w@.\- ])""")
_LETTER_BY_LETTER: Final = re.compile(r"(?<![^\s\"'(\[:=])[^\s]([ _|*\u00b7\u2022.,;/\-])(?:[^\s]\1){7,}+[^\s]?")
_QUOTES: Final = bytes(0x71 if chr(code) in "\"'" else 0x70 if chr(code) in "+&" else 0x20 for code in range(256))
_SINGLES: Final = bytes(0x78 if chr(code).isalnum() or code == 0x40 else 0x20 for code in range(256))
_ALTERNATING: Final = b"x x x x x x "
_SPELLED: Final = {
    "zero": "0", "oh": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9",
}  # fmt: skip
_WORDS: Final = re.compile(r"\b(?:{0})(?:[\s,.;:/\-]{{1,3}}(?:{0})\b){{8,}}+".format("|".join(_SPELLED)), re.IGNORECASE)
_WORD: Final = re.compile("[A-Za-z]+")
_APART: Final = re.compile(
    r"(?:\s{1,3}@\s{0,3}|@\s{1,3})[\w\-]{1,63}(?:\s{0,3}(?:\.|\b(?:dot|DOT)\b)\s{0,3}[\w\-]{2,63}){1,4}"
    r"|@[\w\-]{1,63}(?:\s{1,3}(?:\.|dot|DOT)\s{1,3}[\w\-]{2,63}){1,4}"
    r"|\s(?:at|AT)\s{1,3}[\w\-]{1,63}(?:\s{1,3}(?:dot|DOT)\s{1,3}[\w\-]{2,63}){1,4}"
)
_LOCAL: Final = re.compile(r"[\w.+\-]{1,64}(?:\s{1,3}(?:dot|DOT)\s{1,3}[\w+\-]{1,64}){0,3}\s{0,3}\Z")


def luhn_sums(digits: str) -> tuple[list[int], list[int]]:
    """Sums from the start on with every second digit doubled (ISO/IEC 7812-1 annex B): [0] those at odd places, [1]
    those at even ones, so that a window costs the same at any length."""
    sums: tuple[list[int], list[int]] = ([0], [0])
    for index, digit in enumerate(digits):
        value = ord(digit) - 48
        doubled = value * 2 - 9 * (value > 4)
        sums[0].append(sums[0][-1] + (doubled if index % 2 else value))
        sums[1].append(sums[1][-1] + (value if index % 2 else doubled))
    return sums


def card_windows(digits: str, sizes: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Stretches of whole groups that start as cards do (major industries 2 to 6), have 13 to 19 digits and pass the
    Luhn check: first and last digit, first and last group."""
    sums = luhn_sums(digits)
    starts = list(accumulate(sizes, initial=0))
    for group, first in enumerate(starts[:-1]):
        if digits[first] not in "23456":
            continue
        for end in range(group + 1, min(len(starts), group + _MOST_DIGITS + 1)):
            last = starts[end]
            if last - first > _MOST_DIGITS:
                break
            kept = sums[last % 2 == 0]
            if last - first >= _LEAST_CARD and (kept[last] - kept[first]) % 10 == 0:
                yield first, last, group, end


def compact(positions: Sequence[int], text: str, context: int, entities: frozenset[str], gaps: str = "") -> Reading:
    """The characters at `positions` of `text`, put together, behind `context` characters of what stood in front.

    `gaps`: characters of the reading that stand for nothing, one per position: put in front of that character.
    """
    first = positions[0]
    start = max(0, first - context)
    where = list(range(start, first))
    chars = [text[start:first]]
    for index, at in enumerate(positions):
        if gaps[index : index + 1].strip("x"):
            where.append(at)
            chars.append(gaps[index])
        where.append(at)
        chars.append(text[at])
    return Reading("".join(chars), _by_position(where), entities=entities)


def _by_position(where: Sequence[int]) -> Callable[[int, int], tuple[int, int]]:
    def span(start: int, end: int) -> tuple[int, int]:
        last = where[min(end, len(where)) - 1]
        return where[min(start, len(where) - 1)], last + 1

    return span


def _numbers(text: str, start: int, end: int) -> Iterator[Reading]:
    """Cards and SSNs whose digits stand apart by more than recognisers bridge."""
    for run in _SPACED_OUT.finditer(text, start, end):
        if not _TIGHT.fullmatch(text, run.start(), run.end()):
            groups = [group.span() for group in _GROUP.finditer(text, run.start(), run.end())]
            yield from card_readings(text, groups)
            yield from ssn_readings(text, groups, "xxx x xxx")


def ssn_readings(text: str, groups: Sequence[tuple[int, int]], gaps: str) -> Iterator[Reading]:
    """Groups of 3, 2 and 4 digits, or nine single ones, written with `gaps` and with what stands in front."""
    sizes = [end - start for start, end in groups]
    for first in range(len(groups) - 2):
        if sizes[first : first + 3] == [3, 2, 4]:
            yield compact(_places(groups[first : first + 3]), text, _CONTEXT_CHARS, _SSN, gaps)
    if len(groups) == _LEAST_DIGITS == sum(sizes):
        yield compact(_places(groups), text, _CONTEXT_CHARS, _SSN, gaps)


def _places(groups: Sequence[tuple[int, int]]) -> list[int]:
    return [position for start, end in groups for position in range(start, end)]


def card_readings(text: str, groups: Sequence[tuple[int, int]], *, loose: bool = False) -> Iterator[Reading]:
    """`loose`: any groups, where the run is one number whole."""
    at = _places(groups)
    sizes = [end - start for start, end in groups]
    for first, last, begin, end in card_windows("".join(text[position] for position in at), sizes):
        shape = tuple(sizes[begin:end])
        if shape in _CARD_SIZES or len(shape) == last - first or (loose and last - first == len(at)):
            yield compact(at[first:last], text, 0, _NUMBERS)


def _odd_numbers(text: str, raw: bytes) -> Iterator[Reading]:
    """Only around unusual gaps, between one letter and the next, where there are digits enough."""
    classes = raw.translate(_GAPS)
    done = 0
    for at in sorted(_positions(classes)):
        if at < done:
            continue
        start = max(done, classes.rfind(b"w", max(0, at - _AROUND_CHARS), at) + 1, at - _AROUND_CHARS)
        end = classes.find(b"w", at, at + _AROUND_CHARS)
        done = end if end >= 0 else min(len(text), at + _AROUND_CHARS)
        if classes.count(b"d", start, done) >= _LEAST_DIGITS:
            yield from _numbers(text, start, done)


def _positions(classes: bytes) -> Iterator[int]:
    for gap in _ODD_GAPS:
        at = classes.find(gap)
        while at >= 0:
            yield at
            at = classes.find(gap, at + 1)


def _letters(text: str) -> Iterator[Reading]:
    for match in _LETTER_BY_LETTER.finditer(text):
        step = 2
        yield compact(range(match.start(), match.end(), step), text, 0, CHECKED)


def _spelled(text: str) -> Iterator[Reading]:
    lower = text.lower()
    if sum(lower.count(word) for word in _SPELLED) < 9:
        return
    for match in _WORDS.finditer(text):
        words = [(word.start(), word.end()) for word in _WORD.finditer(text, match.start(), match.end())]
        digits = "".join(_SPELLED[lower[start:end]] for start, end in words)
        if len(words) == _LEAST_DIGITS:
            yield _of_words(text, words, digits)
        for first, last, _, _ in card_windows(digits, [1] * len(digits)):
            yield _of_words(text, words[first:last], digits[first:last])


def _of_words(text: str, words: Sequence[tuple[int, int]], digits: str) -> Reading:
    start = max(0, words[0][0] - _CONTEXT_CHARS)
    prefix = text[start : words[0][0]]
    size = len(prefix)
    shown = f"{digits[:3]} {digits[3:5]} {digits[5:]}" if len(digits) == 9 else digits

    def span(begin: int, end: int) -> tuple[int, int]:
        if end <= size:
            return start + begin, start + end
        return (start + begin if begin < size else words[0][0]), words[-1][1]

    return Reading(prefix + shown, span, entities=_SSN if len(digits) == 9 else _NUMBERS)


def _nothing(match: re.Match[str]) -> tuple[Piece, ...]:
    return (("", len(match[0])),)


_BROKEN: Final = re.compile(
    r"(?<=[\w])@(?:[\w\-]{0,63}|[\w\-]{1,63}(?:\.[\w\-]{1,63}){0,3}\.[a-z]?)\r?\n[ \t]{0,8}"
    r"(?:[\w\-]{0,63}(?:\.[\w\-]{2,63}){1,4}|[a-z]{1,3}\b)"
)
"""An address cut by a line end before its domain is whole."""


def _addresses(text: str) -> Iterator[Reading]:
    """`jane.roe @ example.com`, `jane dot roe at example dot com`: bare words only with both."""
    matches = [*_APART.finditer(text), *(_BROKEN.finditer(text) if "\n" in text else ())]
    for match in matches:
        start = max(0, match.start() - 80)
        local = _LOCAL.search(text[start : match.start()])
        if local is not None:
            begin = start + local.start()
            plain, offsets = substitute(_SPELLED_SIGN, text[begin : match.end()], _sign)
            yield Reading(plain, offsets.shifted(begin).span, entities=frozenset(("EMAIL_ADDRESS",)))


_SPELLED_SIGN: Final = re.compile(r"\r?\n[ \t]*|\s*@\s*|\s+(?:at|AT)\s+|\s*\.\s*|\s+(?:dot|DOT)\s+")


def _sign(match: re.Match[str]) -> tuple[Piece, ...]:
    mark = match[0].strip().lower()
    return (({"at": "@", "dot": "."}.get(mark, mark), len(match[0])),)


def view(text: str) -> Sequence[Reading]:
    """The readings of what was pulled apart."""
    found: list[Reading] = []
    raw = text.encode("latin-1", "replace")
    if len(raw.translate(None, _DIGIT_TABLE)) >= _LEAST_DIGITS:
        found += _odd_numbers(text, raw)
    if "<" in text and _TAG_WITHIN.search(text):
        found += replaced(_TAG, text, _nothing)
    if b"qpq" in raw.translate(_QUOTES, b" \t\r\n"):
        found += replaced(_CONCATENATION, text, _nothing, CHECKED)
    if _ALTERNATING in raw.translate(_SINGLES):
        found += _letters(text)
    if "@" in text or " dot " in text or " DOT " in text:
        found += _addresses(text)
    found += _spelled(text)
    return found


VIEW: Final = view
