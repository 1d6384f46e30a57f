"""What a worker costs while something is done to it: peak memory, and CPU time between two answers."""

import contextlib
import re
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.fixtures import Lab
from tests.lab.product import eventually, read_head

MB = 1 << 20
# Memory that any request load takes once: buffers, pools, caches of the allocator.
MAX_GROWTH_BYTES = 32 * MB
MAX_STALL_S = 0.100


def worker_pids(lab: Lab) -> list[int]:
    """The serving workers."""
    return [int(worker["pid"]) for worker in lab.product.status()["workers"]]


def memory(pid: int, name: str) -> int:
    """`VmRSS` or `VmHWM` in bytes (proc(5))."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise ValueError(name)
    return int(found[1]) << 10


@contextlib.contextmanager
def bounded_memory(*pids: int, most: int = MAX_GROWTH_BYTES) -> Iterator[None]:
    """Fails when the peak of one process grows by more than `most` meanwhile."""
    before = {}
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
        before[pid] = memory(pid, "VmRSS")
    yield
    for pid, had in before.items():
        grown = memory(pid, "VmHWM") - had
        assert grown <= most, f"process {pid} grew by {grown / MB:.1f} MB"


def cpu_s(pid: int) -> float:
    """CPU time of the main thread, which runs the event loop."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


@dataclass
class Heartbeat:
    """Asks the worker for a refusal, again and again, on one connection: between question and answer the event loop
    has only ever run what came in before. Its CPU time in between is the stall, whatever else this machine does."""

    lab: Lab
    pid: int
    beats: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Beats meanwhile; fails when the loop was held for too long."""
        stop = threading.Event()
        thread = threading.Thread(target=self._beat, args=(stop,), daemon=True)
        thread.start()
        eventually(lambda: len(self.beats) > 2, "the heart beats")
        try:
            yield
        finally:
            stop.set()
            thread.join(30)
        worst = max(self.beats)
        assert worst <= MAX_STALL_S, f"the event loop was held for {worst * 1000:.0f} ms of {len(self.beats)} beats"

    def _beat(self, stop: threading.Event) -> None:
        token = self.lab.product.token("alpha")
        host = "nobody.lab.test"
        ask = f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Bearer {token}\r\n\r\n"
        with self.lab.product.dial() as bare:
            while not stop.is_set():
                begun_s = cpu_s(self.pid)
                bare.sendall(ask.encode())
                head = read_head(bare)
                left = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
                while left:
                    left -= len(bare.recv(left))
                self.beats.append(cpu_s(self.pid) - begun_s)


def still_silent(streams: Sequence[socket.socket], wait_s: float) -> list[socket.socket]:
    """Those to which nothing has come, neither an answer nor an end."""
    told: set[socket.socket] = set(select.select(streams, [], [], wait_s)[0])
    return [stream for stream in streams if stream not in told]
