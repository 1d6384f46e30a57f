"""Ends an inspector that no longer answers, so that a successor can: a stopped process cannot watch itself."""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Final

from proxy.supervisor.child import Child

EVERY_S: Final = 1.0
ANSWER_S: Final = 5.0
"""Two of these are the ten seconds after which the inspector's own watchdog gives up; it works while it can run."""
MISSES: Final = 2
"""In a row. One silence may be ours: after a pause of the whole machine the first wait ends before any answer."""
_LOG: Final = logging.getLogger(__name__)


async def answers(path: Path, within_s: float = ANSWER_S) -> bool:
    """False when a process holds the socket and greets nobody. One that starts or ends holds none."""
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                await reader.read(1)
            finally:
                writer.close()
    except TimeoutError:
        return False
    except (FileNotFoundError, ConnectionError):
        return True
    except OSError:
        return False  # its backlog is full
    return True


async def keep_alive(
    child: Child, path: Path, *, every_s: float = EVERY_S, within_s: float = ANSWER_S, misses: int = MISSES
) -> None:
    """Kills the child's process after `misses` silences in a row; `Child.run` starts the next. Until cancelled."""
    silent_pid, silent = None, 0
    while True:
        await asyncio.sleep(every_s)
        pid = child.pid
        if pid is None or await answers(path, within_s):
            silent_pid, silent = None, 0
            continue
        silent = silent + 1 if pid == silent_pid else 1
        silent_pid = pid
        if silent >= misses and child.pid == pid and child.process is not None:
            _LOG.warning("%s %s does not answer: ended", child.kind, child.name)
            with contextlib.suppress(ProcessLookupError):
                child.process.kill()
