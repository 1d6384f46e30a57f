"""`python -m proxy.supervisor.launch MODULE ARG...`: runs a module as a child that cannot outlive the supervisor.
`python -IS launch.py --exec PROGRAM ARG...`: the same for a program, which gets SIGTERM to put its files in order.

Also switches core dumps off (a core of a worker or inspector would hold prompts and keys) and libraries' telemetry, and
has glibc give large blocks back.
"""

import ctypes
import os
import resource
import runpy
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # prctl(2), Linux
PARENT_VARIABLE: Final = "EGRESS_PARENT_PID"
# mallopt(3), glibc. Left to itself, the threshold climbs to the largest block that was ever freed (32 MiB at most), and
# blocks below it stay with the heap: one long message, or the loading of a model, leaves up to a hundred MiB behind.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
# Above the buffers of every read, which would otherwise be mapped anew each time.
LARGE_BLOCK_BYTES: Final = 1 << 20


def tie_to_parent(last_signal: signal.Signals = signal.SIGKILL) -> None:
    """Has the kernel kill us when the supervisor dies; exits when it is dead already. No-op outside Linux."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, last_signal, 0, 0, 0)
    parent = os.environ.get(PARENT_VARIABLE)
    if parent and int(parent) != os.getppid():
        sys.exit(0)


def no_core_dumps() -> None:
    """RLIMIT_CORE 0, soft and hard."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def no_telemetry() -> None:
    """The onnxruntime 1.32 reports its use to its maker unless told not to before it is imported."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def give_memory_back() -> None:
    """Large blocks are mapped and unmapped each on its own. No-op where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * LARGE_BLOCK_BYTES)


if __name__ == "__main__":
    no_core_dumps()
    if sys.argv[1] == "--exec":
        tie_to_parent(signal.SIGTERM)
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - what the supervisor names
    no_telemetry()
    give_memory_back()
    tie_to_parent()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
