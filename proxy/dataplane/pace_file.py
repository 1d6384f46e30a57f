"""What each worker's apps spent lately, on disk, so that a worker that comes after leases for them before it serves.

One small file per worker, rewritten behind the requests and left behind at its end. It holds names of apps and amounts,
and nothing depends on it: without it the first request of each app asks the store.
"""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from proxy.pace import STANDBY_S, Pace
from proxy.paths import private_dir

WRITE_EVERY_S: Final = 5.0
_SUFFIX: Final = ".json"


class PaceFile:
    """`holder`'s file in `directory`, beside those of the other workers of this machine."""

    def __init__(self, directory: Path, holder: str) -> None:
        self._path = private_dir(directory) / f"{holder}{_SUFFIX}"
        self._due_s = 0.0

    def write(self, paces: Mapping[str, Pace], now_s: float, *, closing: bool = False) -> None:
        """Every WRITE_EVERY_S, and when closing. Does nothing without apps or room on the disk."""
        if not paces or (now_s < self._due_s and not closing):
            return
        self._due_s = now_s + WRITE_EVERY_S
        apps = {app: (pace.peak, pace.per_s) for app, pace in paces.items()}
        fresh = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            fresh.write_bytes(orjson.dumps({"at_s": now_s, "apps": apps}))
            fresh.replace(self._path)

    def recent(self, now_s: float) -> dict[str, Pace]:
        """The busiest pace of each app on this machine; files that are old or damaged are removed."""
        busiest: dict[str, tuple[int, int]] = {}
        for path in self._path.parent.glob(f"*{_SUFFIX}"):
            try:
                for app, peak, per_s in _read(path, now_s):
                    known = busiest.get(app, (0, 0))
                    busiest[app] = max(known[0], peak), max(known[1], per_s)
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                with contextlib.suppress(OSError):
                    path.unlink()
        return {app: Pace.inherited(peak, per_s, now_s) for app, (peak, per_s) in busiest.items()}


def _read(path: Path, now_s: float) -> Iterable[tuple[str, int, int]]:
    facts: dict[str, Any] = orjson.loads(path.read_bytes())
    if abs(now_s - facts["at_s"]) > STANDBY_S:
        raise ValueError("old")
    return [(str(app), max(0, int(peak)), max(0, int(per_s))) for app, (peak, per_s) in facts["apps"].items()]
