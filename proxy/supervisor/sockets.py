"""Listening sockets: bound once by the supervisor, one per worker slot, handed to each worker of the slot.

The supervisor never closes its copies while it runs, so a connection that arrives while a worker restarts waits in
the slot's queue instead of being refused.
"""

import errno
import socket
from typing import Final

from proxy.supervisor.options import OFF

BACKLOG: Final = 4096


class CannotListen(Exception):
    """The address cannot be bound. `address` as configured, `why` in words."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(address, why)
        self.address = address
        self.why = why


def parse_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:8080` or `[::1]:8080` as (host, port); port 0 lets the kernel choose. Raises CannotListen."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    bracketed = bare != host
    if (
        not bare
        or "[" in bare
        or (":" in bare) is not bracketed
        or not port.isascii()
        or not port.isdigit()
        or int(port) > 65535
    ):
        raise CannotListen(text, "not of the form 127.0.0.1:8080 or [::1]:8080")
    return bare, int(port)


def format_address(host: str, port: int) -> str:
    """The inverse of `parse_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind_slots(address: str, slots: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> list[socket.socket]:
    """One SO_REUSEPORT socket per slot on one address, listening if TCP; empty for `off`. Raises CannotListen."""
    if address == OFF:
        return []
    host, port = parse_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port:
        _refuse_taken(family, kind, address, host, port)
    bound: list[socket.socket] = []
    try:
        for _ in range(slots):
            bound.append(_listen(family, kind, host, port))
            port = bound[0].getsockname()[1]
    except OSError as error:
        for listener in bound:
            listener.close()
        raise CannotListen(address, _why(error)) from error
    return bound


def _listen(family: socket.AddressFamily, kind: socket.SocketKind, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        if kind is socket.SOCK_STREAM:
            listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _refuse_taken(family: socket.AddressFamily, kind: socket.SocketKind, address: str, host: str, port: int) -> None:
    """SO_REUSEPORT would silently share the port with another proxy of the same user; without it bind tells."""
    with socket.socket(family, kind) as probe:
        if kind is socket.SOCK_STREAM:  # for UDP the option means sharing, as SO_REUSEPORT does
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotListen(address, _why(error)) from error


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another process listens there"
    if error.errno == errno.EACCES:
        return "ports below 1024 need root or CAP_NET_BIND_SERVICE"
    return (error.strerror or str(error)).lower()
