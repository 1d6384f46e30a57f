"""Payment card numbers: issuer prefix, length and Luhn (ISO/IEC 7812-1), with the separators people type."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from proxy.model import Finding
from proxy.recognizers.base import SURE, WITH_CONTEXT_ONLY, Recognizer, digit_runs, has_digit, luhn

_ISSUERS: Final[tuple[tuple[int, int, frozenset[int]], ...]] = (
    # first prefix, last prefix, lengths; from the issuers' published BIN ranges
    (4, 4, frozenset({13, 16, 19})),  # Visa
    (51, 55, frozenset({16})),  # Mastercard
    (2221, 2720, frozenset({16})),  # Mastercard since 2017
    (34, 34, frozenset({15})),  # American Express
    (37, 37, frozenset({15})),
    (6011, 6011, frozenset({16, 19})),  # Discover
    (622126, 622925, frozenset({16, 19})),
    (644, 649, frozenset({16, 19})),
    (65, 65, frozenset({16, 19})),
    (300, 305, frozenset({14, 16, 19})),  # Diners Club
    (3095, 3095, frozenset({14, 16, 19})),
    (36, 36, frozenset({14, 16, 19})),
    (38, 39, frozenset({14, 16, 19})),
    (3528, 3589, frozenset({16, 19})),  # JCB
    (2131, 2131, frozenset({15})),
    (1800, 1800, frozenset({15})),
    (62, 62, frozenset({16, 17, 18, 19})),  # UnionPay
    (8100, 8171, frozenset({16, 17, 18, 19})),
    (2200, 2204, frozenset({16, 17, 18, 19})),  # Mir
    (508500, 508999, frozenset({16})),  # RuPay
    (606985, 608500, frozenset({16})),
    (5018, 5018, frozenset(range(12, 20))),  # Maestro
    (5020, 5020, frozenset(range(12, 20))),
    (5038, 5038, frozenset(range(12, 20))),
    (5893, 5893, frozenset(range(12, 20))),
    (6304, 6304, frozenset(range(12, 20))),
    (6759, 6759, frozenset(range(12, 20))),
    (6761, 6763, frozenset(range(12, 20))),
    (5019, 5019, frozenset({16})),  # Dankort
    (6333, 6333, frozenset({16})),  # Laser, Solo and Switch, long gone but still in archives
    (6767, 6767, frozenset({16, 18, 19})),
)
_BY_PREFIX: Final[dict[str, frozenset[int]]] = {}
for _first, _last, _lengths in _ISSUERS:
    for _prefix in map(str, range(_first, _last + 1)):
        _BY_PREFIX[_prefix] = _BY_PREFIX.get(_prefix, frozenset()) | _lengths
_PREFIX_SIZES: Final = sorted({len(prefix) for prefix in _BY_PREFIX})

# Up to five separators: "4111 - 1111", "4111\n1111", "**4111** **1111**". Letters or a decimal point before mean an
# identifier or a fraction. The pattern is deterministic, so it is linear.
_RUN: Final = re.compile(
    r"(?<![0-9A-Za-z_])(?<![0-9][.,])[0-9]+(?:[\s.\-\u2010-\u2015/_|*`~,:]{1,5}[0-9]+)*(?![A-Za-z0-9_])"
)
_GROUP: Final = re.compile(r"[0-9]+")
_MIN_DIGITS: Final = 12
_MAX_DIGITS: Final = 19
_MAX_PREFIX_DIGITS: Final = 6


def lengths_of(digits: str) -> frozenset[int]:
    """Lengths of the card numbers that an issuer gives out under these first digits."""
    found = (_BY_PREFIX.get(digits[:size], frozenset()) for size in _PREFIX_SIZES)
    return frozenset[int]().union(*found)


def issued(digits: str) -> bool:
    """True when an issuer gives out numbers of this prefix and length."""
    return len(digits) in lengths_of(digits)


def _usual(sizes: tuple[int, ...]) -> bool:
    """Groups as printed on cards (4-4-4-4, 4-6-5, 4-6-4), one run, digit by digit, or equal groups."""
    if len(sizes) == 1 or sizes in {(4, 6, 5), (4, 6, 4), (4, 4, 5), (6, 13), (4, 5, 6)}:
        return True
    return len(set(sizes[:-1])) == 1 and sizes[-1] <= sizes[0] and (sizes[0] >= 4 or sum(sizes) == len(sizes))


def _is_fraction(text: str, start: int, sizes: tuple[int, ...]) -> bool:
    """One run of digits right after `0.` or `12,`."""
    return len(sizes) == 1 and start > 1 and text[start - 1] in ".," and text[start - 2].isdigit()


def _find(text: str) -> Iterator[Finding]:
    for run in (run for start, end in digit_runs(text) for run in _RUN.finditer(text, start, end)):
        if run.end() - run.start() < _MIN_DIGITS:
            continue
        groups = [group.span() for group in _GROUP.finditer(text, run.start(), run.end())]
        taken = 0
        for start, end, sizes in _numbers(text, groups):
            if start < taken or _is_fraction(text, start, sizes):
                continue
            usual = _usual(sizes)
            taken = end if usual else taken
            yield Finding("CREDIT_CARD", start, end, SURE if usual else WITH_CONTEXT_ONLY, "credit_card")


def _numbers(text: str, groups: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """(start, end, group sizes) of whole groups that make a valid number, longest first per start."""
    digits = "".join(text[start:end] for start, end in groups)
    sizes = [end - start for start, end in groups]
    offset = 0
    for first, size in enumerate(sizes):
        lengths = lengths_of(digits[offset : offset + _MAX_PREFIX_DIGITS])
        found = []
        total = 0
        for last in range(first, len(sizes)) if lengths else ():
            total += sizes[last]
            if total > _MAX_DIGITS:
                break
            if total in lengths and luhn(digits[offset : offset + total]):
                found.append((groups[first][0], groups[last][1], tuple(sizes[first : last + 1])))
        yield from reversed(found)
        offset += size


RECOGNIZER: Final = Recognizer(
    name="credit_card",
    entities=frozenset({"CREDIT_CARD"}),
    layer="checksum",
    find=_find,
    trigger=has_digit,
    context=frozenset(
        {
            "card",
            "credit",
            "debit",
            "visa",
            "mastercard",
            "amex",
            "american express",
            "discover",
            "diners",
            "jcb",
            "maestro",
            "unionpay",
            "cc",
            "pan",
            "cvv",
            "cvc",
            "karte",
            "kreditkarte",
            "carte",
            "tarjeta",
            "carta",
            "cartão",
        }
    ),
)
