"""What `egress run` was asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from proxy.paths import Paths

OFF: Final = "off"
DEFAULT_LISTEN: Final[Mapping[str, str]] = {
    "explicit": "127.0.0.1:8080",
    "transparent": OFF,
    "dns": OFF,
    "metrics": "127.0.0.1:9090",
}


@dataclass(frozen=True, slots=True)
class Options:
    """`listen` overrides the platform's addresses by listener name. `directory` None: policy comes from the store.

    `drain_s`: how long open exchanges may go on after SIGTERM or a hot restart (streams take up to minutes).
    `audit_mirrors`: sinks that get every audit line beside the files.
    """

    paths: Paths
    directory: Path | None
    store_url: str | None = None
    workers: int = 1
    inspectors: int = 1
    listen: Mapping[str, str] = field(default_factory=dict)
    demo: bool = False
    watch: bool = False
    addons: tuple[str, ...] = ()
    audit_mirrors: tuple[str, ...] = ()
    drain_s: float = 30.0

    def address_of(self, listener: str, platform: Mapping[str, str]) -> str:
        """`host:port` or `off`: the command line, else the platform's policy, else the default."""
        return self.listen.get(listener) or platform.get(listener) or DEFAULT_LISTEN[listener]
