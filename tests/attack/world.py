"""Where runs happen: the product (or a baseline) between attackers and upstreams, and all that can be observed of it.

`NetWorld` has namespaces, a resolver and a packet log; `LoopWorld` needs no rights: loopback, names by `resolve:`.
"""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.attack import policy
from tests.attack.certs import BAD, OLD, Authorities
from tests.attack.client import Gate
from tests.attack.net import APP4, GW4, GW_EXPLICIT, GW_OUT4, Resolver, Wires
from tests.attack.upstreams import PORTS, Upstreams
from tests.attack.wire import SSN, Run
from tests.lab.product import ROOT, Product

EXPLICIT, TRANSPARENT, METRICS = 8080, 8081, 9090
IP = {"allowed": "203.0.113.10", "evil": "203.0.113.66", "nameless": "203.0.113.67", "cdn": "203.0.113.99"}
PUBLIC = "8.8.8.8"
PRIVATE = "10.9.8.7"
_ZONE: dict[str, list[Any]] = {
    "allowed.test": [[IP["allowed"]]], "*.allowed.test": [[IP["allowed"]]], "evil.test": [[IP["evil"]]],
    "*.evil.test": [[IP["evil"]]], "cdn.test": [[IP["cdn"]]], "redact.test": [[IP["allowed"]]],
    "path.test": [[IP["allowed"]]], "llm.test": [[IP["allowed"]]], "pinned.test": [["203.0.113.40"]],
    "internal.test": [[PRIVATE]], "*.pub.test": [[PUBLIC]], "self.test": [[GW_OUT4]],
    "metadata.google.internal": [["169.254.169.254"]],
    **{f"{kind}.bad.test": [[f"203.0.113.{101 + at}"]] for at, kind in enumerate(BAD)},
    **{f"{kind}.bad.test": [[f"203.0.113.{121 + at}"]] for at, kind in enumerate(OLD)},
}  # fmt: skip
_REDIRECT = ROOT / "deploy" / "transparent" / "egress-redirect"


