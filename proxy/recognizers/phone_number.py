"""Phone numbers: a cheap shape first, the numbering plans of phonenumbers (libphonenumber) on candidates only.

A bare run of 9 to 15 digits is an order number, an epoch or an id far more often than a phone number, so it counts
only after `+` or with a context word.
"""

import re
from collections.abc import Iterator
from typing import Final

from proxy.model import Finding
from proxy.recognizers.base import LIKELY, POSSIBLE, WITH_CONTEXT_ONLY, Recognizer, has_digit, near

_SEPARATOR: Final = r"[ \t\u00a0.\-\u2010-\u2015/()]"
_CANDIDATE: Final = re.compile(
    rf"(?<![\w.\-/:=&%#$£€@])(?:\+|00)?[ ]?\(?[0-9](?:{_SEPARATOR}{{0,3}}[0-9]){{5,16}}(?![0-9])"
    r"(?:[ ]?(?:x|ext\.?|extension|#)[ ]?[0-9]{1,6})?(?![\w%]|[.,:][0-9])"
)
_DATE_OR_TIME: Final = re.compile(
    r"(?:19|20)[0-9]{2}[\-./](?:0?[1-9]|1[0-2])[\-./][0-3]?[0-9](?![0-9])|[0-3]?[0-9][\-./][0-3]?[0-9][\-./](?:19|20)[0-9]{2}(?![0-9])"
)
_DOTTED: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}\Z")
_DECIMAL: Final = re.compile(r"[0-9]+\.[0-9]+\Z")
_YEARS: Final = re.compile(r"(?:19|20)[0-9]{2}\s?[\-\u2013/]\s?(?:19|20)[0-9]{2}\Z")
_NANP: Final = re.compile(r"(?:1[ .\-/]?)?\(?[2-9][0-9]{2}\)?[ .\-/]{0,2}[2-9][0-9]{2}[ .\-/][0-9]{4}(?![0-9])")
_TRUNK_REGIONS: Final = (
    "GB",
    "DE",
    "FR",
    "IN",
    "AU",
    "NL",
    "BE",
    "CH",
    "SE",
    "FI",
    "JP",
    "IT",
    "NZ",
    "ZA",
    "IE",
    "AT",
    "IL",
)
"""Where a national number begins with 0."""
_OPEN_REGIONS: Final = ("US", "ES", "PL", "NO", "DK", "PT", "CZ", "SG", "BR")
_CONTEXT: Final = frozenset(
    {
        "phone",
        "phones",
        "telephone",
        "tel",
        "mobile",
        "cell",
        "cellphone",
        "call",
        "calls",
        "calling",
        "dial",
        "fax",
        "sms",
        "text me",
        "whatsapp",
        "number is",
        "hotline",
        "contact",
        "reach me",
        "telefon",
        "handy",
        "mobil",
        "téléphone",
        "portable",
        "teléfono",
        "móvil",
        "telefono",
        "cellulare",
        "telefone",
        "celular",
        "telefoon",
    }
)


def _real(number: str, regions: tuple[str | None, ...]) -> bool:
    import phonenumbers

    for region in regions:
        try:
            parsed = phonenumbers.parse(number, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(parsed):
            return True
    return False


def _score(candidate: str) -> float:
    """0 when the shape says something else."""
    digits = re.sub(r"[^0-9]", "", candidate)
    international = candidate.startswith(("+", "00"))
    number = re.split(r"(?:x|e|#)", candidate, maxsplit=1)[0].strip()
    others = (_DATE_OR_TIME.match(candidate), _DOTTED.match(number), _DECIMAL.match(number), _YEARS.match(number))
    if any(others) or len(set(digits)) == 1:
        return 0.0
    if international:
        plus = number if number.startswith("+") else "+" + number[2:]
        return LIKELY if _real(plus, (None,)) else _grouped_score(number)
    if number.isdigit():
        return WITH_CONTEXT_ONLY if 7 <= len(number) <= 15 else 0.0
    if _NANP.match(number) and len(digits) >= 10:
        return LIKELY
    if 7 <= len(digits) <= 12 and _real(
        number, _TRUNK_REGIONS if number.lstrip("(").startswith("0") else _OPEN_REGIONS
    ):
        return POSSIBLE if _grouped_score(number) else WITH_CONTEXT_ONLY
    return WITH_CONTEXT_ONLY if 6 <= len(digits) <= 15 else 0.0


def _grouped_score(number: str) -> float:
    """Groups as people write them: at least two, none of a single digit but the first, no decimal points."""
    groups = re.findall(r"[0-9]+", number)
    usual = len(groups) >= 2 and all(2 <= len(group) <= 8 for group in groups[1:])
    return POSSIBLE if usual else 0.0


def _find(text: str) -> Iterator[Finding]:
    for match in _CANDIDATE.finditer(text):
        end = match.end()
        candidate = match[0]
        if candidate.count("(") != candidate.count(")"):
            candidate = candidate.lstrip("(") if candidate.startswith("(") else candidate
        start = match.start() + len(match[0]) - len(candidate)
        start += len(candidate) - len(candidate.lstrip())
        score = _score(candidate.strip())
        if score > WITH_CONTEXT_ONLY or (score and near(text, start, end, _CONTEXT)):
            yield Finding("PHONE_NUMBER", start, end, score, "phone_number")


def _load() -> None:
    _real("+1 415 555 2671", (None,))


RECOGNIZER: Final = Recognizer(
    name="phone_number",
    entities=frozenset({"PHONE_NUMBER"}),
    layer="pattern",
    find=_find,
    trigger=has_digit,
    context=_CONTEXT,
    load=_load,
)
