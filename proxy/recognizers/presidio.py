"""Presidio-analyzer's own regex recognisers (MIT): its patterns, checksums and context words.

Nothing here reaches for the network: the recognisers that would (e-mail) have replacements of our own. The open door
for other presidio recognisers is `_custom`; for ours inside presidio, `presidio_api`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from proxy.model import Finding
from proxy.recognizers._hints import Hints
from proxy.recognizers._presidio_in import Patterns
from proxy.recognizers.base import (
    CONTEXT_AFTER_CHARS,
    CONTEXT_BEFORE_CHARS,
    ModelUnavailable,
    Recognizer,
    has_digit,
    near,
)

_LONGEST_CHARS: Final = 64
"""Longer than any value that the patterns of `only_with_context` match."""


@dataclass(frozen=True, slots=True)
class _Bridge:
    """One recogniser of presidio's. `context` replaces its words where these are too common ("save", "us");
    `only_with_context`: no finding without one of them."""

    class_name: str
    entity: str
    context: frozenset[str]
    only_with_context: bool = False


_BRIDGES: Final = (
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
def patterns_of(class_name: str) -> Patterns:
    """The patterns of one of presidio's classes; raises ModelUnavailable when presidio lacks it."""
    try:
        from presidio_analyzer import predefined_recognizers

        recognizer = getattr(predefined_recognizers, class_name)()
    except (ImportError, AttributeError) as error:
        raise ModelUnavailable(
            f"presidio-analyzer lacks {class_name}", "install the locked requirements again"
        ) from error
    return Patterns(recognizer)


def _bounded(text: str, start: int, end: int) -> bool:
    """Not a piece of a longer word: some patterns have no word boundary and fire inside hashes."""
    return not (text[start - 1 : start].isalnum() and start) and not text[end : end + 1].isalnum()


def _finder(bridge: _Bridge) -> Callable[[str], Iterator[Finding]]:
    name = f"presidio:{bridge.class_name}"
    hints = Hints([sorted(bridge.context)])

    def find(text: str) -> Iterator[Finding]:
        patterns = patterns_of(bridge.class_name)
        for first, last in _stretches(text, bridge, hints):
            for start, end, score in patterns.matches(text, first, last):
                supported = not bridge.only_with_context or near(text, start, end, bridge.context)
                if supported and _bounded(text, start, end):
                    yield Finding(bridge.entity, start, end, score, name)

    return find


def _stretches(text: str, bridge: _Bridge, hints: Hints) -> Iterator[tuple[int, int]]:
    """Where to look: everywhere, or only around context words where nothing counts without one."""
    if not bridge.only_with_context:
        yield 0, len(text)
        return
    before, after = CONTEXT_AFTER_CHARS + _LONGEST_CHARS, CONTEXT_BEFORE_CHARS + 2 * _LONGEST_CHARS
    for _, stretches in hints.stretches(text, before, after):
        yield from stretches


def _loader(class_name: str) -> Callable[[], None]:
    def load() -> None:
        patterns_of(class_name)

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
