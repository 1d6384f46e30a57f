"""Puts the original texts back where an answer repeats a placeholder, whatever pieces the answer arrives in.

A placeholder may stand in plain text, in a JSON string, or in JSON within a JSON string (tool-call arguments), and its
angle brackets may be escaped at either level; the original is escaped for the level at which it lands. What might be
the start of a placeholder is held back until the next bytes decide. Placeholders that the request did not contain are
left alone. Stand-ins of other forms are the business of `proxy.restore_words`.
"""

import json
import re
from collections.abc import Mapping

import orjson

from proxy.errors import Denied
from proxy.restore_words import CONTEXT_BYTES, Words

_NAME = rb"[A-Z][A-Z0-9_]{0,63}_[a-z2-7]{8}"
_PLACEHOLDER = re.compile(rb"(?:<|(?<!\\)(\\++)u003[cC])(%b)(?:>|\\{1,2}u003[eE])" % _NAME)
_PART_OF_ESCAPE = rb"(?:u(?:0(?:0(?:3)?)?)?)?"
_BEGINNING = re.compile(
    rb"(?:(?<!\\)\\++%b|(?:<|(?<!\\)\\++u003[cC])([A-Z0-9_]*+[a-z2-7]{0,8})(?:\\{1,2}%b)?)\Z"
    % (_PART_OF_ESCAPE, _PART_OF_ESCAPE)
)
_TOKEN = re.compile(rb'"((?>[^"\\]+|\\.)*+)("?)|[{}\[\],:]', re.DOTALL)
_STRING_REST = re.compile(rb'((?>[^"\\]+|\\.)*+)("?)', re.DOTALL)
# Room for the escapes around a name: `\\u003c` before and after it.
_ESCAPES_BYTES = 14
# `\\u003` and one more: what may be cut off at the end without showing as a bracket.
_PARTIAL_ESCAPE_BYTES = 8
_MAX_NESTING = 1000
_MAX_KEY_BYTES = 256
# Text without any bracket is given out unread; it is read only when one comes, so at most this much of it is kept.
_MAX_UNREAD_BYTES = 64 << 10

type JsonPath = tuple[str | int, ...]


def json_text(text: str) -> bytes:
    """`text` as the inside of a JSON string."""
    try:
        return orjson.dumps(text)[1:-1]
    except orjson.JSONEncodeError:  # lone surrogates
        return json.dumps(text)[1:-1].encode("ascii")


class Placeholders:
    """The request's placeholders and other stand-ins, and what they stand for. `level`: how many JSON strings the text
    is wrapped in. `before`: the last bytes in front of the text (`context`), which tell whether a token begins."""

    __slots__ = ("_longest", "_names", "_originals", "words")

    def __init__(self, restore: Mapping[str, str]) -> None:
        if not restore:
            self._originals: dict[bytes, list[str]] = {}
            self._names: tuple[bytes, ...] = ()
            self._longest = _ESCAPES_BYTES
            self.words: Words | None = None
            return
        self._originals = {_bare(text): [original] for text, original in restore.items()}
        self._names = tuple(_bare(text) for text in restore if text.startswith("<"))
        self._longest = max(map(len, self._names), default=0) + _ESCAPES_BYTES
        words = [text.encode("utf-8") for text in restore if not text.startswith("<")]
        self.words = Words(words) if words else None

    def __bool__(self) -> bool:
        return bool(self._originals)

    def may_hold(self, data: bytes) -> bool:
        """Whether `data` need be looked at."""
        return self.words is not None or may_hold(data)

    def context(self, before: bytes, given: bytes) -> bytes:
        """What to hand as `before` with the next piece, after `given` was given out."""
        return (before + given)[-CONTEXT_BYTES:] if self.words is not None else b""

    def replace(self, data: bytes, level: int, before: bytes = b"") -> bytes:
        """`data` with every whole placeholder replaced, escaped for `level` or for the deeper one that its own escapes
        show; and every other stand-in, escaped for `level`."""
        if self.words is not None:
            data = self.words.replace(data, before, lambda word: self._escaped(self._originals[word], level))
        if not may_hold(data):
            return data

        def original(match: re.Match[bytes]) -> bytes:
            levels = self._originals.get(match[2])
            if levels is None:
                return match[0]
            slashes = match[1] or b""
            if not slashes:
                return self._escaped(levels, level)
            # An odd run ends in one escape `\u003c`; an even one in `\\u003c`, an escape within an escape.
            used = 1 if len(slashes) % 2 else 2
            return slashes[used:] + self._escaped(levels, max(level, used))

        return _PLACEHOLDER.sub(original, data)

    def split(self, data: bytes, before: bytes = b"") -> int:
        """Where to cut `data`: what follows may be the beginning of a placeholder or another stand-in."""
        if self.words is not None:
            return min(self.words.split(data, before), self._split(data))
        return self._split(data)

    def _split(self, data: bytes) -> int:
        found = _BEGINNING.search(data, max(0, len(data) - self._longest))
        if found is None:
            return len(data)
        name = found[1]
        if name and not any(known.startswith(name) for known in self._names):
            return len(data)
        return found.start()

    @staticmethod
    def _escaped(levels: list[str], level: int) -> bytes:
        while len(levels) <= level:
            levels.append(json_text(levels[-1]).decode("utf-8"))
        return levels[level].encode("utf-8", "surrogatepass")


def _bare(text: str) -> bytes:
    return (text[1:-1] if text.startswith("<") else text).encode("utf-8")


def may_hold(data: bytes) -> bool:
    """Whether `data` could hold a whole placeholder or the beginning of one that is not escaped."""
    return b"<" in data or b"u003" in data


