"""Reads usage and endings from an answer that is one JSON object, however large."""

import json
import re
from typing import Final

import orjson

from proxy.providers import Call, Tally

# Answers up to this are parsed whole (some 3 ms); of larger ones (batches of embeddings) only both ends are read.
READ_LIMIT_BYTES: Final = 1 << 20
_END_BYTES = 8 << 10
# A quote within a JSON string has a backslash before it, so these match members only, never text.
_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
_MODEL = re.compile(rb'"model"\s*:\s*("[^"\\]{1,200}")')


class PlainReader:
    """Fed the decoded body; fills `tally` at the end."""

    __slots__ = ("_call", "_chunks", "_size", "_tally", "_whole")

    def __init__(self, call: Call, tally: Tally) -> None:
        self._call = call
        self._tally = tally
        self._chunks: list[bytes] = []
        self._size = 0
        self._whole = True

    def feed(self, data: bytes) -> None:
        """Takes the next part of the body."""
        self._size += len(data)
        self._chunks.append(data)
        if self._size > READ_LIMIT_BYTES:
            body = b"".join(self._chunks)
            self._chunks = [body[:_END_BYTES], body[-_END_BYTES:]]
            self._whole = False

    def finish(self) -> None:
        """The body is complete."""
        body = b"".join(self._chunks)
        self._tally.ended = True
        if not self._whole:
            self._read_ends(body)
            return
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        if isinstance(answer, dict):
            self._call.provider.read_answer(answer, self._call, self._tally)
        else:
            self._tally.text_bytes = self._size

    def cut(self) -> None:
        """The body ended early: what came is all that the estimate can go by."""
        self._tally.text_bytes = self._size

    def _read_ends(self, body: bytes) -> None:
        provider = self._call.provider
        model = _MODEL.search(body)
        if model is not None:
            self._tally.model = orjson.loads(model[1])
        if provider.operation != "embeddings":
            self._tally.text_bytes = self._size
        for start in [match.end() for match in _USAGE.finditer(body)][-1:]:
            try:
                usage, _ = json.JSONDecoder().raw_decode(body[start:].decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                continue
            provider.read_usage(usage, self._tally)
