"""Names to addresses: a bounded, cached, deadlined front to the system resolver.

Answers are only facts here; `proxy.net.dial` vets them. The caller asks for allowed names only, so that a denied
name never leaves as a DNS query. Names are asked for as absolute ones (RFC 1034 section 3.1): search domains of
resolv.conf would otherwise let another name answer for the one that policy allowed.
"""

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import Denied
from proxy.net.addresses import parse

type Lookup = Callable[[str], Sequence[str]]
"""Blocking: canonical host -> addresses; raises OSError (`socket.gaierror`) when there are none."""

_LOCALHOST = ("127.0.0.1", "::1")  # RFC 6761 section 6.3: never asked of a name server
# RFC 1035 answers fit far more; nobody needs to dial more, and each one is vetted and kept.
_MAX_ADDRESSES = 64


def system_lookup(host: str) -> tuple[str, ...]:
    """Look `host` up in /etc/hosts, then with getaddrinfo as an absolute name. Raises OSError."""
    listed = _hosts_file().get(host)
    if listed:
        return listed
    found = socket.getaddrinfo(host + ".", None, type=socket.SOCK_STREAM)
    return tuple(str(row[4][0]) for row in found)


def _hosts_file(path: Path = Path("/etc/hosts")) -> Mapping[str, tuple[str, ...]]:
    # glibc's `files` source does not match an absolute name ("a.test."), hence our own reading of the file.
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    names: dict[str, tuple[str, ...]] = {}
    for line in lines:
        address, *hosts = line.partition("#")[0].split() or [""]
        for host in hosts:
            key = host.lower().removesuffix(".")
            names[key] = (*names.get(key, ()), address)
    return names


@dataclass(frozen=True, slots=True)
class _Known:
    addresses: tuple[str, ...]
    until_s: float


class Resolver:
    """Resolves canonical hosts for one event loop.

    `static`: names that never reach DNS (platform.yaml `resolve:`), replaceable at a reload by assignment.
    `positive_ttl_s` is short because getaddrinfo hides the record's own; failures are kept `negative_ttl_s`.
    At most `max_entries` answers are kept and `max_pending` look-ups are under way; beyond: Denied overloaded.
    """

    def __init__(
        self,
        *,
        static: Mapping[str, Sequence[str]] | None = None,
        lookup: Lookup = system_lookup,
        clock: Callable[[], float] = time.monotonic,
        deadline_s: float = 5.0,
        positive_ttl_s: float = 5.0,
        negative_ttl_s: float = 1.0,
        max_entries: int = 4096,
        max_pending: int = 256,
        threads: int = 16,
    ) -> None:
        self.static: Mapping[str, Sequence[str]] = static or {}
        self._lookup = lookup
        self._clock = clock
        self._deadline_s = deadline_s
        self._positive_ttl_s = positive_ttl_s
        self._negative_ttl_s = negative_ttl_s
        self._max_entries = max_entries
        self._max_pending = max_pending
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="resolver")
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._pending: dict[str, asyncio.Future[tuple[str, ...]]] = {}

    async def resolve(self, host: str, port: int) -> tuple[str, ...]:
        """All addresses of canonical `host`, never empty. `port` only names the target in a denial.

        Raises Denied: upstream_dns (no such name, no answer in time), overloaded (too many look-ups under way).
        """
        known = self._fixed(host) or self._cached(host)
        if known is None:
            known = await self._ask(host)
        if not known:
            raise Denied("upstream_dns", f"{host}:{port}: the name {host} has no address")
        return known

    def close(self) -> None:
        """Give the threads up; look-ups under way are abandoned."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fixed(self, host: str) -> tuple[str, ...] | None:
        if host in self.static:
            return tuple(self.static[host])
        try:
            return (str(parse(host)),)
        except ValueError:
            return _LOCALHOST if host == "localhost" or host.endswith(".localhost") else None

    def _cached(self, host: str) -> tuple[str, ...] | None:
        known = self._known.get(host)
        if known is None or known.until_s <= self._clock():
            return None
        self._known.move_to_end(host)
        return known.addresses

    async def _ask(self, host: str) -> tuple[str, ...]:
        pending = self._pending.get(host)
        if pending is None:
            if len(self._pending) >= self._max_pending:
                raise Denied("overloaded", "Too many name look-ups are under way")
            pending = asyncio.get_running_loop().run_in_executor(self._pool, self._look_up, host)
            self._pending[host] = pending
            pending.add_done_callback(lambda done: self._keep(host, done))
        try:
            # Shielded: others may wait for the same look-up, and its thread cannot be stopped anyway.
            return await asyncio.wait_for(asyncio.shield(pending), self._deadline_s)
        except TimeoutError:
            raise Denied("upstream_dns", f"The name {host} was not resolved within {self._deadline_s:g} s") from None

    def _look_up(self, host: str) -> tuple[str, ...]:
        try:
            return tuple(dict.fromkeys(self._lookup(host)))[:_MAX_ADDRESSES]
        except (OSError, UnicodeError):
            return ()

    def _keep(self, host: str, done: asyncio.Future[tuple[str, ...]]) -> None:
        self._pending.pop(host, None)
        if done.cancelled() or done.exception() is not None:
            return
        addresses = done.result()
        ttl_s = self._positive_ttl_s if addresses else self._negative_ttl_s
        self._known[host] = _Known(addresses, self._clock() + ttl_s)
        self._known.move_to_end(host)
        while len(self._known) > self._max_entries:
            self._known.popitem(last=False)
