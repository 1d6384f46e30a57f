"""Profiles as data: which entities are looked for, how sure a finding must be, and how a model's output is filtered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

STRUCTURED: Final = frozenset({
    "CREDIT_CARD", "IBAN_CODE", "US_SSN", "EMAIL_ADDRESS", "PHONE_NUMBER", "IP_ADDRESS", "SECRET", "PRIVATE_KEY",
    "CRYPTO", "US_ITIN", "US_PASSPORT", "US_DRIVER_LICENSE", "US_BANK_NUMBER", "UK_NHS", "MEDICAL_LICENSE",
})  # fmt: skip
PROSE: Final = frozenset({"PERSON", "LOCATION"})
ON_REQUEST: Final = frozenset({"URL", "DATE_TIME", "NRP", "ORGANIZATION", "MAC_ADDRESS"})
"""Found only where a policy names them (addresses of the web and of machines also in `paranoid`): on ordinary text
they are mostly noise, and an address is often what the request is about (`image_url`)."""

type ProfileName = Literal["strict", "balanced", "paranoid"]


@dataclass(frozen=True, slots=True)
class Profile:
    """`threshold`: least score that counts, `thresholds`: per entity. `prose_filter`: how hard model hits are doubted:
    `none` takes all, `usual` drops those that touch code, `hard` also single words and shouting."""

    name: ProfileName
    entities: frozenset[str]
    threshold: float
    prose_filter: Literal["none", "usual", "hard"]
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def admits(self, entity: str, score: float) -> bool:
        return score >= self.thresholds.get(entity, self.threshold)


PROFILES: Final[Mapping[str, Profile]] = {
    "strict": Profile("strict", STRUCTURED | PROSE, 0.5, "hard", {"US_DRIVER_LICENSE": 0.6, "US_BANK_NUMBER": 0.6}),
    "balanced": Profile("balanced", STRUCTURED | PROSE, 0.4, "usual"),
    "paranoid": Profile("paranoid", STRUCTURED | PROSE | {"URL", "MAC_ADDRESS"}, 0.3, "none"),
}
