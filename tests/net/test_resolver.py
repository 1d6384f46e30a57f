"""The resolver: absolute names, caching, coalescing, bounds and deadlines."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.errors import Denied
from proxy.net import resolver as module
from proxy.net.resolver import Resolver


class Names:
    """A name service in memory that counts what it was asked."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self.answers = {name.replace("_", "."): answer for name, answer in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self.answers[host]


@contextmanager
def resolver(lookup: module.Lookup, **options: object) -> Iterator[Resolver]:
    made = Resolver(lookup=lookup, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()


def refused(code: str, resolve: Callable[[], object]) -> Denied:
    with pytest.raises(Denied) as caught:
        resolve()
    assert caught.value.code == code
    return caught.value


def test_answers_in_order_without_repeats() -> None:
    names = Names(a_test=["192.0.2.1", "2001:db8::1", "192.0.2.1"])
    with resolver(names) as r:
        assert asyncio.run(r.resolve("a.test", 443)) == ("192.0.2.1", "2001:db8::1")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("203.0.113.5", ("203.0.113.5",)),
        ("fd00::66", ("fd00::66",)),
        ("localhost", ("127.0.0.1", "::1")),
        ("x.localhost", ("127.0.0.1", "::1")),
        ("static.test", ("127.0.0.9",)),
    ],
)
def test_literals_localhost_and_static_names_are_never_asked(host: str, expected: tuple[str, ...]) -> None:
    names = Names()
    with resolver(names, static={"static.test": ["127.0.0.9"]}) as r:
        assert asyncio.run(r.resolve(host, 443)) == expected
    assert names.asked == []


def test_static_names_can_be_replaced_at_a_reload() -> None:
    with resolver(Names(a_test=["192.0.2.1"]), static={"a.test": ["127.0.0.9"]}) as r:
        r.static = {}
        assert asyncio.run(r.resolve("a.test", 443)) == ("192.0.2.1",)


def test_positive_and_negative_answers_are_kept_for_their_time_only() -> None:
    names, now = Names(a_test=["192.0.2.1"]), [0.0]

    async def run(r: Resolver) -> None:
        for _ in range(3):
            await r.resolve("a.test", 443)
            with pytest.raises(Denied):
                await r.resolve("no.test", 443)
        assert names.asked == ["a.test", "no.test"]
        now[0] = 1.5
        names.answers["no.test"] = ["192.0.2.2"]
        assert await r.resolve("no.test", 443) == ("192.0.2.2",)
        now[0] = 5.5
        names.answers["a.test"] = ["192.0.2.3"]
        assert await r.resolve("a.test", 443) == ("192.0.2.3",)

    with resolver(names, clock=lambda: now[0], positive_ttl_s=5, negative_ttl_s=1) as r:
        asyncio.run(run(r))


def test_a_missing_name_is_denied_by_name_and_port() -> None:
    with resolver(Names()) as r:
        denied = refused("upstream_dns", lambda: asyncio.run(r.resolve("no.test", 8443)))
    assert "no.test:8443" in denied.detail


def test_concurrent_callers_share_one_look_up_and_the_bound_holds() -> None:
    gate = threading.Event()
    asked: list[str] = []

    def slow(host: str) -> Sequence[str]:
        asked.append(host)
        gate.wait(10)
        return ["192.0.2.1"]

    async def run(r: Resolver) -> None:
        waiting = [asyncio.create_task(r.resolve("a.test", 443)) for _ in range(20)]
        waiting.append(asyncio.create_task(r.resolve("b.test", 443)))
        await asyncio.sleep(0)
        with pytest.raises(Denied) as caught:
            await r.resolve("c.test", 443)
        assert caught.value.code == "overloaded"
        gate.set()
        assert set(await asyncio.gather(*waiting)) == {("192.0.2.1",)}

    with resolver(slow, max_pending=2) as r:
        asyncio.run(run(r))
    assert sorted(asked) == ["a.test", "b.test"]


def test_a_look_up_past_its_deadline_is_denied_and_its_late_answer_still_kept() -> None:
    gate, asked = threading.Event(), []

    def slow(host: str) -> Sequence[str]:
        asked.append(host)
        gate.wait(10)
        return ["192.0.2.1"]

    async def run(r: Resolver) -> None:
        with pytest.raises(Denied) as caught:
            await r.resolve("a.test", 443)
        assert caught.value.code == "upstream_dns"
        assert "0.01 s" in caught.value.detail
        gate.set()
        r._deadline_s = 10
        assert await r.resolve("a.test", 443) == ("192.0.2.1",)

    with resolver(slow, deadline_s=0.01) as r:
        asyncio.run(run(r))
    assert asked == ["a.test"]


def test_one_waiter_that_gives_up_does_not_take_the_answer_from_the_others() -> None:
    gate = threading.Event()

    def slow(host: str) -> Sequence[str]:
        gate.wait(10)
        return ["192.0.2.1"]

    async def run(r: Resolver) -> None:
        first, second = (asyncio.create_task(r.resolve("a.test", 443)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        gate.set()
        assert await second == ("192.0.2.1",)

    with resolver(slow) as r:
        asyncio.run(run(r))


def test_memory_is_bounded() -> None:
    async def run(r: Resolver) -> None:
        for number in range(50):
            await r.resolve(f"n{number}.test", 443)
        assert len(r._known) == 10
        assert not r._pending

    with resolver(lambda host: ["192.0.2.1"] * 500, max_entries=10) as r:
        asyncio.run(run(r))


def test_names_are_asked_for_as_absolute_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def record(host: str, port: object, **_: object) -> list[tuple[object, object, object, str, tuple[str, int]]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", record)
    assert module.system_lookup("api.unlisted.test") == ("192.0.2.1",)
    assert asked == ["api.unlisted.test."]


def test_the_hosts_file_is_read_with_comments_aliases_and_both_families(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# c\n127.0.0.9 A.test alias.test. # tail\n\n::9 a.test\nlonely\n")
    assert module._hosts_file(file) == {"a.test": ("127.0.0.9", "::9"), "alias.test": ("127.0.0.9",)}
    assert module._hosts_file(tmp_path / "none") == {}
