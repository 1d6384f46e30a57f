"""Bridge to presidio-analyzer's own regex recognisers (MIT): its patterns, checksums and context words.

The patterns are run here rather than by `PatternRecognizer.analyze`, which logs a time-out and goes on without the
finding; here a time-out is RecognizerFailed. Nothing here reaches for the network: the recognisers that would (e-mail)
have replacements of our own.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from proxy.model import Finding
from proxy.recognizers.base import ModelUnavailable, Recognizer, RecognizerFailed, has_digit, near

TIMEOUT_S: Final = 1.0
_FLAGS: Final = re.DOTALL | re.MULTILINE | re.IGNORECASE
"""Presidio's default `global_regex_flags`."""


@dataclass(frozen=True, slots=True)
class _Bridge:
    """One recogniser of presidio's. `context` replaces its words where these are too common ("save", "us");
    `only_with_context`: no finding without one of them."""

    class_name: str
    entity: str
    context: frozenset[str]
    only_with_context: bool = False


_BRIDGES: Final = (
    _Bridge("CryptoRecognizer", "CRYPTO", frozenset({"wallet", "btc", "bitcoin", "crypto"})),
    _Bridge("MedicalLicenseRecognizer", "MEDICAL_LICENSE", frozenset({"dea", "medical", "prescriber"}), True),
    _Bridge("UsItinRecognizer", "US_ITIN", frozenset({"itin", "taxpayer", "individual", "tax id", "taxid", "tin"})),
    _Bridge("UsPassportRecognizer", "US_PASSPORT", frozenset({"passport", "passports", "travel document"}), True),
    _Bridge(
        "UsLicenseRecognizer", "US_DRIVER_LICENSE",
        frozenset({"driver", "drivers", "driving", "dl", "dmv", "driver's", "license", "licence", "permit"}), True,
    ),
    _Bridge(
        "UsBankRecognizer", "US_BANK_NUMBER",
        frozenset({"bank account", "account number", "account no", "acct", "account #", "checking", "savings",
                   "routing", "bank", "aba"}), True,
    ),
    _Bridge("NhsRecognizer", "UK_NHS", frozenset({"nhs", "national health service", "health authority"}), True),
    _Bridge("MacAddressRecognizer", "MAC_ADDRESS", frozenset({"mac", "ethernet", "hardware address"})),
)  # fmt: skip


@cache
def _loaded(class_name: str) -> tuple[Any, tuple[tuple[Any, float], ...]]:
    """The recogniser and its (compiled pattern, score) pairs."""
    import regex

    try:
        from presidio_analyzer import predefined_recognizers

        recognizer = getattr(predefined_recognizers, class_name)()
    except (ImportError, AttributeError) as error:
        raise ModelUnavailable(
            f"presidio-analyzer lacks {class_name}", "install the locked requirements again"
        ) from error
    return recognizer, tuple((regex.compile(item.regex, flags=_FLAGS), item.score) for item in recognizer.patterns)


def _matches(bridge: _Bridge, text: str) -> Iterator[tuple[int, int, float]]:
    recognizer, patterns = _loaded(bridge.class_name)
    for pattern, base_score in patterns:
        try:
            for match in pattern.finditer(text, timeout=TIMEOUT_S):
                score = _checked(recognizer, match[0], base_score)
                if score > 0:
                    yield match.start(), match.end(), score
        except TimeoutError as error:
            raise RecognizerFailed(f"{bridge.class_name} ran out of time") from error


def _checked(recognizer: Any, value: str, score: float) -> float:
    """Presidio's rule: a passed check gives 1, a failed one or an invalidated value 0."""
    if not value or recognizer.invalidate_result(value):
        return 0.0
    passed = recognizer.validate_result(value)
    return score if passed is None else float(passed)


def _bounded(text: str, start: int, end: int) -> bool:
    """Not a piece of a longer word: some patterns have no word boundary and fire inside hashes."""
    return not (text[start - 1 : start].isalnum() and start) and not text[end : end + 1].isalnum()


def _finder(bridge: _Bridge) -> Callable[[str], Iterator[Finding]]:
    name = f"presidio:{bridge.class_name}"

    def find(text: str) -> Iterator[Finding]:
        for start, end, score in _matches(bridge, text):
            supported = not bridge.only_with_context or near(text, start, end, bridge.context)
            if supported and _bounded(text, start, end):
                yield Finding(bridge.entity, start, end, score, name)

    return find


def _loader(class_name: str) -> Callable[[], None]:
    def load() -> None:
        _loaded(class_name)

    return load


RECOGNIZERS: Final = tuple(
    Recognizer(
        name=f"presidio:{bridge.class_name}",
        entities=frozenset({bridge.entity}),
        layer="pattern",
        find=_finder(bridge),
        trigger=has_digit,
        context=bridge.context,
        load=_loader(bridge.class_name),
    )
    for bridge in _BRIDGES
)
