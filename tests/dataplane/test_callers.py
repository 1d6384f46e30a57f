"""What was proved a moment ago is not proved again, and holds not a moment longer than the proof."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.dataplane import callers
from proxy.dataplane.callers import IDENTITY_S, Caller, Callers
from proxy.errors import Denied
from proxy.keys.tokens import issue
from tests.identity.test_identity import NOW_S, ROOT, SNAPSHOT

IP = "192.0.2.7"


class World:
    """Callers of a worker whose policy, revocations and clocks a test sets."""

    def __init__(self) -> None:
        self.watcher = SimpleNamespace(current=SNAPSHOT, revoked=frozenset[str]())
        self.wall_s, self.loop_s = NOW_S, 50.0
        services: Any = SimpleNamespace(watcher=self.watcher, root=ROOT)
        self.callers = Callers(services, clock=lambda: self.wall_s)

    def find(self, credential: bytes | None, ip: str = IP) -> Caller:
        return self.callers.find(ip, credential, self.loop_s)

    def sleep(self, seconds: float) -> None:
        self.wall_s += seconds
        self.loop_s += seconds


def _bearer(ttl_s: int = 3600) -> tuple[bytes, str]:
    token, token_id = issue(ROOT, "tok", ttl_s, NOW_S)
    return b"Bearer " + token.encode(), token_id


def test_the_same_proof_is_looked_at_once() -> None:
    world, (credential, _) = World(), _bearer()
    first = world.find(credential)
    assert first.principal.app == "tok"
    world.sleep(IDENTITY_S / 2)
    assert world.find(credential) is first
    world.sleep(IDENTITY_S / 2)
    assert world.find(credential) is not first


def test_another_credential_or_address_is_another_caller() -> None:
    world, (credential, _) = World(), _bearer()
    world.find(credential)
    with pytest.raises(Denied):
        world.find(None)
    with pytest.raises(Denied):
        world.find(credential + b"x")
    with pytest.raises(Denied, match=r"belongs to app net"):
        world.find(credential, "10.1.2.3")
    assert world.find(None, "10.1.2.3").principal.app == "net"


def test_a_revocation_holds_at_once() -> None:
    world, (credential, token_id) = World(), _bearer()
    caller = world.find(credential)
    world.watcher.revoked = frozenset({token_id})
    assert not world.callers.holds(caller, world.loop_s)
    with pytest.raises(Denied, match="revoked"):
        world.find(credential)


def test_a_new_policy_holds_at_once() -> None:
    world, (credential, _) = World(), _bearer()
    caller = world.find(credential)
    world.watcher.current = replace(SNAPSHOT, seq=2, apps={})
    assert not world.callers.holds(caller, world.loop_s)
    with pytest.raises(Denied, match="does not know"):
        world.find(credential)
    world.watcher.current = None
    with pytest.raises(Denied) as refused:
        world.find(credential)
    assert refused.value.code == "policy_unavailable"


def test_a_token_that_ends_is_refused_from_then_on() -> None:
    """On an old connection and on a new one: what is remembered ends with the token."""
    world, (credential, _) = World(), _bearer(ttl_s=10)
    world.sleep(9.75)
    caller = world.find(credential)
    world.sleep(0.125)
    assert world.callers.holds(caller, world.loop_s)
    world.sleep(0.125)
    assert not world.callers.holds(caller, world.loop_s)
    with pytest.raises(Denied, match="expired"):
        world.find(credential)


def test_neither_credentials_nor_too_many_callers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "MAX_CALLERS", 2)
    world, (credential, _) = World(), _bearer()
    for number in range(5):
        world.find(credential, f"192.0.2.{number}")
        assert len(world.callers._known) <= 2
    assert credential not in {digest for _, digest in world.callers._known}
