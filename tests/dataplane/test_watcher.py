"""A worker's policy while the store comes, goes, hangs and lies."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.config.manifest import Accepted, Manifest, Signer, parse, publisher_text
from proxy.config.snapshot import Platform, Snapshot
from proxy.dataplane import watcher as watcher_module
from proxy.dataplane.watcher import ConfigWatcher
from proxy.keys.tokens import MAX_TTL_S
from proxy.paths import Paths
from proxy.stores.embedded import EmbeddedStore
from proxy.stores.last_good import LastGood
from proxy.stores.memory import MemoryConfigStore
from proxy.stores.open import open_store
from proxy.stores.orders import Sealer, stopped
from proxy.stores.ports import ConfigStore, StoreUnavailable
from proxy.stores.publish import publish
from proxy.stores.stops import StopsFile
from tests.stores.kit import until

SEED = b"s" * 32
ROOT, CI = Signer(SEED), Signer(b"c" * 32, "ci")


def content(name: str, *, max_staleness_s: float | None = None, **publishers: str) -> bytes:
    return json.dumps({"name": name, "publishers": publishers, "max_staleness_s": max_staleness_s}).encode()


def compiled(canonical: bytes, seq: int, previous: Snapshot | None) -> Snapshot:
    """A compiler for the small documents of these tests; `bad` is a revision with mistakes."""
    facts = json.loads(canonical)
    if facts["name"] == "bad":
        raise ValueError("secret text of the policy")
    platform = Platform({}, (), {}, (), {}, facts["publishers"], max_staleness_s=facts.get("max_staleness_s"))
    return Snapshot(hashlib.sha256(canonical).hexdigest(), seq, platform, {})


async def push(store: ConfigStore, name: str, signer: Signer = ROOT, **content_of: Any) -> Manifest:
    return await publish(store, content(name, **content_of), author="t", reason="test", signer=signer, now_s=1.0)


@contextlib.asynccontextmanager
async def watching(store: ConfigStore, paths: Paths, **options: Any) -> AsyncIterator[ConfigWatcher]:
    watcher = ConfigWatcher(
        store, paths, **({"manifest_seed": SEED, "compile_content": compiled, "poll_s": 0.02} | options)
    )
    task = asyncio.create_task(watcher.run())
    try:
        yield watcher
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Broken(MemoryConfigStore):
    """A store that can be down, deaf, or lie."""

    down = False
    deaf = False
    frozen_epoch: int | None = None
    swapped: Mapping[str, bytes] = {}

    async def epoch(self) -> int:
        if self.down:
            raise StoreUnavailable("down")
        return await super().epoch() if self.frozen_epoch is None else self.frozen_epoch

    async def changes(self) -> AsyncIterator[None]:
        if self.down or self.deaf:
            raise StoreUnavailable("down")
        return await super().changes()

    async def get_revision(self, revision: str) -> bytes | None:
        if revision in self.swapped:
            return self.swapped[revision]
        return await super().get_revision(revision)

    async def set_kill(self, app: str, facts: Mapping[str, Any] | None) -> None:
        if self.down:
            raise StoreUnavailable("down")
        await super().set_kill(app, facts)

    def inject(self, manifest: Manifest | bytes) -> None:
        """What somebody who can write to the store does."""
        self._log.insert(0, manifest if isinstance(manifest, bytes) else manifest.to_bytes())
        self._touch()

    def wipe(self) -> None:
        self.__init__()  # type: ignore[misc]


def test_swaps_within_a_second_and_tells(paths: Paths) -> None:
    async def scenario() -> None:
        store, swaps = MemoryConfigStore(), []
        await push(store, "one")
        async with watching(store, paths, on_swap=swaps.append, poll_s=5.0) as watcher:
            first = await asyncio.wait_for(watcher.first(), 2)
            assert first.seq == 1
            await push(store, "two")
            await until(lambda: watcher.current is not None and watcher.current.seq == 2, 1.0)
            assert first.seq == 1
            facts = watcher.facts()
            assert (facts["seq"], facts["behind"], facts["refused"], facts["effective"]) == (2, False, None, True)
        assert [snapshot.seq for snapshot in swaps] == [1, 2]

    asyncio.run(scenario())


def test_a_lost_message_is_covered_by_the_poll(paths: Paths) -> None:
    async def scenario() -> None:
        store = Broken()
        store.deaf = True
        await push(store, "one")
        async with watching(store, paths) as watcher:
            await watcher.first()
            await push(store, "two")
            await until(lambda: watcher.status.seq == 2, 1.0)

    asyncio.run(scenario())


def test_an_epoch_that_stands_still_is_not_believed_for_ever(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher_module, "REFRESH_S", 0.1)

    async def scenario() -> None:
        store = Broken()
        store.deaf, store.frozen_epoch = True, 4
        await push(store, "one")
        async with watching(store, paths) as watcher:
            await watcher.first()
            await push(store, "two")
            await until(lambda: watcher.status.seq == 2)

    asyncio.run(scenario())


REFUSALS: list[tuple[str, Callable[[Broken, Manifest], None]]] = [
    ("malformed", lambda store, _: store.inject(b"{}")),
    ("signature", lambda store, one: store.inject(replace(Signer(b"x" * 32).sign(one), seq=2))),
    ("unknown_key", lambda store, one: store.inject(CI.sign(replace(one, seq=2, parent=one.revision)))),
    ("forked", lambda store, one: store.inject(ROOT.sign(replace(one, reason="another seq 1")))),
    ("forked", lambda store, one: store.inject(ROOT.sign(replace(one, seq=2, parent="0" * 64)))),
    (
        "content",
        lambda store, one: store.inject(ROOT.sign(replace(one, seq=2, revision="1" * 64, parent=one.revision))),
    ),
]


@pytest.mark.parametrize(("why", "attack"), REFUSALS, ids=[f"{n}-{why}" for n, (why, _) in enumerate(REFUSALS)])
def test_a_bad_head_never_loads(paths: Paths, why: str, attack: Callable[[Broken, Manifest], None]) -> None:
    async def scenario() -> None:
        store = Broken()
        one = await push(store, "one")
        async with watching(store, paths) as watcher:
            current = await watcher.first()
            attack(store, one)
            await until(lambda: watcher.status.refused_why == why)
            assert watcher.current is current
            assert watcher.facts()["refused"]["why"] == why
            await push_over(store, one)
            await until(lambda: watcher.status.refused_why == "" and watcher.status.seq == 2)

    async def push_over(store: Broken, one: Manifest) -> None:
        store._log = [one.to_bytes()]
        await push(store, "two")

    asyncio.run(scenario())


def test_swapped_content_never_loads(paths: Paths) -> None:
    async def scenario() -> None:
        store = Broken()
        await push(store, "one")
        async with watching(store, paths) as watcher:
            await watcher.first()
            evil = content("evil")
            store.swapped = {hashlib.sha256(content("two")).hexdigest(): evil}
            await push(store, "two")
            await until(lambda: watcher.status.refused_why == "content")
            assert watcher.status.seq == 1
            store.swapped = {}
            await until(lambda: watcher.status.seq == 2)

    asyncio.run(scenario())


def test_a_revision_with_mistakes_never_loads_and_shows_none_of_its_text(paths: Paths) -> None:
    async def scenario() -> None:
        store = MemoryConfigStore()
        await push(store, "one")
        async with watching(store, paths) as watcher:
            await watcher.first()
            await push(store, "bad")
            await until(lambda: watcher.status.refused_why == "config")
            assert watcher.status.seq == 1
            assert watcher.facts()["behind"]
            assert "secret" not in json.dumps(watcher.facts())
            await push(store, "three")
            await until(lambda: watcher.status.seq == 3)
            assert watcher.facts()["refused"] is None

    asyncio.run(scenario())


def test_an_older_manifest_is_refused_also_after_a_restart(paths: Paths) -> None:
    async def scenario() -> None:
        store = Broken()
        one = await push(store, "one")
        await push(store, "two")
        async with watching(store, paths) as watcher:
            await watcher.first()
            await until(lambda: LastGood(paths.last_good, SEED).accepted() is not None)
        store.inject(one)
        async with watching(store, paths) as watcher:
            await until(lambda: watcher.status.refused_why == "older")
            assert watcher.current is not None
            assert watcher.current.seq == 2

    asyncio.run(scenario())


def test_a_rollback_loads(paths: Paths) -> None:
    async def scenario() -> None:
        store = MemoryConfigStore()
        one = await push(store, "one")
        await push(store, "two")
        async with watching(store, paths) as watcher:
            await watcher.first()
            await push(store, "one")
            await until(lambda: watcher.status.seq == 3)
            assert watcher.status.revision == one.revision

    asyncio.run(scenario())


def test_publishers_named_by_the_policy_may_publish_the_next(paths: Paths) -> None:
    async def scenario() -> None:
        store = MemoryConfigStore()
        await push(store, "one")
        async with watching(store, paths) as watcher:
            await watcher.first()
        await push(store, "two", ci=publisher_text(CI.public_key()))
        await push(store, "three", CI, ci=publisher_text(CI.public_key()))
        await push(store, "four", CI)
        async with watching(store, paths) as watcher:
            await until(lambda: watcher.status.seq == 4)
            await push(store, "five", CI)
            await until(lambda: watcher.status.refused_why == "unknown_key")
            assert watcher.status.seq == 4
        async with watching(store, paths) as watcher:
            await watcher.first()
            assert watcher.status.seq == 4

    asyncio.run(scenario())


def test_a_new_machine_follows_publishers_from_the_root_without_using_old_revisions(paths: Paths) -> None:
    async def scenario() -> None:
        store, swaps = MemoryConfigStore(), []
        named = {"ci": publisher_text(CI.public_key())}
        await push(store, "one")
        await push(store, "two", **named)
        await push(store, "three", CI, **named)
        await push(store, "four", CI, **named)
        async with watching(store, paths, on_swap=swaps.append) as watcher:
            await watcher.first()
        assert [snapshot.seq for snapshot in swaps] == [4]

    asyncio.run(scenario())


def test_a_publisher_who_was_struck_off_is_not_followed_by_new_machines(paths: Paths) -> None:
    async def scenario() -> None:
        store = MemoryConfigStore()
        await push(store, "one", ci=publisher_text(CI.public_key()))
        await push(store, "two")
        await push(store, "three", CI)
        async with watching(store, paths) as watcher:
            await until(lambda: watcher.status.refused_why == "unknown_key")
            assert watcher.current is None

    asyncio.run(scenario())


def test_starts_from_disk_without_the_store(paths: Paths) -> None:
    async def scenario() -> None:
        store = Broken()
        await push(store, "one")
        async with watching(store, paths) as watcher:
            await watcher.first()
            await until(lambda: LastGood(paths.last_good, SEED).accepted() is not None)
        store.down = True
        async with watching(store, paths) as watcher:
            assert (await asyncio.wait_for(watcher.first(), 1)).seq == 1
            await until(lambda: watcher.status.store_fault == "down")
            assert watcher.facts()["from_disk"]
            store.down = False
            await push(store, "two")
            await until(lambda: watcher.status.seq == 2 and not watcher.status.store_fault)

    asyncio.run(scenario())


@pytest.mark.parametrize("damage", [b"", b"\n\n", b"0" * 64 + b"\nx\ny", None])
def test_a_damaged_or_foreign_file_is_not_used(paths: Paths, damage: bytes | None) -> None:
    async def scenario() -> None:
        one = ROOT.sign(Manifest(1, hashlib.sha256(content("one")).hexdigest(), "", "t", 1.0, ""))
        LastGood(paths.last_good, b"other seed" if damage is None else SEED).write(one, content("one"))
        if damage is not None:
            (paths.last_good / "policy").write_bytes(damage)
        store = Broken()
        store.down = True
        async with watching(store, paths) as watcher:
            await until(lambda: watcher.status.store_fault == "down")
            assert watcher.current is None
            assert "last good" in watcher.status.refused_detail
            store.down = False
            await push(store, "one")
            await watcher.first()

    asyncio.run(scenario())


def test_policy_outlives_a_rotation_of_the_root(paths: Paths) -> None:
    """Signed with the old root, in the store and on disk, until that root is retired."""

    async def scenario() -> None:
        store, fresh = Broken(), b"n" * 32
        await push(store, "one")
        async with watching(store, paths) as watcher:
            await watcher.first()
            await until(lambda: LastGood(paths.last_good, SEED).accepted() is not None)
        store.down = True
        async with watching(store, paths, manifest_seed=fresh, older_seeds=[SEED]) as watcher:
            assert (await asyncio.wait_for(watcher.first(), 2)).seq == 1
            store.down = False
            await push(store, "two")
            await until(lambda: watcher.current is not None and watcher.current.seq == 2)
            await push(store, "three", Signer(fresh))
            await until(lambda: getattr(LastGood(paths.last_good, fresh).accepted(), "seq", 0) == 3)
        await push(store, "four")
        async with watching(store, paths, manifest_seed=fresh) as watcher:
            await until(lambda: watcher.status.refused_why == "signature")
            assert watcher.current is not None
            assert watcher.current.seq == 3

    asyncio.run(scenario())


def test_a_slow_worker_never_puts_an_older_revision_on_disk(paths: Paths) -> None:
    store = LastGood(paths.last_good, SEED)
    manifests = [ROOT.sign(Manifest(seq, hashlib.sha256(b"%d" % seq).hexdigest(), "", "t", 1.0, "")) for seq in (1, 2)]
    store.write(manifests[1], b"2")
    store.write(manifests[0], b"1")
    assert store.accepted() == Accepted.of(manifests[1])


def test_stale_beyond_the_limit_denies_until_the_store_is_back(paths: Paths) -> None:
    async def scenario() -> None:
        store = Broken()
        await push(store, "one", max_staleness_s=0.2)
        async with watching(store, paths) as watcher:
            await watcher.first()
            assert (watcher.stale_s, watcher.outdated) == (0.0, False)
            store.down = True
            await until(lambda: watcher.current is None)
            assert watcher.facts()["stale_s"] > 0.2
            assert not watcher.facts()["effective"]
            assert watcher.outdated
            store.down = False
            await until(lambda: watcher.current is not None)
            await until(lambda: watcher.stale_s == 0.0)

    asyncio.run(scenario())


def test_without_a_limit_the_last_good_policy_holds(paths: Paths) -> None:
    async def scenario() -> None:
        store = Broken()
        await push(store, "one")
        async with watching(store, paths) as watcher:
            await watcher.first()
            store.down = True
            await until(lambda: watcher.stale_s > 0.3)
            assert watcher.current is not None

    asyncio.run(scenario())


def test_a_store_that_hangs_does_not_keep_an_old_policy_alive(paths: Paths) -> None:
    async def scenario() -> None:
        store = Broken()
        await push(store, "one", max_staleness_s=0.2)
        async with watching(store, paths) as watcher:
            await watcher.first()
            hangs = asyncio.Event()

            async def epoch() -> int:
                hangs.set()
                await asyncio.Event().wait()
                return 0

            store.epoch = epoch  # type: ignore[method-assign]  # from now on no question is answered
            await hangs.wait()
            await until(lambda: watcher.current is None)

    asyncio.run(scenario())


async def on_disk(paths: Paths) -> None:
    """The last good revision, and when the store was heard."""
    await until(lambda: all((paths.last_good / name).exists() for name in ("policy", "contact")))


@pytest.mark.parametrize(("age_s", "holds"), [(1, True), (30, False), (-30, False)])
def test_starting_again_makes_a_policy_no_younger(paths: Paths, age_s: int, holds: bool) -> None:
    """A mark from the future comes from a clock that was set back; it proves nothing."""

    async def scenario() -> None:
        store = Broken()
        await push(store, "one", max_staleness_s=10)
        async with watching(store, paths):
            await on_disk(paths)
        mark = paths.last_good / "contact"
        at_s = mark.stat().st_mtime - age_s
        os.utime(mark, (at_s, at_s))
        store.down = True
        async with watching(store, paths) as watcher:
            await until(lambda: watcher.status.from_disk)
            assert (watcher.current is not None) == holds
            assert watcher.outdated != holds
            store.down = False
            await until(lambda: watcher.current is not None)

    asyncio.run(scenario())


def test_who_never_heard_the_store_does_not_trust_an_old_policy(paths: Paths) -> None:
    async def scenario() -> None:
        store = Broken()
        await push(store, "one", max_staleness_s=10)
        async with watching(store, paths):
            await on_disk(paths)
        (paths.last_good / "contact").unlink()
        store.down = True
        async with watching(store, paths) as watcher:
            await until(lambda: watcher.status.from_disk and watcher.status.store_fault != "")
            assert watcher.current is None
            assert watcher.facts()["stale_s"] is None

    asyncio.run(scenario())


def test_kills_and_revocations_arrive_and_survive_a_restart_without_the_store(paths: Paths) -> None:
    async def scenario() -> None:
        store = Broken()
        await push(store, "one")
        async with watching(store, paths, poll_s=5.0) as watcher:
            await watcher.first()
            await store.set_kill("a", {"reason": "r"})
            await store.revoke_token("t1", ttl_s=600)
            await until(lambda: "a" in watcher.kills and "t1" in watcher.revoked, 1.0)
            await until(lambda: "t1" in StopsFile(paths.last_good).read().revoked)
        store.down = True
        async with watching(store, paths) as watcher:
            await until(lambda: "a" in watcher.kills and "t1" in watcher.revoked, 1.0)
            store.down = False
            await store.set_kill("a", None)
            await until(lambda: "a" not in watcher.kills)

    asyncio.run(scenario())


def test_an_order_on_this_machine_needs_no_store_and_is_delivered_later(paths: Paths) -> None:
    async def scenario() -> None:
        store = Broken()
        await push(store, "one")
        async with watching(store, paths) as one, watching(store, paths) as two:
            await one.first()
            store.down = True
            StopsFile(paths.last_good).order("a", {"reason": "incident"})
            await until(lambda: "a" in one.kills and "a" in two.kills, 1.0)
            seen = []
            store.down = False
            while StopsFile(paths.last_good).read().pending:
                seen.append("a" in one.kills and "a" in two.kills)
                await asyncio.sleep(0.001)
            for _ in range(100):
                seen.append("a" in one.kills and "a" in two.kills)
                await asyncio.sleep(0.001)
            assert all(seen)
            assert (await store.kills())["a"]["reason"] == "incident"
            store.down = True
            StopsFile(paths.last_good).order("a", None)
            await until(lambda: "a" not in one.kills and "a" not in two.kills, 1.0)
            store.down = False
            await until(lambda: not StopsFile(paths.last_good).read().pending)
            assert stopped(await store.kills()) == {}

    asyncio.run(scenario())


def test_a_store_that_lost_its_memory_lifts_no_kill(paths: Paths) -> None:
    async def scenario() -> None:
        store = Broken()
        await push(store, "one")
        await store.set_kill("a", {"reason": "r"})
        await store.revoke_token("t", ttl_s=600)
        async with watching(store, paths) as watcher:
            await watcher.first()
            await until(lambda: "a" in watcher.kills and LastGood(paths.last_good, SEED).accepted() is not None)
            store.wipe()
            seen = set()
            while await store.kills() != {"a": {"reason": "r"}} or await store.revoked_tokens() != {"t"}:
                seen.add("a" in watcher.kills and "t" in watcher.revoked)
                await asyncio.sleep(0.001)
            assert False not in seen
            assert watcher.current is not None
            published = await publish(
                store,
                content("two"),
                author="t",
                reason="",
                signer=ROOT,
                now_s=1.0,
                floor=LastGood(paths.last_good, SEED).accepted(),
            )
            assert published.seq == 2
            await until(lambda: watcher.status.seq == 2)

    asyncio.run(scenario())


def _removed(_: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return None


def _forged(kill: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**kill, "lifted": True, "number": kill["number"] + 1}


def _replayed(kill: Mapping[str, Any]) -> Mapping[str, Any]:
    return Sealer(SEED).sealed("a", None, after=None, now_s=(kill["number"] - 1) / 1000)


@pytest.mark.parametrize("told", [True, False], ids=["epoch rises", "epoch stands still"])
@pytest.mark.parametrize("attack", [_removed, _forged, _replayed])
def test_who_writes_to_the_store_lifts_no_kill(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, attack: Callable[[Any], Any], told: bool
) -> None:
    """It holds on every machine that has seen it, over a restart too, and the store gets it back."""
    monkeypatch.setattr(watcher_module, "REFRESH_S", 0.05)

    async def scenario() -> None:
        store = Broken()
        await push(store, "one")
        StopsFile(paths.last_good).order("a", {"reason": "incident"})
        async with watching(store, paths) as watcher:
            await until(lambda: not StopsFile(paths.last_good).read().pending)
            await until(lambda: watcher.kills.get("a", {}).get("mac"))
            kill = (await store.kills())["a"]
            store.frozen_epoch = None if told else await store.epoch()
            await store.set_kill("a", attack(kill))
            while (await store.kills()).get("a") != kill:
                assert "a" in watcher.kills
                await asyncio.sleep(0.001)
            assert "a" in watcher.kills
            assert watcher.facts()["stops_restored"] == 1
            await store.set_kill("a", attack(kill))
        async with watching(store, paths) as watcher:
            await watcher.first()
            await until(lambda: watcher.facts()["stops_restored"] == 1)
            assert "a" in watcher.kills
            store.frozen_epoch = None
            StopsFile(paths.last_good).order("a", None)
            await until(lambda: "a" not in watcher.kills)
            await until(lambda: not StopsFile(paths.last_good).read().pending)
            assert "a" not in watcher.kills

    asyncio.run(scenario())


def test_who_writes_to_the_store_gives_no_token_back(paths: Paths) -> None:
    """No verb does either; the id is forgotten when no token can be alive any more."""
    now_s = [1_000_000.0]

    async def scenario() -> None:
        store = Broken()
        await push(store, "one")
        await store.revoke_token("t", ttl_s=600)
        async with watching(store, paths, clock=lambda: now_s[0]) as watcher:
            await until(lambda: "t" in watcher.revoked)
            await until(lambda: "t" in StopsFile(paths.last_good).read().revoked)
            store._revoked.clear()
            await store.set_kill("other", {"reason": "the epoch rises"})
            await until(lambda: "other" in watcher.kills)
            assert "t" in watcher.revoked
        async with watching(store, paths, clock=lambda: now_s[0]) as watcher:
            await watcher.first()
            assert "t" in watcher.revoked
            now_s[0] += MAX_TTL_S + 1
            await store.set_kill("other", None)
            await until(lambda: "t" not in watcher.revoked)

    asyncio.run(scenario())


def test_a_damaged_file_of_stops_stops_everything_until_the_store_is_heard(paths: Paths) -> None:
    async def scenario() -> None:
        store = Broken()
        await push(store, "one")
        paths.last_good.mkdir(mode=0o700, parents=True)
        (paths.last_good / "stops.json").write_text("{")
        store.down = True
        async with watching(store, paths) as watcher:
            await until(lambda: "*" in watcher.kills)
            store.down = False
            await until(lambda: not watcher.kills)
            assert await store.kills() == {}

    asyncio.run(scenario())


def test_a_full_disk_keeps_no_policy_and_no_kill_from_working(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    async def scenario() -> None:
        store = MemoryConfigStore()
        await push(store, "one")
        with monkeypatch.context() as patch:
            patch.setattr("proxy.stores.last_good.replace_file", full)
            patch.setattr("proxy.stores.stops.replace_file", full)
            async with watching(store, paths) as watcher:
                await store.set_kill("a", {"reason": "r"})
                # A round tells of its kills first and of its fault at its end.
                await until(lambda: "a" in watcher.kills and "No space" in watcher.status.store_fault)
                patch.undo()
                await until(lambda: watcher.status.store_fault == "" and watcher.status.seq == 1)
                await until(lambda: LastGood(paths.last_good, SEED).accepted() is not None)

    asyncio.run(scenario())


OTHERS = Sealer(SEED).sealed("leaky", {"reason": "of another machine"}, after=None, now_s=2.0)
LOST = Sealer(SEED).sealed("lost", {"reason": "missing in the store"}, after=None, now_s=1.0)


class Unwritable(Broken):
    """Readable all the same."""

    async def epoch(self) -> int:
        return await MemoryConfigStore.epoch(self)


def _owes_an_order(paths: Paths) -> None:
    StopsFile(paths.last_good).order("other", {"reason": "given here"})


def _misses_an_order(paths: Paths) -> None:
    StopsFile(paths.last_good).learn({"lost": LOST}, {}, 0)


@pytest.mark.parametrize("before", [_owes_an_order, _misses_an_order])
def test_a_store_that_takes_no_orders_still_tells_kills_and_policy(
    paths: Paths, before: Callable[[Paths], None]
) -> None:
    async def scenario() -> None:
        store = Unwritable()
        await push(store, "one")
        before(paths)
        await MemoryConfigStore.set_kill(store, "leaky", OTHERS)
        store.down = True
        async with watching(store, paths) as watcher:
            await until(lambda: "leaky" in watcher.kills and watcher.status.seq == 1)
            await until(lambda: watcher.status.store_fault == "down")
            await push(store, "two")
            await until(lambda: watcher.status.seq == 2)
            store.down = False
            await until(lambda: watcher.status.store_fault == "")
            assert set(watcher.kills) == set(await store.kills())
            assert len(watcher.kills) == 2

    asyncio.run(scenario())


def test_a_wiped_store_that_takes_no_orders_lifts_nothing(paths: Paths) -> None:
    async def scenario() -> None:
        store = Unwritable()
        await push(store, "one")
        await store.set_kill("a", {"reason": "without a seal"})
        watcher = ConfigWatcher(store, paths, manifest_seed=SEED, compile_content=compiled)
        await watcher.refresh()
        store.wipe()
        store.down = True
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await watcher.refresh()
            assert set(watcher.kills) == {"a"}
        store.down = False
        await watcher.refresh()
        assert set(await store.kills()) == {"a"}

    asyncio.run(scenario())


def test_damaged_tokens_hold_up_neither_kills_nor_policy(paths: Paths) -> None:
    class Damaged(MemoryConfigStore):
        async def revoked_tokens(self) -> frozenset[str]:
            raise StoreUnavailable("garbage")

    async def scenario() -> None:
        store = Damaged()
        await push(store, "one")
        await store.set_kill("leaky", OTHERS)
        watcher = ConfigWatcher(store, paths, manifest_seed=SEED, compile_content=compiled)
        with pytest.raises(StoreUnavailable):
            await watcher.refresh()
        assert (set(watcher.kills), watcher.status.seq) == ({"leaky"}, 1)

    asyncio.run(scenario())


def test_a_disk_that_takes_no_kill_does_not_hold_up_the_policy(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    async def scenario() -> None:
        store = MemoryConfigStore()
        await push(store, "one")
        await store.set_kill("a", {"reason": "r"})
        monkeypatch.setattr("proxy.stores.stops.replace_file", full)
        watcher = ConfigWatcher(store, paths, manifest_seed=SEED, compile_content=compiled)
        with pytest.raises(OSError, match="No space"):
            await watcher.refresh()
        assert (set(watcher.kills), watcher.status.seq) == ({"a"}, 1)

    asyncio.run(scenario())


def _no_log(store: Broken, _: Manifest) -> None:
    store._log = []
    store._touch()


@pytest.mark.parametrize("attack", [*(attack for _, attack in REFUSALS), _no_log])
def test_a_store_that_lies_does_not_keep_an_old_policy_alive(
    paths: Paths, attack: Callable[[Broken, Manifest], None]
) -> None:
    """It answers, but with no word on the policy in force."""

    async def scenario() -> None:
        store = Broken()
        one = await push(store, "one", max_staleness_s=0.2)
        async with watching(store, paths) as watcher:
            await watcher.first()
            attack(store, one)
            await until(lambda: watcher.outdated)
            assert watcher.status.store_fault == ""
            assert watcher.stale_s > 0.2
            store._log = [one.to_bytes()]
            store._touch()
            await until(lambda: watcher.current is not None and watcher.stale_s == 0.0)

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_real_store_that_dies_or_hangs_delays_nothing(paths: Paths, fault: signal.Signals) -> None:
    async def scenario() -> None:
        server = await EmbeddedStore.start(paths)
        store = open_store(None, paths)
        await push(store.config, "one")
        async with watching(store.config, paths) as watcher:
            await watcher.first()
            assert server.pid is not None
            os.kill(server.pid, fault)
            await until(lambda: watcher.status.store_fault != "")
            assert watcher.current is not None
            StopsFile(paths.last_good).order("a", {"reason": "r"})
            await until(lambda: "a" in watcher.kills, 1.0)
            if fault == signal.SIGSTOP:
                os.kill(server.pid, signal.SIGCONT)
            else:
                await server.wait()
                await server.restart()
            await until(lambda: watcher.status.store_fault == "")
            await push(store.config, "two")
            await until(lambda: watcher.status.seq == 2)
            assert set(await store.config.kills()) == {"a"}
        await store.aclose()
        await server.stop()

    asyncio.run(scenario())


def test_publishing_against_another_head_is_a_conflict() -> None:
    from proxy.stores.ports import Conflict

    async def scenario() -> None:
        store = MemoryConfigStore()
        await push(store, "one")
        with pytest.raises(Conflict):
            await publish(store, b"x", author="", reason="", signer=ROOT, now_s=1.0, expect_seq=0)
        assert parse(await store.head_manifest() or b"").seq == 1

    asyncio.run(scenario())
