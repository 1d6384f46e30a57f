"""The container without a container engine: the Dockerfile read, and its promises kept by `unshare` and `setpriv`."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy.paths import Paths
from tests.attack.procedures import Bench, procedure
from tests.attack.world import send_signal, wait_until
from tests.lab.product import ROOT

_NOBODY: Final = 65534
# A file system of its own: read-only but for a private state directory. The interpreter may lie where only root may
# look: then its installation is shown at the same place with open directories above it.
_INSIDE: Final = """
set -e
mount -t tmpfs -o mode=0755 tmpfs "$1"
mkdir "$1/python" "$1/state"
if [ -n "$3" ]; then
  mount --bind "$2" "$1/python"
  mount -t tmpfs -o mode=0755 tmpfs "$3"
  mkdir -p "$2"
  mount --move "$1/python" "$2"
fi
mount -t tmpfs -o "mode=0700,uid=$4,gid=$4" tmpfs "$1/state"
mount -o remount,bind,ro /
cd "$5"
shift 5
exec "$@"
"""


def _closed_above(path: Path) -> str:
    """The uppermost directory on the way to `path` that others may not enter, or ""."""
    closed = [parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001]
    return str(closed[0]) if closed else ""


@contextlib.contextmanager
def _contained(bench: Bench) -> Iterator[int]:
    """The product as the image runs it; the process id of its supervisor."""
    place = bench.world.directory / "container"
    place.mkdir(mode=0o755, exist_ok=True)
    base = Path(sys.base_prefix)
    setpriv = [
        "setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--bounding-set=-all",
        "--inh-caps=-all", "--no-new-privs", "env", "PYTHONDONTWRITEBYTECODE=1", "HOME=/nonexistent",
    ]  # fmt: skip
    product = [
        sys.executable, "-m", "proxy.cli", "run", "--state", str(place / "state" / "egress"), "--directory",
        str(bench.world.policy_dir), "--explicit", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--transparent", "off",
        "--workers", "1", "--inspectors", "1",
    ]  # fmt: skip
    arguments = [str(place), str(base), _closed_above(base), str(_NOBODY), str(ROOT), *setpriv, *product]
    log = (bench.world.directory / "container.log").open("w")
    process = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", _INSIDE, "sh", *arguments],
        stdout=log, stderr=log, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process.pid
        send_signal(process.pid, signal.SIGTERM)
        bench.check(process.wait(30) == 0, f"ends with {process.returncode}")
    finally:
        process.kill()
        process.wait()
        log.close()


def _status(pid: int, place: Path) -> dict[str, str]:
    """Where the contained product listens, once it is ready."""
    paths = Paths(Path(f"/proc/{pid}/root{place}/state/egress"))
    try:
        listen: dict[str, str] = json.loads(paths.status_file.read_text())["listen"]
        host, _, port = listen["metrics"].rpartition(":")
        with socket.create_connection((host, int(port)), 5) as page:
            page.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return listen if page.recv(64).startswith(b"HTTP/1.1 200") else {}
    except (OSError, ValueError, KeyError):
        return {}


def _processes(pid: int) -> Iterator[Path]:
    """The process and all below it, in /proc."""
    yield Path(f"/proc/{pid}")
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from _processes(int(child))


@procedure("OPS-02")
def contained(bench: Bench) -> None:
    """Not root, no capability, no new privileges, a root file system that is read-only: it gets ready and it serves."""
    place = bench.world.directory / "container"
    with _contained(bench) as pid:
        listen: dict[str, str] = {}
        ready = wait_until(lambda: listen.update(_status(pid, place)) or bool(listen), 60)
        bench.check(ready, f"not ready: {(bench.world.directory / 'container.log').read_text()[-400:]}")
        if not ready:
            return
        for process in _processes(pid):
            facts = dict(re.findall(r"^(\w+):\s+(\S+)", (process / "status").read_text(), re.MULTILINE))
            name = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80]
            bench.check(facts["Uid"] == str(_NOBODY), f"{name} runs as {facts['Uid']}")
            for kind in ("CapEff", "CapPrm", "CapBnd"):
                bench.check(int(facts[kind], 16) == 0, f"{name} has {kind} {facts[kind]}")
            bench.check(facts["NoNewPrivs"] == "1", f"{name} may get privileges")
        mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        roots = [line.split()[5] for line in mounts if line.split()[4] == "/"]
        bench.check(roots and roots[-1].startswith("ro"), f"the root file system is {roots[-1:]}")
        host, _, port = listen["explicit"].rpartition(":")
        with socket.create_connection((host, int(port)), 5) as client:
            client.sendall(b"GET http://evil.test/x HTTP/1.1\r\nHost: evil.test\r\n\r\n")
            bench.check(client.recv(64).startswith(b"HTTP/1.1 40"), "the contained product does not judge")


@procedure("OPS-02")
def dockerfile(bench: Bench) -> None:
    """The last stage: a numeric user that is not root, files that are root's, no secret, no file from the network."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    last = max(at for at, step in enumerate(steps) if step[0] == "FROM")
    stage = steps[last:]
    users = [text for verb, text in stage if verb == "USER"]
    bench.check(users and re.fullmatch(r"[1-9][0-9]*(:[1-9][0-9]*)?", users[-1]), f"the image runs as {users}")
    bench.check(
        stage.index(["USER", users[-1]]) < min(at for at, step in enumerate(stage) if step[0] in {"ENTRYPOINT", "CMD"}),
        "the user is set too late",
    )
    bench.check(not [text for verb, text in steps if verb == "ADD"], "ADD fetches or unpacks")
    owned = [text for verb, text in stage if verb == "COPY" and "--chown" in text and "--chown=root:root" not in text]
    bench.check(not owned, f"files that the running user may change: {owned}")
    named = [text for verb, text in steps if verb in {"ENV", "ARG"} and re.search(r"KEY|SECRET|TOKEN|PASS", text)]
    bench.check(not named, f"a secret in the image: {named}")
    images = [text.split()[0] for verb, text in steps if verb == "FROM"]
    bench.check(all(":" in image and ":latest" not in image for image in images), f"images without a version: {images}")
    bench.check(any(verb == "HEALTHCHECK" for verb, _ in stage), "no health check")
