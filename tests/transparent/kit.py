"""Three network namespaces, app - gw - net, made here and torn down here; sockets are opened inside them.

`gw` forwards before the script under test runs, so that every closed way has first been seen open.
"""

import contextlib
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from shutil import which

SCRIPT = Path(__file__).parents[2] / "deploy" / "transparent" / "egress-redirect"
APP4, GW4, GW_OUT4, NET4 = "10.77.1.2", "10.77.1.1", "10.77.2.1", "10.77.2.10"
APP6, GW6, GW_OUT6, NET6 = "fd77:1::2", "fd77:1::1", "fd77:2::1", "fd77:2::10"
LISTENER, RESOLVER, ADMIN = 8081, 5353, 9090
TCP_PORTS = (22, 53, 80, 443, 853, 8443)
UDP_PORTS = (53, 123, 443, 4433)
WAIT_S = 0.4
SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h and netfilter_ipv6/ip6_tables.h


def missing() -> str:
    """Why these tests cannot run here, or ""."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [tool for tool in ("ip", "nft", "iptables", "ip6tables", "unshare", "sysctl") if which(tool) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (apt install iproute2 nftables iptables util-linux procps)"
    probe = f"egprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    veth = ["ip", "-n", probe, "link", "add", "v0", "type", "veth", "peer", "name", "v1"]
    paired = subprocess.run(veth, capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return f"no veth devices here: {paired.stderr.strip()}" if paired.returncode else ""


class Lab:
    """`app`, `gw`, `net`: namespace names."""

    def __init__(self) -> None:
        self.app, self.gw, self.net = (f"eg{os.getpid()}{name}" for name in ("app", "gw", "net"))
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    # -- set-up

    def up(self) -> None:
        """Namespaces, links, addresses, routes, forwarding, and servers in `net` and `gw`."""
        for name in (self.app, self.gw, self.net):
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
            # Duplicate address detection would hold IPv6 back for two seconds.
            _run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        self._link(self.app, "app0", self.gw, "gw0")
        self._link(self.gw, "gw1", self.net, "net0")
        for name, device, addresses in (
            (self.app, "app0", (f"{APP4}/24", f"{APP6}/64")),
            (self.gw, "gw0", (f"{GW4}/24", f"{GW6}/64")),
            (self.gw, "gw1", (f"{GW_OUT4}/24", f"{GW_OUT6}/64")),
            (self.net, "net0", (f"{NET4}/24", f"{NET6}/64")),
        ):
            for address in addresses:
                nodad = ["nodad"] if ":" in address else []
                _run("ip", "-n", name, "addr", "add", address, "dev", device, *nodad)
        for name, four, six in ((self.app, GW4, GW6), (self.net, GW_OUT4, GW_OUT6)):
            _run("ip", "-n", name, "route", "add", "default", "via", four)
            _run("ip", "-n", name, "-6", "route", "add", "default", "via", six)
        for key in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            _run("ip", "netns", "exec", self.gw, "sysctl", "-qw", key)
        for family, address in ((socket.AF_INET, NET4), (socket.AF_INET6, NET6)):
            self._serve(self.net, family, address, TCP_PORTS, UDP_PORTS, lambda _: b"net")
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            self._serve(self.gw, family, address, (LISTENER,), (RESOLVER,), original_destination)
            self._serve(self.gw, family, address, (ADMIN,), (), lambda _: b"admin")

    def _link(self, left: str, left_device: str, right: str, right_device: str) -> None:
        _run("ip", "-n", left, "link", "add", left_device, "type", "veth", "peer", "name", right_device, "netns", right)
        _run("ip", "-n", left, "link", "set", left_device, "up")
        _run("ip", "-n", right, "link", "set", right_device, "up")

    def down(self) -> None:
        """Stops the servers and deletes the namespaces."""
        self._stop.set()
        for thread in self._threads:
            thread.join(5)
        for name in (self.app, self.gw, self.net):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def _serve(
        self,
        namespace: str,
        family: socket.AddressFamily,
        address: str,
        tcp: tuple[int, ...],
        udp: tuple[int, ...],
        answer: Callable[[socket.socket], bytes],
    ) -> None:
        def bind() -> list[socket.socket]:
            bound = []
            for kind, ports in ((socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp)):
                for port in ports:
                    sock = socket.socket(family, kind)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    sock.bind((address, port))
                    if kind == socket.SOCK_STREAM:
                        sock.listen(16)
                    bound.append(sock)
            return bound

        sockets = inside(namespace, bind)
        thread = threading.Thread(target=self._answer, args=(sockets, answer), daemon=True)
        thread.start()
        self._threads.append(thread)

    def _answer(self, sockets: list[socket.socket], answer: Callable[[socket.socket], bytes]) -> None:
        while not self._stop.is_set():
            for sock in select.select(sockets, [], [], 0.05)[0]:
                with contextlib.suppress(OSError):
                    if sock.type == socket.SOCK_DGRAM:
                        data, peer = sock.recvfrom(2048)
                        sock.sendto(answer(sock) + b":" + data, peer)
                    else:
                        client, _ = sock.accept()
                        with client:
                            client.sendall(answer(client))
        for sock in sockets:
            sock.close()

    # -- the script under test

    def script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the shipped script inside the gateway."""
        command = ["ip", "netns", "exec", self.gw, str(SCRIPT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    # -- what the app tries

    def tcp(self, address: str, port: int) -> bytes | None:
        """What answers a TCP connection from the app, or None."""

        def attempt() -> bytes | None:
            try:
                with socket.create_connection((address, port), timeout=WAIT_S) as sock:
                    return sock.recv(200)
            except OSError:
                return None

        return inside(self.app, attempt)

    def udp(self, address: str, port: int) -> bytes | None:
        """What answers a datagram from the app: b"refused" for an ICMP error, None for silence."""

        def attempt() -> bytes | None:
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(WAIT_S)
                try:
                    sock.connect((address, port))
                    sock.send(b"hello")
                    return sock.recv(200)
                except TimeoutError:
                    return None
                except OSError:
                    return b"refused"

        return inside(self.app, attempt)

    def ping(self, address: str) -> bool:
        """Does an echo request from the app come back?"""
        six = ":" in address

        def attempt() -> bool:
            family, protocol = (
                (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
            )
            with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
                sock.settimeout(WAIT_S)
                request = struct.pack("!BBHHH", 128 if six else 8, 0, 0, os.getpid() & 0xFFFF, 1)
                checksum = 0xFFFF - sum(struct.unpack("!4H", request)) % 0xFFFF
                request = request[:2] + struct.pack("!H", checksum) + request[4:]
                sock.sendto(request, (address, 0))
                try:
                    while True:
                        data = sock.recv(2048)
                        if (data[0] == 129) if six else (data[20] == 0):
                            return True
                except OSError:
                    return False

        return inside(self.app, attempt)

    def raw(self, protocol: int) -> bool:
        """Does a packet of another IP protocol (SCTP, GRE ...) from the app reach `net`?"""

        def listener() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
            sock.settimeout(WAIT_S)
            return sock

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as sock, contextlib.suppress(OSError):
                sock.sendto(b"hello", (NET4, 0))

        with inside(self.net, listener) as receiver:
            inside(self.app, send)
            try:
                return b"hello" in receiver.recv(2048)
            except OSError:
                return False


def original_destination(sock: socket.socket) -> bytes:
    """`gw:ADDRESS:PORT` that the client dialled before the redirect, or b"gw" where there was none."""
    try:
        if sock.family == socket.AF_INET6:
            raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            port, address = struct.unpack("!H", raw[2:4])[0], socket.inet_ntop(socket.AF_INET6, raw[8:24])
        else:
            raw = sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
            port, address = struct.unpack("!H", raw[2:4])[0], socket.inet_ntoa(raw[4:8])
    except OSError:
        return b"gw"
    return f"gw:{address}:{port}".encode()


def inside[T](namespace: str, act: Callable[[], T]) -> T:
    """Runs `act` in a thread that lives in `namespace`; sockets it opens stay there."""

    def enter() -> T:
        with Path(f"/run/netns/{namespace}").open() as file:
            os.setns(file.fileno(), os.CLONE_NEWNET)
        return act()

    with ThreadPoolExecutor(1) as pool:  # a fresh thread each time: none of ours stays behind in a namespace
        return pool.submit(enter).result()


@contextmanager
def lab() -> Iterator[Lab]:
    """The three namespaces for the length of a test."""
    made = Lab()
    try:
        made.up()
        yield made
    finally:
        made.down()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
