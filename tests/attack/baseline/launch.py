"""Starts a baseline proxy where the product would stand."""

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attack.world import NetWorld

HERE = Path(__file__).parent


def command(confdir: Path, explicit: str, transparent: int, root: Path, *more: str) -> list[str]:
    """mitmdump with both listeners and the naive addon. `more`: further arguments."""
    return [
        str(Path(sys.executable).parent / "mitmdump"), "-q", "--mode", f"regular@{explicit}",
        "--mode", f"transparent@0.0.0.0:{transparent}", "--set", f"confdir={confdir}",
        "--set", f"ssl_verify_upstream_trusted_ca={root}", "-s", str(HERE / "naive.py"), *more,
    ]  # fmt: skip


def start(world: "NetWorld", name: str, *more: str) -> Path:
    """Runs it in the gateway's namespace; the directory with its CA."""
    from tests.attack.net import GW_EXPLICIT
    from tests.attack.world import EXPLICIT, TRANSPARENT

    if name != "mitmdump" or world.wires is None:
        raise ValueError(f"no baseline {name!r}; there is: mitmdump")
    confdir = world.directory / "mitm"
    confdir.mkdir(exist_ok=True)
    log = (world.directory / "mitmdump.log").open("w")
    run = command(confdir, f"{GW_EXPLICIT}:{EXPLICIT}", TRANSPARENT, world.authorities.file, *more)
    process = world.wires.gw.call(lambda: subprocess.Popen(run, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
    world.stack.callback(process.wait)
    world.stack.callback(process.kill)
    world.baseline_process = process
    until_s = time.monotonic() + 30
    while True:
        try:
            world.dial((GW_EXPLICIT, EXPLICIT)).close()
            return confdir
        except OSError:
            if time.monotonic() > until_s or process.poll() is not None:
                raise RuntimeError(f"mitmdump does not start: {Path(log.name).read_text()[-500:]}") from None
            time.sleep(0.1)
