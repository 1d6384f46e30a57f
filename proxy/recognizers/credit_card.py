"""Payment card numbers: issuer prefix, length and Luhn (ISO/IEC 7812-1), with the separators people type."""

import re
from collections.abc import Iterator
from typing import Final

from proxy.model import Finding
from proxy.recognizers.base import SURE, WITH_CONTEXT_ONLY, DigitRun, Recognizer, has_digit, luhn

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
_BY_DIGITS: Final[dict[int, dict[int, frozenset[int]]]] = {}
for _first, _last, _lengths in _ISSUERS:
    _table = _BY_DIGITS.setdefault(len(str(_first)), {})
    for _prefix in range(_first, _last + 1):
        _table[_prefix] = _table.get(_prefix, frozenset()) | _lengths

# Up to five separators: "4111 - 1111", "4111\n1111", "**4111** **1111**". Letters or a decimal point before mean an
# identifier or a fraction. The pattern is deterministic, so it is linear.
_RUN: Final = re.compile(
    r"(?<![0-9A-Za-z_])(?<![0-9][.,])[0-9]+(?:[\s.\-\u2010-\u2015/_|*`~,:]{1,5}[0-9]+)*(?![A-Za-z0-9_])"
)
_GROUP: Final = re.compile(r"[0-9]+")
_MIN_DIGITS: Final = 12
_MAX_DIGITS: Final = 19


def issued(digits: str) -> bool:
    """True when an issuer gives out numbers of this prefix and length."""
    return any(len(digits) in table.get(int(digits[:size]), ()) for size, table in _BY_DIGITS.items())


def _usual(sizes: tuple[int, ...]) -> bool:
    """Groups as printed on cards (4-4-4-4, 4-6-5, 4-6-4), one run, digit by digit, or equal groups."""
    if len(sizes) == 1 or sizes in {(4, 6, 5), (4, 6, 4), (4, 4, 5), (6, 13), (4, 5, 6)}:
        return True
    return len(set(sizes[:-1])) == 1 and sizes[-1] <= sizes[0] and (sizes[0] >= 4 or sum(sizes) == len(sizes))


def _is_fraction(text: str, start: int, sizes: tuple[int, ...]) -> bool:
    """One run of digits right after `0.` or `12,`."""
    return len(sizes) == 1 and start > 1 and text[start - 1] in ".," and text[start - 2].isdigit()


def _find(text: str) -> Iterator[Finding]:
    for run in _RUN.finditer(text):
        if run.end() - run.start() < _MIN_DIGITS:
            continue
        groups = tuple(group.span() for group in _GROUP.finditer(text, run.start(), run.end()))
        taken = 0
        for start, end, digits, sizes in DigitRun(groups).windows(text, _MIN_DIGITS, _MAX_DIGITS):
            if start < taken or not issued(digits) or not luhn(digits) or _is_fraction(text, start, sizes):
                continue
            usual = _usual(sizes)
            taken = end if usual else taken
            yield Finding("CREDIT_CARD", start, end, SURE if usual else WITH_CONTEXT_ONLY, "credit_card")


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
