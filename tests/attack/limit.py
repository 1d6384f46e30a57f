"""A limit of time for what runs in the main thread: a case that hangs must not keep the others from their turn."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

_AGAIN_S: Final = 15.0


class OutOfTime(BaseException):
    """A case took longer than it may. No `except Exception` on the way swallows it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in the main thread after `seconds`, and again later, since a clean-up can hang as well."""

    def ring(*_: Any) -> None:
        raise OutOfTime(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
