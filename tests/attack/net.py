"""The laboratory's wires: three network namespaces (app, gw, net), a packet log, and a resolver that obeys the case.

`net` owns every address (a local default route), so that whatever the proxy dials is seen: open ports by their
servers, all others by the packet log, which holds every SYN and datagram that leaves `gw`.
"""

import contextlib
import os
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

APP4, APP6 = "10.77.1.2", "fd77:1::2"
LAST_APP = 9
"""The app's namespace has 10.77.1.N (redirected) and 10.77.3.N (towards the explicit listener) for N from 2 to this."""
GW4, GW6, GW_OUT4, GW_OUT6, GW_EXPLICIT = "10.77.1.1", "fd77:1::1", "10.77.2.1", "fd77:2::1", "10.77.3.1"
NET4, NET6, DNS4 = "10.77.2.10", "fd77:2::10", "10.77.2.53"
TOOLS = ("ip", "nft", "unshare", "sysctl", "mount")


def missing() -> str:
    """Why the namespaces cannot be made here, in words for the terminal, or ""."""
    if os.geteuid() != 0:
        return "make attack needs root: it makes network namespaces (run it with sudo, or in a privileged container)"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian, Ubuntu: apt install iproute2 nftables util-linux procps)"
    probe = f"atk-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"the kernel gives no network namespaces here: {made.stderr.strip()}"
    veth = ["ip", "-n", probe, "link", "add", "v0", "type", "veth", "peer", "name", "v1"]
    paired = subprocess.run(veth, capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return f"the kernel gives no veth devices here: {paired.stderr.strip()}" if paired.returncode else ""


def sweep() -> None:
    """Deletes the namespaces of runs that were killed."""
    for file in Path("/run/netns").glob("atk*"):
        owner = re.fullmatch(r"atk([0-9]+)(?:app|gw|net)", file.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            subprocess.run(["ip", "netns", "del", file.name], check=False, capture_output=True)


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command of ours that must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, **options)


class Namespace:
    """One namespace with a thread of its own: sockets made by `call` stay in it."""

    def __init__(self, name: str, *, resolv_conf: Path | None = None) -> None:
        self.name = name
        self._resolv_conf = resolv_conf
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        self._pool = ThreadPoolExecutor(1, initializer=self._enter, thread_name_prefix=name)

    def _enter(self) -> None:
        with Path(f"/run/netns/{self.name}").open() as file:
            os.setns(file.fileno(), os.CLONE_NEWNET)
        if self._resolv_conf is not None:
            # A view of the file system of this thread's own: what it starts asks our resolver and no other.
            os.unshare(os.CLONE_NEWNS)
            run("mount", "--make-rprivate", "/")
            run("mount", "--bind", str(self._resolv_conf), "/etc/resolv.conf")

    def call[T](self, act: Callable[[], T]) -> T:
        """`act()` in the namespace."""
        future: Future[T] = self._pool.submit(act)
        return future.result()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command inside that must succeed."""
        return run("ip", "netns", "exec", self.name, *command)

    def try_run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command inside that may fail."""
        full = ["ip", "netns", "exec", self.name, *command]
        return subprocess.run(full, capture_output=True, text=True, check=False, timeout=60, **options)

    def close(self) -> None:
        """Deletes it."""
        self._pool.shutdown(wait=False)
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


@dataclass(frozen=True, slots=True)
class Packet:
    """A first packet on the wire behind the proxy. `kind`: `syn` or `udp`."""

    time_s: float
    kind: str
    ip: str
    port: int


class Wires:
    """The three namespaces, linked and addressed."""

    def __init__(self, directory: Path) -> None:
        prefix = f"atk{os.getpid()}"
        resolv = directory / "resolv.conf"
        resolv.write_text(f"nameserver {DNS4}\noptions timeout:1 attempts:1\n")
        self.app, self.net = Namespace(f"{prefix}app"), Namespace(f"{prefix}net")
        self.gw = Namespace(f"{prefix}gw", resolv_conf=resolv)
        self.packets: list[Packet] = []
        self._stop = threading.Event()
        self._link(self.app, "app0", self.gw, "gw0")
        self._link(self.gw, "gw1", self.net, "net0")
        self._link(self.app, "app1", self.gw, "gw2")
        for space in (self.app, self.gw, self.net):
            space.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")
        for space, device, addresses in (
            (self.app, "app0", (*(f"10.77.1.{n}/24" for n in range(2, LAST_APP + 1)), f"{APP6}/64")),
            (self.app, "app1", tuple(f"10.77.3.{n}/24" for n in range(2, LAST_APP + 1))),
            (self.gw, "gw2", (f"{GW_EXPLICIT}/24",)),
            (self.gw, "gw0", (f"{GW4}/24", f"{GW6}/64")),
            (self.gw, "gw1", (f"{GW_OUT4}/24", f"{GW_OUT6}/64")),
            (self.net, "net0", (f"{NET4}/24", f"{DNS4}/24", f"{NET6}/64")),
        ):
            for address in addresses:
                nodad = ["nodad"] if ":" in address else []
                run("ip", "-n", space.name, "addr", "add", address, "dev", device, *nodad)
        for space, four, six in ((self.app, GW4, GW6), (self.gw, NET4, NET6)):
            run("ip", "-n", space.name, "route", "add", "default", "via", four)
            run("ip", "-n", space.name, "-6", "route", "add", "default", "via", six)
        # In the main table, so that the connected networks (and with them the way back) stay more specific.
        run("ip", "-n", self.net.name, "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "main")
        run("ip", "-n", self.net.name, "-6", "route", "add", "local", "::/0", "dev", "lo", "table", "main")
        self._thread = threading.Thread(target=self._watch, args=(self.net.call(self._tap),), daemon=True)
        self._thread.start()

    def _link(self, left: Namespace, a: str, right: Namespace, b: str) -> None:
        run("ip", "-n", left.name, "link", "add", a, "type", "veth", "peer", "name", b, "netns", right.name)
        run("ip", "-n", left.name, "link", "set", a, "up")
        run("ip", "-n", right.name, "link", "set", b, "up")

    def _tap(self) -> socket.socket:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003))
        tap.bind(("net0", 0))
        tap.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: big downloads must not push a SYN out
        tap.settimeout(0.2)
        return tap

    def _watch(self, tap: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                data, (_, _, packet_type, *_) = tap.recvfrom(200)
            except TimeoutError:
                continue
            except OSError:
                return
            if packet_type != 4:  # PACKET_OUTGOING: our own answers
                self._note(data)
        tap.close()

    def _note(self, data: bytes) -> None:
        version = data[0] >> 4 if data else 0
        if version == 4:
            ip: IPv4Address | IPv6Address = IPv4Address(data[16:20])
            protocol, inner = data[9], data[(data[0] & 15) * 4 :]
        elif version == 6:
            ip, protocol, inner = IPv6Address(data[24:40]), data[6], data[40:]
        else:
            return
        if protocol == 6 and len(inner) > 13 and inner[13] & 0x12 == 0x02:
            self.packets.append(Packet(time.monotonic(), "syn", str(ip), int.from_bytes(inner[2:4])))
        elif protocol == 17 and len(inner) > 3:
            self.packets.append(Packet(time.monotonic(), "udp", str(ip), int.from_bytes(inner[2:4])))

    def close(self) -> None:
        """Deletes the namespaces."""
        self._stop.set()
        self._thread.join(2)
        for space in (self.app, self.gw, self.net):
            space.close()


# ---------------------------------------------------------------- resolver

_A, _CNAME, _AAAA = 1, 5, 28


@dataclass
class Query:
    """One question that reached the resolver. `name` as asked, lower case, without the end dot."""

    time_s: float
    name: str
    kind: int


@dataclass
class Resolver:
    """Answers from `zone`: name (or `*.suffix`) -> a list of answers given one after the other, the last for ever.

    An answer is a list of addresses (A and AAAA by their form), `{cname: other}`, `{rcode: n}`, `{silent: true}`,
    `{truncated: true}` or `{size: bytes}`. Every question is in `queries`.
    """

    zone: dict[str, list[Any]] = field(default_factory=dict)
    queries: list[Query] = field(default_factory=list)
    _asked: dict[tuple[str, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._standing = dict(self.zone)

    def standing(self) -> None:
        """Back to the zone that it began with."""
        self.zone = dict(self._standing)
        self._asked.clear()

    def serve(self, space: Namespace) -> None:
        """Listens in `space` on UDP and TCP."""

        def bind() -> tuple[socket.socket, socket.socket]:
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind((DNS4, 53))
            return udp, socket.create_server((DNS4, 53))

        self._udp, self._tcp = space.call(bind)
        threading.Thread(target=self._serve_udp, daemon=True).start()
        threading.Thread(target=self._serve_tcp, daemon=True).start()

    def close(self) -> None:
        """Stops."""
        self._udp.close()
        self._tcp.close()

    def set(self, names: Mapping[str, Sequence[Any]]) -> None:
        """Answers of one case, laid over the standing zone; counts begin anew."""
        self.zone.update({name.lower(): list(answers) for name, answers in names.items()})
        self._asked.clear()

    def _serve_udp(self) -> None:
        while True:
            try:
                data, peer = self._udp.recvfrom(4096)
            except OSError:
                return
            with contextlib.suppress(Exception):
                answer = self.answer(data)
                if answer:
                    self._udp.sendto(answer[:65000], peer)

    def _serve_tcp(self) -> None:
        while True:
            try:
                client, _ = self._tcp.accept()
            except OSError:
                return
            with client, contextlib.suppress(Exception):
                client.settimeout(2)
                size = int.from_bytes(client.recv(2))
                answer = self.answer(client.recv(size), tcp=True)
                client.sendall(len(answer).to_bytes(2) + answer)

    def answer(self, query: bytes, *, tcp: bool = False) -> bytes:
        """The reply to one message, b"" for silence."""
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1"))
            at += 1 + query[at]
        question, kind = query[12 : at + 5], int.from_bytes(query[at + 1 : at + 3])
        name = ".".join(labels).lower()
        self.queries.append(Query(time.monotonic(), name, kind))
        given = self._given(name, kind)
        if isinstance(given, dict) and given.get("silent"):
            return b""
        rcode, truncated, records = 0, False, b""
        count = 0
        owner = b"\xc0\x0c"
        if given is None:
            rcode = 3
        elif isinstance(given, dict) and "rcode" in given:
            rcode = int(given["rcode"])
        elif isinstance(given, dict) and given.get("truncated"):
            truncated = not tcp or bool(given.get("always"))
            given = given.get("then", [])
        if isinstance(given, dict) and "size" in given:
            given = ["203.0.113.10"] * (int(given["size"]) // 16)
        if isinstance(given, dict) and "cname" in given:
            target = _wire_name(given["cname"])
            records += owner + struct.pack("!HHIH", _CNAME, 1, 0, len(target)) + target
            count, owner = 1, target
            given = self._given(str(given["cname"]).lower(), kind) or []
        for text in given if isinstance(given, list) and not truncated else []:
            address = ip_address(text)
            if (address.version == 4) == (kind == _A) and kind in {_A, _AAAA}:
                packed = address.packed
                records += owner + struct.pack("!HHIH", kind, 1, 0, len(packed)) + packed
                count += 1
        flags = 0x8180 | (0x0200 if truncated else 0) | rcode
        return query[:2] + struct.pack("!HHHHH", flags, 1, count, 0, 0) + question + records

    def _given(self, name: str, kind: int) -> Any:
        answers = self.zone.get(name)
        rest = name
        while answers is None and "." in rest:
            rest = rest.partition(".")[2]
            answers = self.zone.get(f"*.{rest}")
        if answers is None:
            return None
        asked = self._asked.get((name, kind), 0)
        self._asked[name, kind] = asked + 1
        return answers[min(asked, len(answers) - 1)]


def _wire_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.strip(".").split(".")) + b"\0"
