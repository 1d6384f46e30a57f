"""A memory limit for the processes of one product, by a control group of version 1 or 2 (needs root)."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


class NoGroups(Exception):
    """This machine gives no control group for memory."""


@dataclass
class MemoryGroup:
    """Use as a context manager. `prefix`: what starts a command inside."""

    limit_bytes: int
    directory: Path = Path()
    second: bool = False

    def __enter__(self) -> Self:
        self.second = "memory" in _read(_V2 / "cgroup.controllers").split()
        name = f"atk{os.getpid()}"
        self.directory = (_V2 if self.second else _V1) / name
        try:
            self.directory.mkdir()
            limit = "memory.max" if self.second else "memory.limit_in_bytes"
            (self.directory / limit).write_text(str(self.limit_bytes))
        except OSError as error:
            with contextlib.suppress(OSError):
                self.directory.rmdir()
            raise NoGroups(str(error)) from None
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.directory.rmdir()

    @property
    def prefix(self) -> tuple[str, ...]:
        """A command that enters the group and becomes its arguments."""
        return ("sh", "-c", f'echo $$ > {self.directory}/cgroup.procs && exec "$@"', "sh")

    @property
    def kills(self) -> int:
        """Processes that the limit has cost."""
        return self._number("memory.events" if self.second else "memory.oom_control", "oom_kill ")

    @property
    def peak_bytes(self) -> int:
        """The most that was charged to the group, page cache included."""
        return self._number("memory.peak" if self.second else "memory.max_usage_in_bytes", "")

    @property
    def resident_bytes(self) -> int:
        """What processes hold now, page cache not included."""
        return self._number("memory.stat", "anon " if self.second else "total_rss ")

    def _number(self, file: str, word: str) -> int:
        for line in _read(self.directory / file).splitlines():
            if line.startswith(word):
                return int(line.removeprefix(word))
        return 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
