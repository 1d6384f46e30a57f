"""Connections to upstreams: vetted, verified, kept alive, never shared between apps or policies.

A connection is handed out again only when the last answer on it ended exactly where its framing said.
"""

import asyncio
import ssl
from collections import OrderedDict
from typing import Final

from proxy.config.snapshot import Entry, Network
from proxy.dataplane.channel import Channel
from proxy.dataplane.verifier import upstream_context
from proxy.effects import Aborted
from proxy.errors import Denied
from proxy.model import Authority
from proxy.net.dial import OwnAddresses, Resolves, connect, vetted_addresses
from proxy.values import dataclass

# Providers close idle connections after 30 to 75 s; we must be first, since a POST cannot be sent twice.
IDLE_S: Final = 25.0
CONNECT_DEADLINE_S: Final = 8.0
HANDSHAKE_DEADLINE_S: Final = 8.0
MAX_IDLE_PER_KEY: Final = 64
MAX_IDLE: Final = 1024
_MAX_SESSIONS: Final = 1024
_MAX_ASKED: Final = 1024


@dataclass(frozen=True, slots=True)
class PoolKey:
    """All that must be equal for a connection to serve another request."""

    app: str
    authority: Authority
    addresses: tuple[Network, ...] | None
    upstream_ca: str | None


class Place:
    """Where connections of one key wait for their next request. `kept`: the pool still knows it."""

    __slots__ = ("idle", "kept", "key")

    def __init__(self, key: PoolKey) -> None:
        self.key = key
        self.idle: list[Upstream] = []
        self.kept = True


class Upstream:
    """One connection and where it may be used again."""

    __slots__ = ("channel", "idle_until_s", "peer_ip", "place", "reused")

    def __init__(self, place: Place, channel: Channel) -> None:
        self.place = place
        self.channel = channel
        self.peer_ip = channel.peer_ip
        self.reused = False
        self.idle_until_s = 0.0

    @property
    def usable(self) -> bool:
        """False when the peer has closed, or has sent something nobody asked for."""
        channel = self.channel
        return not (channel.eof or channel.lost or channel.buffer)


