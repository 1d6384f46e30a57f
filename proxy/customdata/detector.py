"""A detector that also finds what one policy knows: its dictionaries, its patterns, and rows of indexed tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.config.snapshot import DlpPolicy
from proxy.customdata import dictionary, match, patterns
from proxy.customdata.index import Index
from proxy.model import Finding
from proxy.recognizers.base import SURE


class Detector(Protocol):
    """As `proxy.inspection.Detector`."""

    def detect(
        self, texts: Sequence[str], profile: str, entities: frozenset[str] | None = None
    ) -> Sequence[Sequence[Finding]]: ...


@dataclass(frozen=True, slots=True)
class CustomDetector:
    """`inner` finds what every policy may look for. `index_of`: digest -> index; raises Denied when there is none, so
    that nothing leaves unseen."""

    inner: Detector
    dlp: DlpPolicy
    index_of: Callable[[str], Index]

    def detect(
        self, texts: Sequence[str], profile: str, entities: frozenset[str] | None = None
    ) -> list[Sequence[Finding]]:
        """What `inner` finds and, overlaps allowed, words and patterns of the policy."""
        found = self.inner.detect(texts, profile, entities)
        if not (self.dlp.dictionaries or self.dlp.patterns):
            return list(found)
        return [[*findings, *self._own(text)] for text, findings in zip(texts, found, strict=True)]

    def _own(self, text: str) -> list[Finding]:
        out = [finding for one in self.dlp.dictionaries for finding in dictionary.find(one, text)]
        for pattern in self.dlp.patterns:
            out += patterns.find(pattern, text)
        return out

    def across(self, texts: Sequence[tuple[int, str]]) -> list[list[Finding]]:
        """Findings of what only the whole message shows. `texts`: (leaf, text) in the message's order; a leaf may have
        several readings."""
        out: list[list[Finding]] = [[] for _ in texts]
        seen: dict[str, match.Occurrences] = {}
        for rule in self.dlp.exact_match:
            index = self.index_of(rule.index)
            if rule.index not in seen:
                seen[rule.index] = match.occurrences(index, texts)
            for place in match.matches(index, rule, seen[rule.index]):
                out[place.text].append(Finding(rule.entity, place.start, place.end, SURE, f"exact_match:{rule.id}"))
        return out


def with_custom_data(inner: Detector, dlp: DlpPolicy, index_of: Callable[[str], Index]) -> Detector:
    """`inner`, or it and the policy's own data when it has any."""
    return CustomDetector(inner, dlp, index_of) if dlp.has_custom_data else inner
