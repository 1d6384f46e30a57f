"""Our engine in presidio's place, and our recognisers inside presidio.

from proxy.recognizers.presidio_api import EgressAnalyzerEngine, recognizers

EgressAnalyzerEngine().analyze(text, language="en")            # a drop-in for presidio's AnalyzerEngine
for one in recognizers(): registry.add_recognizer(one)         # ours, one by one, in a registry of yours
"""

from collections.abc import Sequence
from typing import Any

import regex
from presidio_analyzer import AnalyzerEngine, EntityRecognizer, RecognizerResult

from proxy.model import Finding
from proxy.recognizers import discover
from proxy.recognizers.base import Recognizer
from proxy.recognizers.engine import Engine


def _result(finding: Finding) -> RecognizerResult:
    return RecognizerResult(
        entity_type=finding.entity,
        start=finding.start,
        end=finding.end,
        score=finding.score,
        recognition_metadata={
            RecognizerResult.RECOGNIZER_NAME_KEY: finding.recognizer,
            RecognizerResult.RECOGNIZER_IDENTIFIER_KEY: finding.recognizer,
        },
    )


class EgressRecognizer(EntityRecognizer):
    """One of our recognisers as one of presidio's. Its results are single findings: no profile, no overlaps settled."""

    def __init__(self, recognizer: Recognizer, supported_language: str = "en") -> None:
        self._recognizer = recognizer
        super().__init__(
            supported_entities=sorted(recognizer.entities),
            name=recognizer.name,
            supported_language=supported_language,
            context=sorted(recognizer.context),
        )

    def load(self) -> None:
        self._recognizer.load()

    def analyze(self, text: str, entities: Sequence[str], nlp_artifacts: Any = None) -> list[RecognizerResult]:  # noqa: ARG002 - presidio's signature
        if not self._recognizer.trigger(text):
            return []
        found = self._recognizer.find(text)
        return [_result(finding) for finding in found if not entities or finding.entity in entities]


def recognizers(supported_language: str = "en") -> list[EgressRecognizer]:
    """All of ours but the bridges to presidio's own, loaded. Of the ways to ask Rampart, that of `balanced`."""
    others = {"rampart", "rampart_full"}
    ours = (item for item in discover() if not item.name.startswith("presidio:") and item.name not in others)
    return [EgressRecognizer(item, supported_language) for item in ours]


class EgressAnalyzerEngine(AnalyzerEngine):
    """Answers `analyze` from our engine; loads no spaCy model of presidio's and no registry."""

    def __init__(
        self, profile: str = "balanced", engine: Engine | None = None, default_score_threshold: float = 0
    ) -> None:
        # Presidio's own __init__ would load a language model that this engine does not use.
        self._engine = engine or Engine.load()
        self._profile = profile
        self.default_score_threshold = default_score_threshold
        self.supported_languages = ["en", "de", "es", "fr", "it", "nl", "pt"]

    def analyze(
        self,
        text: str,
        language: str = "en",  # noqa: ARG002 - one model for all languages
        entities: list[str] | None = None,
        correlation_id: str | None = None,  # noqa: ARG002 - presidio's signature
        score_threshold: float | None = None,
        return_decision_process: bool | None = False,  # noqa: ARG002
        ad_hoc_recognizers: list[EntityRecognizer] | None = None,
        context: list[str] | None = None,  # noqa: ARG002
        allow_list: list[str] | None = None,
        allow_list_match: str | None = "exact",
        regex_flags: int | None = int(regex.I | regex.M | regex.S),
        nlp_artifacts: Any = None,
    ) -> list[RecognizerResult]:
        """As presidio's: results by position, those under the threshold and those on the allow list left out."""
        wanted = frozenset(entities) if entities else None
        found = [_result(item) for item in self._engine.detect([text], self._profile, wanted)[0]]
        for other in ad_hoc_recognizers or ():
            found += other.analyze(text, other.supported_entities, nlp_artifacts) or []
        least = self.default_score_threshold if score_threshold is None else score_threshold
        found = [item for item in found if item.score >= least and (wanted is None or item.entity_type in wanted)]
        if allow_list:
            found = self._remove_allow_list(
                found, allow_list, text, regex_flags=regex_flags, allow_list_match=allow_list_match or "exact"
            )
        return sorted(found, key=lambda item: (item.start, item.end))

    def get_recognizers(self, language: str | None = None) -> list[EntityRecognizer]:
        return list(recognizers(language or "en"))

    def get_supported_entities(self, language: str | None = None) -> list[str]:  # noqa: ARG002 - presidio's signature
        return sorted({entity for item in discover() for entity in item.entities})
