"""Which reader takes a file or a binary record apart, by its label and by what its bytes say."""

import email
import email.policy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from typing import Final

from proxy.bodies import archives, codings, pdf, records
from proxy.bodies.archives import Budget, UnreadableError
from proxy.bodies.kinds import Kind, is_mail
from proxy.bodies.limits import Limits
from proxy.errors import Denied

__all__ = ("Content", "Found", "UnreadableError", "reader_of", "visible")

_STRETCH: Final = re.compile(rb"[\t\x20-\x7e]{6,}")
_LONG_STRETCH: Final = re.compile(rb"[\t\x20-\x7e]{24,}")
_WIDE_STRETCH: Final = re.compile(rb"(?:[\t\x20-\x7e]\0){6,}")


@dataclass(frozen=True, slots=True)
class Content:
    """A file in a file, with the Content-Type it goes by."""

    data: bytes
    label: str = ""


@dataclass(slots=True)
class Found:
    """`left`: a kind for policy, where something remains that nobody read."""

    texts: list[str] = field(default_factory=list)
    files: list[Content] = field(default_factory=list)
    left: Kind | None = None


type Reader = Callable[[bytes, Limits, Budget], Found]


def reader_of(data: bytes, label: str, seen: Kind) -> Reader | None:
    """The reader for `data`. `label`: its media type; `seen`: what its first bytes say."""
    if seen in _BY_KIND:
        return _tar if archives.is_tar(data) else _BY_KIND[seen]
    if label.startswith("application/grpc"):
        return _grpc
    if label in records.PARSERS:
        return _record(label)
    if label == "message/rfc822" or (seen == "text" and is_mail(data)):
        return _mail
    return _stream if data.startswith((b"BZh", b"\xfd7zXZ\0")) else None


def _zip(data: bytes, _limits: Limits, budget: Budget) -> Found:
    return _members(list(archives.unzip(data, budget)))


def _tar(data: bytes, _limits: Limits, budget: Budget) -> Found:
    return _members(list(archives.untar(data, budget)))


def _members(members: list[archives.Member]) -> Found:
    notes = "\n".join(note for member in members for note in member.notes if note)
    return Found([notes] if notes else [], [Content(member.data) for member in members if member.data])


def _stream(data: bytes, _limits: Limits, budget: Budget) -> Found:
    content = archives.unpack(data, budget)
    if content is None:
        raise UnreadableError("unknown")
    return Found(files=[Content(content)])


def _pdf(data: bytes, limits: Limits, _budget: Budget) -> Found:
    document = pdf.read(data, limits)
    texts = [text for text in document.texts if text]
    return Found(texts, [Content(file) for file in document.files], None if document.complete and texts else "pdf")


_BY_KIND: Final[dict[Kind, Reader]] = {"zip": _zip, "pdf": _pdf}


def _record(label: str) -> Reader:
    def read(data: bytes, limits: Limits, _budget: Budget) -> Found:
        return _parsed(data, label, limits)

    return read


def _parsed(data: bytes, label: str, limits: Limits) -> Found:
    try:
        items = records.PARSERS[label](data, limits)
    except records.NoRecordError:
        raise UnreadableError("unknown") from None
    texts = [item for item in items if isinstance(item, str) and item]
    return Found(texts, [Content(item) for item in items if isinstance(item, bytes) and item])


def _grpc(data: bytes, limits: Limits, _budget: Budget) -> Found:
    """RFC-less, see grpc/doc/PROTOCOL-HTTP2.md; the message coding is told from its bytes."""
    found = Found()
    try:
        frames = records.grpc_frames(data)
    except records.NoRecordError:
        raise UnreadableError("unknown") from None
    for compressed, message in frames:
        if compressed:
            coding = codings.sniff_coding(message)
            if coding is None:
                raise UnreadableError("unknown")
            message = codings.decode(message, (coding,), limits).data  # noqa: PLW2901
        try:
            inner = _parsed(message, "application/protobuf", limits)
        except UnreadableError:
            inner = Found(files=[Content(message)])  # gRPC carries JSON and others too
        found.texts += inner.texts
        found.files += inner.files
    return found


def _mail(data: bytes, _limits: Limits, _budget: Budget) -> Found:
    """RFC 5322 and MIME: the message as it stands, and each coded part decoded."""
    message = email.message_from_bytes(data, policy=email.policy.compat32)
    found = Found([data.decode("utf-8", "replace")])
    for part in message.walk():
        if part.get_content_maintype() == "multipart" or not str(part.get("content-transfer-encoding", "")).strip():
            continue
        content = _payload(part)
        if content:
            found.files.append(Content(content, part.get_content_type()))
    return found


def _payload(part: Message) -> bytes:
    try:
        content = part.get_payload(decode=True)
    except (ValueError, LookupError):
        raise Denied("encoding", "a part of the mail message is damaged") from None
    return content if isinstance(content, bytes) else b""


def visible(data: bytes, kind: Kind) -> list[str]:
    """The stretches of ASCII in bytes that nobody reads; of pictures and sound only long ones, which are no noise."""
    pattern = _LONG_STRETCH if kind in ("image", "audio", "encrypted") else _STRETCH
    found = [match[0].decode("ascii") for match in pattern.finditer(data)]
    found += [match[0].decode("utf-16-le") for match in _WIDE_STRETCH.finditer(data)]
    return ["\n".join(found)] if found else []
