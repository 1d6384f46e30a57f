"""`egress run --watch`, for development: pushes the policy directory whenever a file of it changes."""

import asyncio
import logging
from pathlib import Path
from typing import Final

from proxy.config.errors import ConfigErrors
from proxy.supervisor.policy import Policy

LOOK_EVERY_S: Final = 0.3

_LOG = logging.getLogger(__name__)

type Fingerprint = dict[str, tuple[int, int]]


def fingerprint(directory: Path) -> Fingerprint:
    """File -> (mtime, size) of everything that can be policy."""
    found: Fingerprint = {}
    for path in sorted(directory.rglob("*")):
        if path.suffix in {".yaml", ".pem"} and not path.name.startswith("."):
            facts = path.stat()
            found[str(path)] = (facts.st_mtime_ns, facts.st_size)
    return found


async def watch(directory: Path, policy: Policy) -> None:
    """Runs until cancelled. An edit that does not compile is logged with all its errors, and nothing changes."""
    seen = await asyncio.to_thread(_look, directory)
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now = await asyncio.to_thread(_look, directory)
        if now != seen:
            seen = now
            await _push(directory, policy)


def _look(directory: Path) -> Fingerprint | None:
    try:
        return fingerprint(directory)
    except OSError:  # an editor replaces files by renaming: look again
        return None


async def _push(directory: Path, policy: Policy) -> None:
    from proxy.stores.ports import Conflict, StoreUnavailable

    try:
        manifest = await policy.push(directory, "saved")
    except ConfigErrors as errors:
        _LOG.error("not pushed, %d error(s):\n%s", len(errors.errors), errors)
    except (Conflict, StoreUnavailable) as fault:
        _LOG.error("not pushed: %s", fault)
    else:
        if manifest is not None:
            _LOG.info("pushed seq %d, revision %s", manifest.seq, manifest.revision[:12])