class TextRestorer:
    """Restores in text as it streams. `level` 1 for text whose placeholders stand in JSON strings."""

    __slots__ = ("_before", "_held", "_level", "_placeholders")

    def __init__(self, placeholders: Placeholders, level: int = 0) -> None:
        self._placeholders = placeholders
        self._level = level
        self._held = b""
        self._before = b""

    def feed(self, data: bytes) -> bytes:
        """The bytes that can be given out."""
        data = self._held + data if self._held else data
        cut = self._placeholders.split(data, self._before)
        self._held = data[cut:]
        out = self._placeholders.replace(data[:cut], self._level, self._before)
        self._before = self._placeholders.context(self._before, data[:cut])
        return out

    def finish(self) -> bytes:
        """What was held back."""
        held, self._held = self._held, b""
        return self._placeholders.replace(held, self._level, self._before)


class JsonRestorer:
    """Restores in JSON as it streams, one value or many in a row. Bytes outside changed strings stay as they are.

    `nested`: members whose string value is JSON text itself. `opaque`: members left alone (signed text). `edits`: path
    -> the new inside of the string there, for a caller that works on whole texts.
    """

    __slots__ = ("_before", "_edits", "_held", "_key", "_nested", "_opaque", "_open", "_placeholders", "_stack",
                 "_unread")  # fmt: skip

    def __init__(
        self,
        placeholders: Placeholders,
        nested: frozenset[str] = frozenset(),
        opaque: frozenset[str] = frozenset(),
        edits: Mapping[JsonPath, bytes] | None = None,
    ) -> None:
        self._placeholders = placeholders
        self._nested = frozenset(name.encode() for name in nested)
        self._opaque = frozenset(name.encode() for name in opaque)
        self._edits = edits or {}
        # One frame per open array (index) or object (current key, None while one is awaited).
        self._stack: list[bytes | int | None] = []
        self._open = False
        self._held = b""
        self._before = b""
        self._key = b""
        self._unread = b""

    def feed(self, data: bytes) -> bytes:
        """The bytes that can be given out. Denied: upstream_malformed when nested beyond all reason."""
        read = self._held or self._edits or self._placeholders.may_hold(data)
        quiet = not (read or b"\\" in data[-_PARTIAL_ESCAPE_BYTES:])
        if quiet and len(self._unread) + len(data) <= _MAX_UNREAD_BYTES:
            self._unread += data
            return data
        if self._unread:
            unread, self._unread = self._unread, b""
            self._read(unread)
        return self._read(data)

    def _read(self, data: bytes) -> bytes:
        buffer = self._held + data if self._held else data
        self._held = b""
        out: list[bytes] = []
        copied = position = 0
        if self._open:
            match = _STRING_REST.match(buffer)
            if match is None:
                raise Denied("internal")
            copied = self._string(buffer, match, 0, out)
            position = match.end()
        if not self._open:
            copied = self._tokens(buffer, position, copied, out)
        end = len(buffer) - len(self._held)
        if not out and copied == 0 and end == len(buffer):
            return buffer
        out.append(buffer[copied:end])
        return b"".join(out)

    def finish(self) -> bytes:
        """What was held back: the beginning of a string that never ended."""
        held, self._held = self._held, b""
        return self._placeholders.replace(held, 1, self._before) if self._open else held

    def _tokens(self, buffer: bytes, position: int, copied: int, out: list[bytes]) -> int:
        stack = self._stack
        for match in _TOKEN.finditer(buffer, position):
            if match.start(1) >= 0:
                copied = self._string(buffer, match, copied, out)
                continue
            token = match[0]
            if token == b",":
                if stack:
                    top = stack[-1]
                    stack[-1] = top + 1 if isinstance(top, int) else None
            elif token == b":":
                continue
            elif token in b"{[":
                if len(stack) >= _MAX_NESTING:
                    raise Denied("upstream_malformed", f"The answer's JSON is nested deeper than {_MAX_NESTING}")
                stack.append(None if token == b"{" else 0)
            elif stack:
                stack.pop()
        return copied

    def _string(self, buffer: bytes, match: re.Match[bytes], copied: int, out: list[bytes]) -> int:
        """One string, or what there is of it. Returns up to where `buffer` has been given out."""
        start, end = match.span(1)
        closed = match[2] == b'"'
        self._open = not closed
        text = match[1]
        is_key = bool(self._stack) and self._stack[-1] is None
        if is_key:
            if len(self._key) < _MAX_KEY_BYTES:
                self._key += text
            if closed:
                self._stack[-1], self._key = self._key, b""
        new = text
        if not closed:
            cut = self._placeholders.split(text, self._before)
            # A lone backslash at the very end is half an escape.
            self._held = buffer[start + cut :]
            if is_key:
                self._key = self._key[: len(self._key) - (len(text) - cut)]
            text = new = text[:cut]
            end = start + cut
        if not is_key and self._edits and closed:
            new = self._edits.get(self._path(), text)
        if new is text and self._placeholders.may_hold(text):
            new = self._restored(text, is_key)
        self._before = b"" if closed else self._placeholders.context(self._before, text)
        if new is text:
            return copied
        out += (buffer[copied:start], new)
        return end

    def _restored(self, text: bytes, is_key: bool) -> bytes:
        if is_key:
            return self._placeholders.replace(text, 1, self._before)
        key = next((frame for frame in reversed(self._stack) if isinstance(frame, bytes)), b"")
        if key in self._opaque:
            return text
        return self._placeholders.replace(text, 2 if key in self._nested else 1, self._before)

    def _path(self) -> JsonPath:
        return tuple(
            frame.decode("utf-8", "replace") if isinstance(frame, bytes) else frame or 0 for frame in self._stack
        )
