"""What the app can reach at all, and what the proxy's own machine shows."""

import socket
from functools import partial

from tests.attack.net import GW4, GW_EXPLICIT, NET4
from tests.attack.procedures import Bench, procedure
from tests.attack.world import EXPLICIT, METRICS


@procedure("OPS-01")
def no_way_round(bench: Bench) -> None:
    """From the app's redirected side: nothing but the proxy answers, whatever the protocol."""
    wires = bench.world.wires
    if wires is None:
        return
    wires.packets.clear()

    def udp(address: str, port: int) -> bool:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.3)
            try:
                sock.connect((address, port))
                sock.send(b"exfil")
                sock.recv(100)
            except OSError:
                return False
            return True

    def ping(address: str) -> bool:
        return wires.app.try_run("ping", "-c1", "-W1", address).returncode == 0

    for address, port in ((NET4, 443), (NET4, 53), ("8.8.8.8", 53), ("8.8.8.8", 123), ("fd77:2::10", 443)):
        bench.check(not wires.app.call(partial(udp, address, port)), f"UDP {port} to {address} is answered")
    for address in (NET4, "8.8.8.8", "fd77:2::10"):
        bench.check(not ping(address), f"{address} answers a ping")
    for address, port in (("fd77:2::10", 80), ("fd00::66", 443)):
        try:
            with wires.app.call(partial(socket.create_connection, (address, port), 0.5)):
                bench.leak(f"TCP {port} to {address} is open")
        except OSError:
            continue
    leaked = [packet for packet in wires.packets if packet.ip != "10.77.2.53"]
    bench.check(not leaked, f"packets got through: {leaked[:3]}")


@procedure("ADM-01")
def admin_is_unreachable(bench: Bench) -> None:
    """From the app: the metrics listener and every other port of the proxy's machine."""
    wires = bench.world.wires
    if wires is None:
        return
    for address in (GW_EXPLICIT, GW4):
        for port in (METRICS, 22, 6379):
            try:
                with wires.app.call(partial(socket.create_connection, (address, port), 0.5)) as sock:
                    sock.settimeout(1)
                    sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                    bench.check(b"egress_" not in sock.recv(4096), f"metrics at {address}:{port}")
            except OSError:
                continue


@procedure("DST-38")
def relay_in_the_sandbox(bench: Bench) -> None:
    """A second process of the app that passes CONNECTs on gets the same decision."""
    world = bench.world
    with world.dial((GW_EXPLICIT, EXPLICIT)) as upstream:
        upstream.settimeout(3)
        upstream.sendall(b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\nVia: 1.1 relay\r\n\r\n")
        bench.check(b" 403 " in upstream.recv(200), "the relay got through")
    if world.wires:
        bench.check(not [p for p in world.wires.packets if p.ip == "203.0.113.66"], "a SYN went to the evil host")
