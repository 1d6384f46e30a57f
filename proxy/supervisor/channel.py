"""JSON lines over a socket pair: how the supervisor and one worker talk. Both ends use this class."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

# A status line grows with apps and kills, a delta with series; both stay far below this.
LINE_LIMIT_BYTES: Final = 16 << 20
HIGH_WATER_BYTES: Final = 8 << 20


class Channel:
    """One end. `send` never waits: a peer that does not read for megabytes is treated as gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """Takes over a connected unix socket."""
        end.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LINE_LIMIT_BYTES))

    def send(self, message: Mapping[str, Any]) -> None:
        """Queues one message; dropped when the channel is closed."""
        if self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > HIGH_WATER_BYTES:
            self.close()
            return
        self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Until the peer closes, dies, or sends what is not a JSON object on a line."""
        with contextlib.suppress(OSError, ValueError):
            while line := await self._reader.readline():
                message = json.loads(line)
                if not isinstance(message, dict):
                    break
                yield message

    def close(self) -> None:
        """Ends both directions."""
        self._writer.close()
