"""How many of the encoded request bodies are fully seen: every value that a body carries is found, or the body is
refused because it cannot be read (`encoding`, `too_large`), so that nothing of it leaves.

A refusal by kind of media (`uninspectable`) does not count: nobody looked.
"""

import base64
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from proxy.config.snapshot import DlpPolicy
from proxy.inspection import Detector, inspect
from proxy.model import Inspection, InspectJob

ENTITIES: Final = {"card": "CREDIT_CARD", "ssn": "US_SSN", "email": "EMAIL_ADDRESS", "iban": "IBAN_CODE"}
_CARRIES: Final = {
    "split across messages": ("card",),
    "float / exponent JSON number": ("card",),
    "words": ("card",),
    "array of chars/fields": ("card", "ssn", "email"),
    "markdown emphasis inside": ("card", "ssn", "email"),
}
"""By name of the case; all others carry the whole sentence."""

_POLICY: Final = DlpPolicy(
    "balanced",
    (),
    "block",
    (),
    uninspectable=dict.fromkeys(("image", "audio", "pdf", "zip", "encrypted", "unknown"), "allow"),
)


def evasion_seen(path: Path, engine: Detector | None = None) -> tuple[int, int, list[str]]:
    """(bodies fully seen, bodies, ids of the others) of a file like `evasion_cases.json`."""
    if engine is None:
        from proxy.recognizers.engine import Engine

        engine = Engine.load()
    data = json.loads(path.read_text())
    missing = [case["id"] for case in data["cases"] if missing_values(case, data, engine)]
    return len(data["cases"]) - len(missing), len(data["cases"]), missing


def missing_values(case: Mapping[str, Any], data: Mapping[str, Any], engine: Detector) -> list[str]:
    """The kinds of values (`card`, `ssn`, `email`, `iban`) of one body that were not found."""
    verdict = inspect(_job(case, data), engine, now_s=time.time())
    if verdict.code in ("encoding", "too_large"):
        return []
    found = {finding.entity for finding in verdict.findings}
    carried = _CARRIES.get(case["name"], tuple(ENTITIES))
    return [kind for kind in carried if ENTITIES[kind] not in found]


def verdict_on(case: Mapping[str, Any], data: Mapping[str, Any], engine: Detector) -> Inspection:
    """The inspection of one case, for a look at what was found where."""
    return inspect(_job(case, data), engine, now_s=time.time())


def _job(case: Mapping[str, Any], data: Mapping[str, Any]) -> InspectJob:
    headers = [(b"Content-Type", str(case["content_type"]).encode())]
    if case["content_encoding"]:
        headers.append((b"Content-Encoding", str(case["content_encoding"]).encode()))
    return InspectJob(
        app="bench",
        dlp=_POLICY,
        method="POST",
        target="/v1/chat/completions",
        headers=tuple(headers),
        body=body_of(case, data),
        placeholder_key=b"k" * 32,
    )


def body_of(case: Mapping[str, Any], data: Mapping[str, Any]) -> bytes:
    """The bytes of a case; the long one is described in words, to keep the file short."""
    if case["body_b64"] is not None:
        return base64.b64decode(case["body_b64"])
    filler = re.search(r'"([^"]+)" x (\d+)', case["note"])
    if filler is None:
        raise ValueError(f"case {case['id']} has neither a body nor a note that says how to make it")
    text = filler[1] * int(filler[2]) + data["sentence"]
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
