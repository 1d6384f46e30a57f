"""Format-preserving encryption of numbers: FF1 (NIST SP 800-38G) over digits, check digits made anew.

What stays, by entity: length and separators always; Luhn validity of a card; country and check digits' validity of an
IBAN; the country code of a phone number. Nothing else of the value stays.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fpr_ff1 import FF1

DIGITS: Final = "0123456789"
ALPHANUMERIC: Final = DIGITS + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LEAST_SYMBOLS: Final = {DIGITS: 6, ALPHANUMERIC: 4}
"""SP 800-38G: at least a million different texts (10^6, 36^4), or the cipher is open to trial."""
_MOST_SYMBOLS: Final = 56
_CIPHERS: Final = 4096

_NUMBER: Final = re.compile(r"[0-9](?:[0-9 .()\-_/]*[0-9])?")
_IBAN: Final = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{8,30}")
_KEPT_SEPARATORS: Final = frozenset(" .()-_")

type Cipher = Callable[[bytes, str], str | None]


@lru_cache(maxsize=_CIPHERS)
def _ff1(key: bytes, alphabet: str, tweak: bytes) -> "FF1":
    from fpr_ff1 import FF1, BackendError

    def made(backend: str) -> FF1:
        return FF1(key=key, radix=len(alphabet), alphabet=alphabet, tweak=tweak, backend=backend)

    try:
        return made("rust")  # the same cipher texts at a fifth of the time
    except BackendError:  # a wheel without it
        return made("python")


def _crypt(key: bytes, alphabet: str, tweak: str, symbols: str, *, back: bool) -> str | None:
    if not LEAST_SYMBOLS[alphabet] <= len(symbols) <= _MOST_SYMBOLS:
        return None
    cipher = _ff1(key, alphabet, tweak.encode())
    return cipher.decrypt(symbols) if back else cipher.encrypt(symbols)


def crypt(key: bytes, entity: str, compact: str, *, back: bool = False) -> str | None:
    """The cipher text of a compact value (digits, or an IBAN without separators), or with `back` the plain text of a
    cipher text. None when the value has no format of its entity, or is too short to be encrypted safely."""
    return _FORMATS.get(entity, _digits)(key, entity, compact, back)


def _digits(key: bytes, entity: str, compact: str, back: bool) -> str | None:
    return _crypt(key, DIGITS, entity, compact, back=back) if compact.isdecimal() and compact.isascii() else None


def _card(key: bytes, entity: str, compact: str, back: bool) -> str | None:
    if not _digits_only(compact) or luhn_digit(compact[:-1]) != compact[-1]:
        return None
    body = _crypt(key, DIGITS, entity, compact[:-1], back=back)
    return None if body is None else body + luhn_digit(body)


def _phone(key: bytes, entity: str, compact: str, back: bool) -> str | None:
    """`compact` with `+` is international: its country code stays."""
    if not compact.startswith("+"):
        return _digits(key, entity, compact, back)
    code = country_code(compact[1:])
    rest = compact[1 + len(code) :]
    if not code or not _digits_only(rest):
        return None
    body = _crypt(key, DIGITS, f"{entity}+{code}", rest, back=back)
    return None if body is None else f"+{code}{body}"


def _iban(key: bytes, entity: str, compact: str, back: bool) -> str | None:
    """ISO 13616: country, two check digits, the account. An account of digits stays one of digits."""
    if not _IBAN.fullmatch(compact) or mod97(compact) != 1:
        return None
    country, account = compact[:2], compact[4:]
    alphabet = DIGITS if account.isdecimal() else ALPHANUMERIC
    body = _crypt(key, alphabet, f"{entity}{country}{alphabet[-1]}", account, back=back)
    if body is None or (alphabet == ALPHANUMERIC and body.isdecimal()):
        return None  # would be decrypted as one of digits; one account in ten thousand of the shortest
    return f"{country}{98 - mod97(f'{country}00{body}'):02}{body}"


_FORMATS: Final[Mapping[str, Callable[[bytes, str, str, bool], str | None]]] = {
    "CREDIT_CARD": _card, "PHONE_NUMBER": _phone, "IBAN_CODE": _iban,
}  # fmt: skip


def _digits_only(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def luhn_digit(digits: str) -> str:
    """The check digit that ISO/IEC 7812-1 annex B puts behind `digits`."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 if index % 2 else 2)
        total += value - 9 * (value > 9)
    return str(-total % 10)


def mod97(iban: str) -> int:
    """ISO 7064 MOD 97-10 of an IBAN: 1 for a valid one."""
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97


@lru_cache(maxsize=1024)
def country_code(digits: str) -> str:
    """The ITU E.164 country code that `digits` begin with, or nothing."""
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE

    return next((digits[:n] for n in (1, 2, 3) if int(digits[:n] or 0) in COUNTRY_CODE_TO_REGION_CODE), "")


def compact_of(entity: str, text: str) -> str | None:
    """`text` without separators, or None when it holds more than a number and separators."""
    if entity == "IBAN_CODE":
        return re.sub(r"[ .\-]", "", text).upper()
    plus = "+" if entity == "PHONE_NUMBER" and text.lstrip(" (").startswith("+") else ""
    number = text.lstrip(" (+") if plus else text.strip("( ")
    return plus + re.sub(r"[^0-9]", "", number) if _NUMBER.fullmatch(number) else None


def laid_out(like: str, symbols: str) -> str:
    """`symbols` in the places of the letters and digits of `like`; separators that the writer of an answer may escape
    become spaces."""
    left = iter(symbols)
    out = [next(left, "") if char.isalnum() else char if char in _KEPT_SEPARATORS else " " for char in like]
    return "".join(out).strip(" ._-")