class UpstreamPool:
    """One per worker."""

    def __init__(self, resolver: Resolves, own: OwnAddresses) -> None:
        self._resolver = resolver
        self._own = own
        self._places: dict[PoolKey, Place] = {}
        # By the very objects of an app's policy and connection, which are kept, so that their ids are not given again:
        # a key's hash goes through every network that the entry names.
        self._asked: dict[tuple[str, int, int], tuple[Entry, Authority, Place]] = {}
        self._idle_count = 0
        self._live: set[Channel] = set()
        self._sessions: OrderedDict[PoolKey, tuple[ssl.SSLContext, ssl.SSLSession]] = OrderedDict()
        self.dialled = 0
        self.taken = 0

    async def take(self, app: str, entry: Entry, authority: Authority, *, fresh: bool = False) -> Upstream:
        """A connection for `authority`. Denied: ip_denied, self_connection, upstream_dns/unreachable/timeout/tls."""
        asked = self._asked.get((app, id(entry), id(authority)))
        place = asked[2] if asked is not None else self._asked_place(app, entry, authority)
        while place.idle and not fresh:
            upstream = place.idle.pop()
            self._idle_count -= 1
            if upstream.usable:
                upstream.reused = True
                self.taken += 1
                return upstream
            upstream.channel.abort()
        self.dialled += 1
        return Upstream(place, await self._dial(place.key, entry))

    def _asked_place(self, app: str, entry: Entry, authority: Authority) -> Place:
        place = self._place(PoolKey(app, authority, entry.addresses, entry.upstream_ca))
        if len(self._asked) >= _MAX_ASKED:
            self._asked.clear()
        self._asked[app, id(entry), id(authority)] = entry, authority, place
        return place

    def _place(self, key: PoolKey) -> Place:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place(key)
        return place

    def give_back(self, upstream: Upstream, *, idle_s: float = IDLE_S) -> None:
        """Keeps a connection whose last answer is complete, or closes it when there are enough."""
        if not upstream.usable or idle_s <= 0:
            upstream.channel.abort()
            return
        if not upstream.reused:
            self._remember(upstream)
        if not upstream.place.kept:
            upstream.place = self._place(upstream.place.key)
        idle = upstream.place.idle
        if len(idle) >= MAX_IDLE_PER_KEY or self._idle_count >= MAX_IDLE:
            upstream.channel.close()
            return
        upstream.idle_until_s = upstream.channel.loop.time() + min(idle_s, IDLE_S)
        idle.append(upstream)
        self._idle_count += 1

    def sweep(self, now_s: float) -> None:
        """Closes what has been idle for too long or closed by the peer; wakes whoever waits on a connection past its
        deadline. `now_s` is loop time."""
        for channel in list(self._live):
            if channel.lost:
                self._live.discard(channel)
            elif channel.deadline_s is not None and channel.deadline_s <= now_s:
                channel.expire()
        for place in list(self._places.values()):
            kept = [upstream for upstream in place.idle if upstream.usable and upstream.idle_until_s > now_s]
            for upstream in place.idle:
                if upstream not in kept:
                    upstream.channel.close()
            self._idle_count -= len(place.idle) - len(kept)
            place.idle = kept
            if not kept:
                self._forget(place)

    def _forget(self, place: Place) -> None:
        place.kept = False
        del self._places[place.key]
        self._asked.clear()

    def close(self) -> None:
        """Drops all idle connections."""
        self.sweep(float("inf"))

    async def dial_raw(self, entry: Entry, authority: Authority) -> Channel:
        """A plain TCP connection to a vetted address (pass-through tunnels)."""
        ips = await vetted_addresses(self._resolver, authority, entry.addresses)
        sock = await connect(ips, authority.port, own=self._own, deadline_s=CONNECT_DEADLINE_S)
        loop = asyncio.get_running_loop()
        try:
            _, channel = await loop.create_connection(lambda: Channel("upstream"), sock=sock)
        except OSError:
            sock.close()
            raise Denied("upstream_unreachable", f"{authority} closed the connection at once") from None
        self._live.add(channel)
        return channel

    async def _dial(self, key: PoolKey, entry: Entry) -> Channel:
        channel = await self.dial_raw(entry, key.authority)
        if key.authority.scheme == "http":
            return channel
        try:
            context = upstream_context(entry.upstream_ca)
            # A session is good with the context that it was made with only; contexts are made anew after many roots.
            known, session = self._sessions.get(key, (None, None))
            async with asyncio.timeout(HANDSHAKE_DEADLINE_S):
                await channel.start_tls(
                    context,
                    server_side=False,
                    server_hostname=key.authority.host,
                    session=session if known is context else None,
                )
        except ssl.SSLCertVerificationError as error:
            channel.abort()
            raise Denied("upstream_tls", f"{key.authority}: {error.verify_message}") from None
        except (ssl.SSLError, Aborted):
            channel.abort()
            raise Denied(
                "upstream_tls",
                f"{key.authority}: the TLS handshake failed",
                remedy="Check that the service speaks TLS 1.2 or newer on this port.",
            ) from None
        except TimeoutError:
            channel.abort()
            raise Denied(
                "upstream_timeout", f"{key.authority}: no TLS handshake in {HANDSHAKE_DEADLINE_S:g} s"
            ) from None
        except BaseException:
            channel.abort()
            raise
        return channel

    def _remember(self, upstream: Upstream) -> None:
        tls = upstream.channel.tls
        session = tls.session if tls is not None else None
        if tls is not None and session is not None and session.has_ticket:
            self._sessions[upstream.place.key] = tls.context, session
            self._sessions.move_to_end(upstream.place.key)
            if len(self._sessions) > _MAX_SESSIONS:
                self._sessions.popitem(last=False)