class Trail:
    """Reads the audit files of a product as they grow."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offsets: dict[Path, int] = {}

    def more(self) -> list[tuple[dict[str, Any], str]]:
        """Records since the last call, with their lines."""
        found = []
        for file in sorted(self._directory.glob("*/*.jsonl")):
            with file.open("rb") as stream:
                stream.seek(self._offsets.get(file, 0))
                data = stream.read()
            end = data.rfind(b"\n") + 1
            self._offsets[file] = self._offsets.get(file, 0) + end
            found += [(json.loads(line), line.decode()) for line in data[:end].splitlines()]
        return found


class World:
    """What both have in common. `values`: what `${NAME}` stands for in this world."""

    name = ""
    product: Product | None = None
    resolver: Resolver | None = None
    wires: Wires | None = None

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.directory = Path(tempfile.mkdtemp(prefix="atk-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.authorities = Authorities(self.directory)
        self.upstreams = Upstreams(self.context_of)
        self.stack.callback(self.upstreams.close)
        self.trail: Trail | None = None
        self._numbers = itertools.count(1)
        self.values: dict[str, Any] = {}
        self.baseline = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def token(self) -> str:
        """A word that stands for the case's data: no recogniser's business, and unique."""
        return f"zq{next(self._numbers):05d}k"

    def context_of(self, ip: str) -> ssl.SSLContext | None:
        """The certificate that a server at `ip` has."""
        raise NotImplementedError

    def trust(self) -> ssl.SSLContext:
        """What an app of this world trusts: the proxy's CA (and, for pass-through, the laboratory's)."""
        raise NotImplementedError

    def gate(self, run: Run) -> Gate:
        """The way to the proxy for one run."""
        raise NotImplementedError

    def metrics(self) -> Counter[str]:
        """`egress_denied_total` by reason, all apps together."""
        totals: Counter[str] = Counter()
        for line in self.page("/metrics").splitlines():
            found = re.match(r'egress_denied_total\{[^}]*reason="([a-z_]+)"[^}]*\} ([0-9.e+]+)', line)
            if found:
                totals[found[1]] += int(float(found[2]))
        return totals

    def page(self, path: str) -> str:
        """A page of the metrics listener."""
        raise NotImplementedError


class NetWorld(World):
    """Three namespaces. `baseline`: a command of another proxy instead of ours (see baseline/)."""

    name = "namespaces"
    baseline_process: "subprocess.Popen[bytes] | None" = None

    def __init__(self, *, baseline: str = "", extra: tuple[str, ...] = ()) -> None:
        super().__init__()
        try:
            self._build(baseline, extra)
        except BaseException:
            self.stack.close()
            raise

    def _build(self, baseline: str, extra: tuple[str, ...]) -> None:
        self.wires = Wires(self.directory)
        self.stack.callback(self.wires.close)
        self.resolver = Resolver(dict(_ZONE))
        self.resolver.serve(self.wires.net)
        self.stack.callback(self.resolver.close)
        everywhere = [(host, port) for port in PORTS for host in ("0.0.0.0", "::")]
        everywhere = [pair for pair in everywhere if pair != ("0.0.0.0", 53)]
        self.wires.net.call(lambda: self.upstreams.listen([*everywhere, (IP["evil"], 53), (IP["allowed"], 53)]))
        self.wires.gw.call(lambda: self.upstreams.listen([("127.0.0.1", 9999), ("::1", 9999)]))
        self.ports = policy.Ports()
        self.values = {
            "A": "allowed.test", "AS": "allowed.test", "AN": "allowed.test", "AP": "allowed.test:80",
            "AC": "allowed.test:443", "APC": "allowed.test:80", "AIP": IP["allowed"],
            "E": "evil.test", "ES": "evil.test", "EN": "evil.test", "EC": "evil.test:443", "EPC": "evil.test:80",
            "EIP": IP["evil"], "P": "80", "S": "443", "PUBLIC": PUBLIC, "PRIVATE": PRIVATE, "GW": GW_EXPLICIT,
            "SSN": SSN, "TOKEN": "t", "EXPIRED": "e", "OTHERS": "o", "RP": "redact.test", "PATHP": "path.test",
        }  # fmt: skip
        self.baseline = bool(baseline)
        if baseline:
            from tests.attack.baseline.launch import start

            self.confdir = start(self, baseline)
        else:
            self._start_product(extra)
        self.stack.callback(self.wires.gw.try_run, str(_REDIRECT), "down", "-i", "gw0")
        self.wires.gw.run(str(_REDIRECT), "up", "-i", "gw0", "-p", str(TRANSPARENT), "-a")

    def _start_product(self, extra: tuple[str, ...]) -> None:
        wires = self.wires
        if wires is None:
            raise RuntimeError("no namespaces")
        self.apps = policy.namespaces_policy(self.ports)
        self.platform = dict(policy.PLATFORM)
        self.policy_dir = self.write_policy()
        state = self.directory / "state"
        state.mkdir(mode=0o700)
        listen = (
            "--explicit", f"{GW_EXPLICIT}:{EXPLICIT}", "--transparent", f"0.0.0.0:{TRANSPARENT}",
            "--metrics", f"127.0.0.1:{METRICS}",
        )  # fmt: skip
        self.product = product = Product(state, self.policy_dir, transparent=True, extra=(*listen, *extra))
        self.stack.callback(product.kill)
        wires.gw.call(product.start)
        self.stack.callback(product.stop)
        self.trail = Trail(product.paths.audit_dir)
        self.values |= _tokens(product)

    @property
    def alive(self) -> bool:
        """The proxy's process is there."""
        process = self.product.process if self.product else self.baseline_process
        return process is not None and process.poll() is None

    def write_policy(self) -> Path:
        """The files of `apps` and `platform`."""
        root = self.authorities.root.pem
        return policy.write(self.directory / "allowlists", self.apps, self.platform, root)

    def push(self) -> None:
        """Publishes `apps` and `platform` as they now are; returns when the workers use them."""
        if self.product is None:
            return
        self.write_policy()
        self.product.cli("push", str(self.policy_dir), "--yes", "--reason", "attack")
        self.product.admin("reload")

    def context_of(self, ip: str) -> ssl.SSLContext | None:
        number = int(ip.rpartition(".")[2]) if ip.startswith("203.0.113.") else -1
        if 101 <= number < 101 + len(BAD):
            return self.authorities.bad(BAD[number - 101])
        if 121 <= number < 121 + len(OLD):
            return self.authorities.bad(list(OLD)[number - 121])
        names = {
            IP["evil"]: ("evil.test", "*.evil.test"), IP["cdn"]: ("cdn.test", "allowed.test", "evil.test"),
            IP["nameless"]: (IP["nameless"],), "203.0.113.40": ("pinned.test",),
            IP["allowed"]: ("allowed.test", "*.allowed.test", "*.a.allowed.test", "path.test", "redact.test",
                            "llm.test"),
        }  # fmt: skip
        return self.authorities.context(*names.get(ip, ("*.pub.test", "internal.test")))

    def trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        context.load_verify_locations(self.authorities.file)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context

    @property
    def ca_file(self) -> Path:
        """The CA that the apps trust."""
        return self.product.paths.ca_cert if self.product else self.confdir / "mitmproxy-ca-cert.pem"

    def gate(self, run: Run) -> Gate:
        return Gate(self.dial, (GW_EXPLICIT, EXPLICIT), self.trust, self.values)

    def dial(self, address: tuple[str, int], source: str | None = None) -> socket.socket:
        """A connection from the app's namespace. `source`: the last octet of the app's address."""
        wires = self.wires
        if wires is None:
            raise RuntimeError("no namespaces")
        network = "10.77.3" if address[0] == GW_EXPLICIT else "10.77.1"
        bind = (f"{network}.{source or 2}", 0) if ":" not in address[0] else None
        return wires.app.call(lambda: socket.create_connection(address, 5, source_address=bind))

    def page(self, path: str) -> str:
        wires, product = self.wires, self.product
        if wires is None or product is None:
            return ""
        return wires.gw.call(lambda: product.page(path)[1])

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`egress ARGUMENTS` on the proxy's machine."""
        if self.product is None:
            raise RuntimeError("a baseline has no command line of ours")
        return self.product.cli(*arguments, check=check)


