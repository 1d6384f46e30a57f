"""What only a whole message shows, asked of a detector that looks for it."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from proxy.model import Finding


class Source(Protocol):
    """One text of a message: of which leaf, and whether it is several leaves on end (`chain` not None)."""

    @property
    def leaf(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def chain(self) -> object: ...


@runtime_checkable
class LooksAcross(Protocol):
    """A detector that also looks at all texts of a message together."""

    def across(self, texts: Sequence[tuple[int, str]]) -> Sequence[Sequence[Finding]]:
        """Findings per text; `texts`: (leaf, text) in the message's order."""


def across(detector: object, sources: Sequence[Source]) -> list[Sequence[Finding]]:
    """Findings per source; none of those that join several leaves, whose texts stand by themselves too."""
    if not isinstance(detector, LooksAcross):
        return [()] * len(sources)
    single = [index for index, source in enumerate(sources) if source.chain is None]
    found = detector.across([(sources[index].leaf, sources[index].text) for index in single])
    out: list[Sequence[Finding]] = [()] * len(sources)
    for index, findings in zip(single, found, strict=True):
        out[index] = findings
    return out
