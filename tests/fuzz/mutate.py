"""Nonsense near to sense: valid messages cut, doubled, flipped, spliced, or salted with what parsers trip on."""

import os
import time
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

BUDGET_S = float(os.environ.get("FUZZ_SECONDS", "1.5"))
"""Wall clock for each target: a fixed time in `make test`, longer with `make fuzz`. Examples after it end at once."""

_SALT = (
    b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b",", b";", b"=", b"%00", b"%2e", b"\xff", b"\x80",
    b"0", b"-1", b"4294967296", b"18446744073709551616", b"1e999", b"\\u0000", b"\\ud800", b'"', b"[", b"{", b"}", b"]",
    b"&a", b"*a", b"!!python/object", b"--", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n",
    b"\x1f\x8b\x08",
)  # fmt: skip


def near(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """A seed after a few mutations, now and then plain noise."""
    return st.one_of(_mutated(seeds), _mutated(seeds), _mutated(seeds), st.binary(max_size=300))


@st.composite
def _mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 12)))
        match draw(st.integers(0, 5)):
            case 0:
                del data[at:end]
            case 1:
                data[at:at] = draw(st.sampled_from(_SALT))
            case 2:
                data[at:end] = draw(st.binary(max_size=8))
            case 3:
                data[at:at] = data[at:end] * draw(st.integers(1, 20))
            case 4:
                other = draw(st.sampled_from(seeds))
                data[at:] = other[min(at, len(other)) :]
            case _:
                if at < len(data):
                    data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


class Budget:
    """True while time is left; begins with the first question."""

    def __init__(self) -> None:
        self._until_s: float | None = None

    def left(self) -> bool:
        now_s = time.monotonic()
        if self._until_s is None:
            self._until_s = now_s + BUDGET_S
        return now_s < self._until_s


def outcome[T](act: Callable[[], T], *expected: type[BaseException]) -> T | type[BaseException]:
    """What `act` gives, or the class of its refusal. Anything but the expected refusals is a finding."""
    try:
        return act()
    except expected as refusal:
        return type(refusal)
