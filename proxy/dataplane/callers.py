"""Who calls, for programs that connect for each call: a proof that was good a moment ago is good for the next one."""

import hashlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proxy.config.snapshot import Snapshot
from proxy.errors import Denied
from proxy.identity import identify
from proxy.keys.tokens import TokenClaims, verify
from proxy.model import Principal

if TYPE_CHECKING:
    from proxy.dataplane.services import Services

# A clock that jumps is noticed within this; the end of a token, a new policy or a revocation at once.
IDENTITY_S: Final = 1.0
MAX_CALLERS: Final = 4096


class Caller:
    """A principal, the policy and revocations that it was found under, and the loop time until which it holds."""

    __slots__ = ("principal", "revoked", "snapshot", "until_s")

    def __init__(self, principal: Principal, snapshot: Snapshot, revoked: object, until_s: float) -> None:
        self.principal = principal
        self.snapshot = snapshot
        self.revoked = revoked
        self.until_s = until_s


class Callers:
    """Those of one worker. Credentials are known by a keyed digest, and refusals are not remembered."""

    def __init__(self, services: "Services", *, clock: Callable[[], float] = time.time) -> None:
        self._services = services
        self._clock = clock
        self._key = os.urandom(32)
        self._known: dict[tuple[str, bytes | None], Caller] = {}

    def holds(self, caller: Caller, now_s: float) -> bool:
        """Whether nothing has changed since. `now_s` is loop time."""
        watcher = self._services.watcher
        return caller.snapshot is watcher.current and caller.revoked is watcher.revoked and now_s < caller.until_s

    def find(self, client_ip: str, credential: bytes | None, now_s: float) -> Caller:
        """Who calls, by the policy of this moment. Denied: identity_unknown, policy_unavailable."""
        key = (client_ip, self._digest(credential))
        caller = self._known.get(key)
        if caller is None or not self.holds(caller, now_s):
            caller = self._identified(client_ip, credential, now_s)
            if len(self._known) >= MAX_CALLERS:
                self._known.clear()
            self._known[key] = caller
        return caller

    def _digest(self, credential: bytes | None) -> bytes | None:
        return None if credential is None else hashlib.blake2b(credential, digest_size=32, key=self._key).digest()

    def _identified(self, client_ip: str, credential: bytes | None, now_s: float) -> Caller:
        watcher, root = self._services.watcher, self._services.root
        snapshot, revoked, time_s = watcher.current, watcher.revoked, self._clock()
        if snapshot is None:
            raise Denied("policy_unavailable")
        left_s = IDENTITY_S

        def verified(token: str) -> TokenClaims:
            nonlocal left_s
            claims = verify(root, token, time_s)
            left_s = min(left_s, claims.expires_at_s - time_s)
            return claims

        principal = identify(snapshot, client_ip, credential, verify=verified, revoked=revoked)
        return Caller(principal, snapshot, revoked, now_s + left_s)
