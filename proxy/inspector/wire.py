"""The protocol between workers and inspectors, sans-io: length-prefixed frames of a JSON header and raw attachments.

Frame: two big-endian 32-bit lengths (header, attachments), the header (a JSON object; `att` lists the attachments'
lengths), the attachments. Both sides are of one installation and one version; `VERSION` is checked in the greeting.

| frame | from | header |
|---|---|---|
| `hello` | server | `version`, `engine`: digest of the code and models that judge |
| `policy` | client | `digest`, the policy; before the first job that needs it; `key_ids`, attachments: keys |
| `job` | client | `id`, `policy`, `deadline_ms`, the job; attachments: placeholder key, body |
| `cancel` | client | `id` |
| `ping` / `pong` | both | |
| `done` | server | `id`, `keep`, the verdict; attachment: body if changed |
| `error` | server | `id`, `why`: `policy` (send it again), `busy`, `late`, `failed` |
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.config.snapshot import DlpDictionary, DlpExactMatch, DlpException, DlpPattern, DlpPolicy, DlpRule
from proxy.model import Finding, Headers, Inspection, InspectJob

VERSION: Final = 2
MAX_HEADER_BYTES: Final = 16 << 20
MAX_ATTACHMENTS_BYTES: Final = 256 << 20
"""A frame beyond these is nonsense: bodies are limited to far less by `limits.max_body`."""
LARGE_BYTES: Final = 64 << 10
"""A body above this has a queue of its own, and is waited for where a small one is asked again elsewhere."""

_LENGTHS: Final = struct.Struct(">II")


class WireError(Exception):
    """The other side sent something that is no frame. The message holds no payload."""


@dataclass(frozen=True, slots=True)
class Frame:
    header: Mapping[str, Any]
    attachments: tuple[bytes, ...]

    @property
    def kind(self) -> str:
        return str(self.header.get("t"))


def encode(header: Mapping[str, Any], *attachments: bytes) -> list[bytes]:
    """Buffers to write in order. Raises WireError when the frame would be over the limits."""
    head = _dumps({**header, "att": [len(part) for part in attachments]})
    total = sum(map(len, attachments))
    if len(head) > MAX_HEADER_BYTES or total > MAX_ATTACHMENTS_BYTES:
        raise WireError("the frame is over the limit")
    return [_LENGTHS.pack(len(head), total), head, *attachments]


class Decoder:
    """Cuts a byte stream into frames. Any chunking gives the same frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Complete frames so far. Raises WireError on nonsense; the decoder is then of no more use."""
        self._buffer += data
        while len(self._buffer) >= _LENGTHS.size:
            head_bytes, total = _LENGTHS.unpack_from(self._buffer)
            if head_bytes > MAX_HEADER_BYTES or total > MAX_ATTACHMENTS_BYTES:
                raise WireError("a frame's length is over the limit")
            end = _LENGTHS.size + head_bytes + total
            if len(self._buffer) < end:
                return
            with memoryview(self._buffer) as view:
                frame = _frame(view[_LENGTHS.size : end], head_bytes, total)
            del self._buffer[:end]
            yield frame


def _frame(data: memoryview, head_bytes: int, total: int) -> Frame:
    header = _loads(bytes(data[:head_bytes]))
    sizes = header.get("att") if isinstance(header, dict) else None
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes) or sum(sizes) != total:
        raise WireError("a frame's header is malformed")
    parts = []
    position = head_bytes
    for size in sizes:
        parts.append(bytes(data[position : position + size]))
        position += size
    return Frame(header, tuple(parts))


def _dumps(value: Mapping[str, Any]) -> bytes:
    """JSON texts may hold lone surrogates: orjson refuses them, the standard library escapes them."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value).encode("ascii")