class LoopWorld(World):
    """Loopback only: explicit modes, no packet log, no resolver."""

    name = "loopback"

    def __init__(self) -> None:
        super().__init__()
        try:
            self._build()
        except BaseException:
            self.stack.close()
            raise

    def _build(self) -> None:
        bound = self.upstreams.listen([("127.0.0.1", 0)] * 3)
        self.ports = ports = policy.Ports(*(port for _, port in bound))
        names = (
            "allowed.test",
            "a.allowed.test",
            "a.b.allowed.test",
            "cdn.test",
            "redact.test",
            "path.test",
            "llm.test",
        )
        platform = {**policy.PLATFORM, "resolve": dict.fromkeys(names, "127.0.0.1")}
        apps = policy.loopback_policy(ports)
        directory = policy.write(self.directory / "allowlists", apps, platform, self.authorities.root.pem)
        state = self.directory / "state"
        state.mkdir(mode=0o700)
        self.product = Product(state, directory)
        self.stack.callback(self.product.kill)
        self.product.start()
        self.stack.callback(self.product.stop)
        self.trail = Trail(self.product.paths.audit_dir)
        http, https = ports.http, ports.https
        self.values = {
            "A": f"allowed.test:{http}", "AS": f"allowed.test:{https}", "AN": "allowed.test",
            "AP": f"allowed.test:{http}", "AC": f"allowed.test:{https}", "APC": f"allowed.test:{http}",
            "AIP": "127.0.0.1", "E": f"evil.test:{http}", "ES": f"evil.test:{https}", "EN": "evil.test",
            "EC": f"evil.test:{https}", "EPC": f"evil.test:{http}", "EIP": "127.0.0.66", "P": str(http),
            "S": str(https), "SSN": SSN, "RP": f"redact.test:{http}", "PATHP": f"path.test:{http}",
            **_tokens(self.product),
        }  # fmt: skip

    def context_of(self, ip: str) -> ssl.SSLContext | None:
        return self.authorities.context("allowed.test", "*.allowed.test", "cdn.test", "redact.test", "path.test")

    def trust(self) -> ssl.SSLContext:
        if self.product is None:
            raise RuntimeError("no product")
        return self.product.trust

    def gate(self, run: Run) -> Gate:
        if self.product is None:
            raise RuntimeError("no product")
        host, _, port = self.product.listen["explicit"].rpartition(":")
        return Gate(lambda address, _: socket.create_connection(address, 5), (host, int(port)), self.trust, self.values)

    def page(self, path: str) -> str:
        return self.product.page(path)[1] if self.product else ""


def _tokens(product: Product) -> dict[str, str]:
    """Proxy tokens of the token holder: good, expired (issued two hours ago for one), and of another app."""
    return {
        "TOKEN": product.token("holder"), "EXPIRED": product.token("holder", ttl_s=60, now_s=time.time() - 7200),
        "OTHERS": product.token("alpha"),
    }  # fmt: skip


def interpreter() -> str:
    """Our Python, for procedures that start processes."""
    return sys.executable


def rss_bytes(pids: list[int]) -> int:
    """Resident memory of the processes together (those that are gone count nothing)."""
    total = 0
    for pid in pids:
        try:
            total += int(re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0]) * 1024
        except (OSError, IndexError):
            continue
    return total


def send_signal(pid: int, number: signal.Signals) -> None:
    """A signal to one process that we started."""
    os.kill(pid, number)


def wait_until(look: Any, seconds: float) -> bool:
    """True as soon as `look()` is; False when it was not within `seconds`."""
    until_s = time.monotonic() + seconds
    while not look():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.02)
    return True


__all__ = ["APP4", "GW4", "LoopWorld", "Mapping", "NetWorld", "World", "rss_bytes", "send_signal", "wait_until"]
