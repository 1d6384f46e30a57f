"""A small honest detector, and short ways to write jobs and policies."""

import re
from collections.abc import Sequence

from proxy.config.snapshot import DlpException, DlpPolicy, DlpRule
from proxy.inspection import inspect
from proxy.model import DlpAction, Finding, Inspection, InspectJob

KEY = b"k" * 32
SSN = "123-45-6789"
CARD = "4111 1111 1111 1111"
MAIL = "jane.roe@example-corp.com"


def _luhn(digits: str) -> bool:
    doubled = (int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(digits)))
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


class RegexDetector:
    """SSNs, card numbers by Luhn, e-mail addresses, IBANs, and one person; keeps what it was shown."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls = 0

    def detect(self, texts: Sequence[str], profile: str, entities: frozenset[str] | None = None) -> list[list[Finding]]:
        self.calls += 1
        self.texts += texts
        for text in texts:
            text.encode("utf-8")  # like the real ones, raises on lone surrogates
        return [list(self._find(text)) for text in texts]

    def _find(self, text: str) -> list[Finding]:
        found = []
        for entity, pattern in PATTERNS.items():
            for match in re.finditer(pattern, text):
                digits = re.sub(r"\D", "", match[0])
                if entity != "CREDIT_CARD" or _luhn(digits):
                    found.append(Finding(entity, match.start(), match.end(), 1.0, "regex"))
        return found


PATTERNS = {
    "US_SSN": r"\b\d{3}-\d{2}-\d{4}\b|(?<=ssn: )\d{9}\b",
    "CREDIT_CARD": r"(?<![\d.])\d(?:[ -]?\d){12,18}(?!\d)",
    "EMAIL_ADDRESS": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "IBAN_CODE": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
    "PERSON": r"\b[Jj]ane(?: [Rr]oe)?\b(?!\.roe@)",
}


def policy(
    *rules: DlpRule,
    otherwise: DlpAction = "block",
    exceptions: tuple[DlpException, ...] = (),
    **more: object,
) -> DlpPolicy:
    return DlpPolicy("balanced", rules, otherwise, exceptions, **more)  # type: ignore[arg-type]


def rule(action: DlpAction, *entities: str, **more: object) -> DlpRule:
    return DlpRule(frozenset(entities), action, **more)  # type: ignore[arg-type]


def run(
    body: bytes = b"",
    content_type: str | None = "application/json",
    *,
    dlp: DlpPolicy | None = None,
    headers: Sequence[tuple[str, str]] = (),
    detector: RegexDetector | None = None,
    now_s: float = 0.0,
    **more: object,
) -> Inspection:
    fields = [(name.encode(), value.encode()) for name, value in headers]
    if content_type is not None:
        fields.append((b"Content-Type", content_type.encode()))
    facts = {"method": "POST", "target": "/v1/chat/completions", **more}
    job = InspectJob(
        app="app",
        dlp=dlp or policy(),
        headers=tuple(fields),
        body=body,
        placeholder_key=KEY,
        **facts,  # type: ignore[arg-type]
    )
    return inspect(job, detector or RegexDetector(), now_s=now_s)
