"""Ends an inspector that no longer answers, so that a successor can: a stopped process cannot watch itself.

One that is silent because it works is let work: on a machine that others use as well, a scan of seconds takes minutes.
"""

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.supervisor.child import Child

EVERY_S: Final = 1.0
ANSWER_S: Final = 5.0
MISSES: Final = 2
"""In a row. One silence may be ours: after a pause of the whole machine the first wait ends before any answer."""
BUSY_CPU_S: Final = 0.1
"""Who uses this much of a processor while silent is at work."""
STUCK_CPU_S: Final = 30.0
"""But not for ever. Three times what the inspector allows itself: it can only watch itself while it can run."""
_LOG: Final = logging.getLogger(__name__)
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """What the process has used of all processors; 0 where the system does not say (proc(5), fields 14 and 15)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    except (OSError, IndexError, ValueError):
        return 0.0


@dataclass(slots=True)
class Silence:
    """What is known of one process since it last answered. `began_cpu_s`: what it had used by then."""

    pid: int
    began_cpu_s: float
    seen_cpu_s: float
    misses: int = 0

    def add(self, now_cpu_s: float, most: int) -> bool:
        """One more silence; True when it was the last that is borne."""
        busy = now_cpu_s - self.seen_cpu_s >= BUSY_CPU_S
        self.misses = 0 if busy else self.misses + 1
        self.seen_cpu_s = now_cpu_s
        return self.misses >= most or now_cpu_s - self.began_cpu_s >= STUCK_CPU_S


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
    """Kills the child's process after `misses` idle silences in a row, or one that is busy for too long; `Child.run`
    starts the next. Until cancelled."""
    silence: Silence | None = None
    while True:
        await asyncio.sleep(every_s)
        pid = child.pid
        before_cpu_s = cpu_s(pid) if pid is not None else 0.0
        if pid is None or await answers(path, within_s):
            silence = None
            continue
        if silence is None or silence.pid != pid:
            silence = Silence(pid, before_cpu_s, before_cpu_s)
        if silence.add(cpu_s(pid), misses) and child.pid == pid and child.process is not None:
            _LOG.warning("%s %s does not answer: ended", child.kind, child.name)
            with contextlib.suppress(ProcessLookupError):
                child.process.kill()
