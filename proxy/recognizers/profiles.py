"""Profiles as data: which entities are looked for, how sure a finding must be, and how a model's output is filtered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from proxy.recognizers.national_id import KINDS
from proxy.recognizers.prose import Floors

STRUCTURED: Final = frozenset({
    "CREDIT_CARD", "IBAN_CODE", "US_SSN", "EMAIL_ADDRESS", "PHONE_NUMBER", "IP_ADDRESS", "SECRET", "PRIVATE_KEY",
    "CRYPTO", "SEED_PHRASE", "DATE_OF_BIRTH", "US_ITIN", "US_PASSPORT", "US_DRIVER_LICENSE", "US_BANK_NUMBER",
    "UK_NHS", "MEDICAL_LICENSE",
}) | frozenset(kind.entity for kind in KINDS)  # fmt: skip
PROSE: Final = frozenset({"PERSON", "LOCATION"})
ON_REQUEST: Final = frozenset({"URL", "DATE_TIME", "NRP", "ORGANIZATION", "MAC_ADDRESS", "AGE", "POSSIBLE_SECRET"})
"""Found only where a policy names them (addresses of the web and of machines also in `paranoid`): on ordinary text
they are mostly noise, and an address is often what the request is about (`image_url`)."""

PLACED: Final = STRUCTURED | PROSE | ON_REQUEST
"""An entity that stands in none of these is a new recogniser's, and is looked for in every profile."""

type ProfileName = Literal["strict", "balanced", "paranoid"]


@dataclass(frozen=True, slots=True)
class Profile:
    """`threshold`: least score that counts, `thresholds`: per entity. `models`: names of the model recognisers that
    look at every text; others only where a rule names what they alone find. `floors`: how sure these must be, by form.
    """

    name: ProfileName
    entities: frozenset[str]
    threshold: float
    models: frozenset[str]
    floors: Floors = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def looks_for(self, entity: str) -> bool:
        """Whether this profile wants an entity that no rule names."""
        return entity in self.entities or entity not in PLACED

    def admits(self, entity: str, score: float) -> bool:
        return score >= self.thresholds.get(entity, self.threshold)


NEVER: Final = 2.0

_USUAL: Final[Floors] = {
    "PERSON": {
        "word": 0.65, "words": 0.5, "lower_word": 0.9, "lower_words": 0.8, "caps_word": 0.98, "caps_words": 0.8,
        "address": 0.9, "lower_address": NEVER, "number": NEVER, "code": 0.97,
    },
    "LOCATION": {
        "word": 0.5, "words": 0.6, "lower_word": 0.85, "lower_words": 0.8, "caps_word": 0.6, "caps_words": 0.6,
        "address": 0.6, "lower_address": 0.8, "number": 0.72, "code": 0.97,
    },
}  # fmt: skip
_HARD: Final[Floors] = {
    "PERSON": {
        "word": 0.92, "words": 0.7, "lower_word": NEVER, "lower_words": 0.97, "caps_word": NEVER, "caps_words": 0.95,
        "address": NEVER, "lower_address": NEVER, "number": NEVER, "code": NEVER,
    },
    "LOCATION": {
        "word": 0.8, "words": 0.8, "lower_word": 0.98, "lower_words": 0.95, "caps_word": 0.9, "caps_words": 0.8,
        "address": 0.75, "lower_address": 0.95, "number": 0.8, "code": NEVER,
    },
}  # fmt: skip

PROFILES: Final[Mapping[str, Profile]] = {
    "strict": Profile(
        "strict", STRUCTURED | PROSE, 0.5, frozenset({"rampart"}), _HARD,
        {"US_DRIVER_LICENSE": 0.6, "US_BANK_NUMBER": 0.6},
    ),
    "balanced": Profile("balanced", STRUCTURED | PROSE, 0.4, frozenset({"rampart_quick"}), _USUAL),
    "paranoid": Profile(
        "paranoid", STRUCTURED | PROSE | {"URL", "MAC_ADDRESS", "AGE"}, 0.3, frozenset({"rampart_full", "spacy_ner"})
    ),
}  # fmt: skip