def _loads(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WireError("a frame's header is no JSON") from error


# -- values


def policy_fields(dlp: DlpPolicy) -> dict[str, Any]:
    """The policy as JSON values; equal content gives equal values."""
    return {
        "profile": dlp.profile, "rules": [_rule_fields(rule) for rule in dlp.rules], "otherwise": dlp.otherwise,
        "exceptions": [
            [item.entity, sorted(item.values), item.json_path, item.expires_at_s, item.at] for item in dlp.exceptions
        ],
        "uninspectable": dict(sorted(dlp.uninspectable.items())),
        "response_rules": [_rule_fields(rule) for rule in dlp.response_rules], "mode": dlp.mode, "digest": dlp.digest,
        "dictionaries": [[d.entity, d.words, d.case_sensitive, d.whole_words, d.at] for d in dlp.dictionaries],
        "patterns": [[p.entity, p.regex, sorted(p.context), p.at] for p in dlp.patterns],
        "exact_match": [
            [e.id, e.entity, e.index, e.columns, sorted(e.of), e.within_tokens, e.at_least, e.at]
            for e in dlp.exact_match
        ],
    }  # fmt: skip


def policy_from(fields: Mapping[str, Any]) -> DlpPolicy:
    """Raises KeyError, TypeError or ValueError when a field is missing or of another shape."""
    return DlpPolicy(
        profile=fields["profile"],
        rules=tuple(map(_rule_from, fields["rules"])),
        otherwise=fields["otherwise"],
        exceptions=tuple(
            DlpException(entity, frozenset(values), path, expires, at)
            for entity, values, path, expires, at in fields["exceptions"]
        ),
        uninspectable=dict(fields["uninspectable"]),
        response_rules=tuple(map(_rule_from, fields["response_rules"])),
        mode=fields["mode"],
        digest=fields["digest"],
        dictionaries=tuple(
            DlpDictionary(entity, tuple(words), case, whole, at)
            for entity, words, case, whole, at in fields["dictionaries"]
        ),
        patterns=tuple(
            DlpPattern(entity, regex, frozenset(context), at) for entity, regex, context, at in fields["patterns"]
        ),
        exact_match=tuple(
            DlpExactMatch(name, entity, index, columns, frozenset(of), within, least, at)
            for name, entity, index, columns, of, within, least, at in fields["exact_match"]
        ),
    )


def _rule_fields(rule: DlpRule) -> list[Any]:
    return [sorted(rule.entities), rule.action, rule.at_least, rule.mode, rule.at, sorted(rule.tiers)]


def _rule_from(fields: Sequence[Any]) -> DlpRule:
    entities, action, at_least, mode, at, tiers = fields
    return DlpRule(frozenset(entities), action, at_least, mode, at, frozenset(tiers))


def job_fields(job: InspectJob) -> dict[str, Any]:
    """All of the job but its policy, body and key."""
    return {
        "app": job.app, "method": job.method, "target": job.target, "headers": _pairs(job.headers),
        "provider": job.provider, "skip_headers": sorted(job.skip_headers), "direction": job.direction,
        "trailers": _pairs(job.trailers), "tier": job.tier,
    }  # fmt: skip


def job_from(frame: Frame, dlp: DlpPolicy) -> InspectJob:
    """Raises KeyError, TypeError or ValueError when the frame is no job."""
    fields = frame.header
    key, body = frame.attachments
    return InspectJob(
        app=fields["app"],
        dlp=dlp,
        method=fields["method"],
        target=fields["target"],
        headers=_headers(fields["headers"]),
        body=body,
        placeholder_key=key,
        provider=fields["provider"],
        skip_headers=frozenset(fields["skip_headers"]),
        direction=fields["direction"],
        trailers=_headers(fields["trailers"]),
        tier=fields["tier"],
    )


def verdict_frame(job_id: int, verdict: Inspection, *, keep: bool) -> list[bytes]:
    """`keep`: the same job gives the same verdict again, so the client may remember it."""
    return encode(
        {
            "t": "done", "id": job_id, "keep": keep, "action": verdict.action,
            "findings": [_finding_fields(finding) for finding in verdict.findings], "code": verdict.code,
            "detail": verdict.detail, "where": verdict.where, "target": verdict.target,
            "headers": None if verdict.headers is None else _pairs(verdict.headers), "restore": dict(verdict.restore),
            "inspected": verdict.inspected, "would_block": verdict.would_block, "remedy": verdict.remedy,
        },
        *(() if verdict.body is None else (verdict.body,)),
    )  # fmt: skip


def verdict_from(frame: Frame) -> Inspection:
    """Raises KeyError, TypeError or ValueError when the frame is no verdict."""
    fields = frame.header
    if fields["action"] not in {"allow", "transform", "block"}:
        raise ValueError("unknown action")
    return Inspection(
        action=fields["action"],
        findings=tuple(Finding(*item) for item in fields["findings"]),
        code=fields["code"],
        detail=fields["detail"],
        where=fields["where"],
        target=fields["target"],
        headers=None if fields["headers"] is None else _headers(fields["headers"]),
        body=frame.attachments[0] if frame.attachments else None,
        restore=fields["restore"],
        inspected=fields["inspected"],
        would_block=fields["would_block"],
        remedy=fields["remedy"],
    )


def _finding_fields(finding: Finding) -> list[Any]:
    return [
        finding.entity, finding.start, finding.end, finding.score, finding.recognizer, finding.location,
        finding.action, finding.mode,
    ]  # fmt: skip


def _pairs(headers: Headers) -> list[list[str]]:
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]


def _headers(pairs: Sequence[Sequence[str]]) -> Headers:
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs)
