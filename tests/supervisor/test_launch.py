"""What a child of the supervisor is before its module runs."""

import platform
import subprocess
import sys

import pytest

from tests.lab.product import ROOT

GROWTH = """
import re, sys
from pathlib import Path
from proxy.supervisor import launch

def resident() -> int:
    return int(re.findall(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[0]) << 10

if sys.argv[1] == "yes":
    launch.give_memory_back()
del_me = bytes(20 << 20)                          # a freed block this large moves glibc's own threshold
del del_me
before = resident()
blocks = [bytearray(b"x") * (4 << 20) for _ in range(12)]
top = bytes(1000)                                 # a small block above them holds the heap's end
blocks.clear()
print(resident() - before)
"""


def _kept_bytes(steady: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, steady], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such threshold")
def test_large_blocks_go_back_whatever_was_freed_before() -> None:
    assert _kept_bytes("yes") < 1 << 20
