"""Processes that are measured: started on one core, known with all their descendants, ended by their own ids."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGESIZE")


def start(
    command: Sequence[str],
    log: Path,
    *,
    core: int | str,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Starts `command` pinned to `core`, in a session of its own; what it prints goes to `log`.

    It gets SIGTERM when the benchmark dies, however it does: nothing may go on and disturb the next run.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            start_new_session=True,
        )


def end_on_sigterm() -> None:
    """Has SIGTERM unwind the stack, so that everything started is stopped."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def stop(process: subprocess.Popen[bytes], grace_s: float = 5.0) -> None:
    """SIGTERM, after `grace_s` SIGKILL to the whole session."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(grace_s)


def wait_for(look: Callable[[], bool], what: str, deadline_s: float = 60.0) -> None:
    """Returns once `look` is true; TimeoutError names `what`."""
    until_s = time.monotonic() + deadline_s
    while not look():
        if time.monotonic() > until_s:
            raise TimeoutError(f"{what}: not within {deadline_s:g} s")
        time.sleep(0.05)


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something listens there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), 0.5):
        return True
    return False


@dataclass(frozen=True, slots=True)
class Sample:
    """CPU time used so far, resident memory and open descriptors of a process tree, by process id."""

    cpu_s: Mapping[int, float]
    rss_bytes: Mapping[int, int]
    descriptors: int

    @property
    def rss_total_bytes(self) -> int:
        return sum(self.rss_bytes.values())

    def cpu_since(self, before: "Sample") -> float:
        """Seconds of CPU since `before`. Children that ended in between count through their parents (cutime)."""
        return sum(self.cpu_s.values()) - sum(before.cpu_s.values())


def tree(*roots: int) -> list[int]:
    """The processes `roots` and all their living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], list(roots)
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo.extend(children.get(pid, ()))
    return found


def matching(argument: bytes, *roots: int) -> list[int]:
    """Those of the tree that have `argument` on their command line."""
    found = []
    for pid in tree(*roots):
        with contextlib.suppress(OSError):
            if argument in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def sample(*roots: int) -> Sample:
    """Reads /proc of the whole tree. CPU is utime + stime of each and of its ended, waited-for children."""
    cpu_s, rss_bytes, descriptors = {}, {}, 0
    for pid in tree(*roots):
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            cpu_s[pid] = sum(int(ticks) for ticks in fields[11:15]) / _TICKS_PER_S
            rss_bytes[pid] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
            descriptors += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return Sample(cpu_s, rss_bytes, descriptors)


def threads(pid: int) -> dict[str, float]:
    """CPU seconds of each thread of one process, by thread id and name."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            head, _, rest = (task / "stat").read_text().rpartition(")")
            found[head.replace(" (", " ")] = sum(int(ticks) for ticks in rest.split()[11:13]) / _TICKS_PER_S
    return found
