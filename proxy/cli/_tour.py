"""The three calls that `make run` offers: allowed, blocked, and one whose personal data never leaves."""

from collections.abc import Iterator, Mapping

from proxy.paths import Paths


def tour(paths: Paths, listen: Mapping[str, str]) -> Iterator[str]:
    """Lines that begin with `try: `, each a complete command for the shell that `make run` was typed in."""
    yield from ()
