"""Keeps one worker's policy, kills and revocations up to date while the store comes, goes or lies.

The policy a worker uses is always one that was signed, is newer than any it had, matches its hash and compiled whole.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.config.errors import ConfigErrors
from proxy.config.manifest import (
    Accepted,
    Manifest,
    ManifestRefused,
    Signer,
    accept,
    check_content,
    parse,
    trusted_keys,
    verify,
)
from proxy.config.snapshot import Snapshot
from proxy.dataplane.contact import Contact
from proxy.dataplane.steps import first_fault
from proxy.dataplane.stop_orders import StopOrders
from proxy.paths import Paths
from proxy.stores.last_good import LastGood
from proxy.stores.ports import ConfigStore, StoreUnavailable
from proxy.stores.stops import StopsFile

POLL_S: Final = 0.5
STOPS_POLL_S: Final = 0.2
# Also without a new epoch everything is looked at this often: a store that was restored from a backup, or lies, may
# show an epoch that was seen before.
REFRESH_S: Final = 30.0
RESUBSCRIBE_S: Final = 1.0
# How far back a worker looks for the revision that named a publisher.
LOG_LIMIT: Final = 1000

type Compile = Callable[[bytes, int, Snapshot | None], Snapshot]


def compile_default(content: bytes, seq: int, previous: Snapshot | None) -> Snapshot:
    from proxy.config.compile import compile_snapshot

    return compile_snapshot(content, seq=seq, previous=previous)


@dataclass(slots=True)
class WatcherStatus:
    """Facts for `egress status`. `head_seq` is what the store says: a worker is behind while it differs from `seq`."""

    revision: str = ""
    seq: int = 0
    head_seq: int = 0
    loaded_at_s: float = 0.0
    store_fault: str = ""
    refused_seq: int = 0
    refused_why: str = ""
    refused_detail: str = ""
    from_disk: bool = False


class ConfigWatcher:
    """`current` (None: deny everything with policy_unavailable), `kills` and `revoked` are plain attributes, swapped
    whole; an exchange reads `current` once.

    `manifest_seed`: the installation's signing seed (32 bytes), `older_seeds` those that were rotated out and still
    count. Without contact to the store for longer than the policy's own `max_staleness`, `current` becomes None until
    it is back. `on_swap` is called with each new snapshot, in the event loop.
    """

    def __init__(
        self,
        store: ConfigStore,
        paths: Paths,
        *,
        manifest_seed: bytes,
        older_seeds: Sequence[bytes] = (),
        compile_content: Compile = compile_default,
        on_swap: Callable[[Snapshot], None] | None = None,
        clock: Callable[[], float] = time.time,
        poll_s: float = POLL_S,
    ) -> None:
        self.current: Snapshot | None = None
        self.kills: Mapping[str, Mapping[str, Any]] = {}
        self.revoked: frozenset[str] = frozenset()
        self.status = WatcherStatus()
        self._store = store
        self._root_public_key = Signer(manifest_seed).public_key()
        self._older_roots = [Signer(seed).public_key() for seed in older_seeds]
        self._compile = compile_content
        self._on_swap = on_swap
        self._clock = clock
        self._poll_s = poll_s
        self._last_good = LastGood(paths.last_good, manifest_seed, older_seeds)
        self._stops = StopOrders(StopsFile(paths.last_good), store, manifest_seed, older_seeds, clock)
        self._accepted: Accepted | None = None
        self._snapshot: Snapshot | None = None
        self._refused_digest = ""
        self._unsaved: tuple[Manifest, bytes] | None = None
        self._epoch: int | None = None
        self._confirmed = False  # the store's head, at the last look, was the policy in force
        self._refreshed_s = 0.0
        self._contact = Contact(paths.last_good, clock)
        self._wake = asyncio.Event()
        self._first = asyncio.Event()

    async def first(self) -> Snapshot:
        """Waits until there is a policy."""
        while self.current is None:
            self._first.clear()
            await self._first.wait()
        return self.current

    def facts(self) -> dict[str, Any]:
        """JSON-able status."""
        status = self.status
        return {
            "revision": status.revision,
            "seq": status.seq,
            "head_seq": status.head_seq,
            "behind": status.head_seq > status.seq,
            "effective": self.current is not None,
            "loaded_at_s": status.loaded_at_s,
            "from_disk": status.from_disk,
            "stale_s": round(self.stale_s, 3) if math.isfinite(self.stale_s) else None,
            "store_fault": status.store_fault,
            "refused": {"seq": status.refused_seq, "why": status.refused_why, "detail": status.refused_detail}
            if status.refused_why
            else None,
            "kills": sorted(self.kills),
            "revoked": len(self.revoked),
            "stops_restored": self.stops_restored,
        }

    @property
    def stale_s(self) -> float:
        """For how long the store has confirmed no policy, by silence or with a head that was refused: 0 while it
        confirms ours, infinite when nobody knows."""
        return 0.0 if self._confirmed and not self.status.store_fault else self._contact.silent_s

    @property
    def stops_restored(self) -> int:
        """Stop orders that this process gave back to a store that had lost them."""
        return self._stops.restored

    @property
    def outdated(self) -> bool:
        """There is a policy, but it has gone unconfirmed for longer than it allows itself."""
        return self._snapshot is not None and self.current is None

    def poke(self) -> None:
        """Look now (after a push, a kill or an order over the control socket)."""
        self._wake.set()

    async def run(self) -> None:
        """Loads the last good revision, then watches until it is cancelled. Never ends by itself."""
        self._stops.remember()
        self._show_stops()
        await self.load_last_good()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._subscribe(), name="policy changes")
            group.create_task(self._poll(), name="policy poll")
            group.create_task(self._watch_stops(), name="stops on this machine")

    async def load_last_good(self) -> None:
        """A policy from this machine's disk, before the store was asked."""
        self._contact.remember()
        try:
            found = await asyncio.to_thread(self._last_good.read)
            if found is not None:
                await self._adopt(*found, from_disk=True)
        except ManifestRefused as refused:
            self._refuse(0, "", refused.why, f"last good revision on disk: {refused}")
        except OSError as error:
            self._refuse(0, "", "disk", f"last good revision cannot be read: {error.strerror}")

    async def refresh(self) -> None:
        """One look at the store: kills and revocations in, then the policy, then orders out. No step's fault holds up
        the others. Raises StoreUnavailable, OSError: the first fault."""
        epoch = await self._store.epoch()
        due = time.monotonic() - self._refreshed_s >= REFRESH_S
        faults = [await self._look(epoch)] if epoch != self._epoch or due else []
        if self._confirmed:
            self._heard()
        faults.append(await first_fault(self._deliver, self._give_back, self._save))
        for fault in filter(None, faults):
            raise fault

    async def _look(self, epoch: int) -> Exception | None:
        fault = await first_fault(lambda: self._learn_stops(epoch), self._learn_policy)
        # Content that was not there yet (a replica that lags) is asked for again at the next poll.
        self._epoch = None if fault is not None or self.status.refused_why == "content" else epoch
        self._refreshed_s = time.monotonic()
        return fault

    def read_stops(self) -> None:
        """Takes this machine's own orders from disk."""
        self._stops.read()
        self._show_stops()

    def _show_stops(self) -> None:
        self.kills, self.revoked = self._stops.kills, self._stops.revoked

    async def _poll(self) -> None:
        while True:
            try:
                await self.refresh()
                self.status.store_fault = ""
            except StoreUnavailable as fault:
                self.status.store_fault = str(fault)
            except OSError as error:
                self.status.store_fault = f"state directory: {error.strerror}"
            except Exception as error:  # noqa: BLE001 - without this loop neither kills nor policy would arrive any more
                self.status.store_fault = f"internal: {type(error).__name__}"
            self._mind_staleness()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._poll_s)
            self._wake.clear()

    async def _watch_stops(self) -> None:
        """On its own, so that a store that hangs delays neither an order given on this machine nor the end of a policy
        that nobody confirms."""
        while True:
            self.read_stops()
            self._mind_staleness()
            await asyncio.sleep(STOPS_POLL_S)

    async def _subscribe(self) -> None:
        while True:
            with contextlib.suppress(StoreUnavailable):
                changes = await self._store.changes()
                self._wake.set()
                async for _ in changes:
                    self._wake.set()
            await asyncio.sleep(RESUBSCRIBE_S)

    def _heard(self) -> None:
        self._contact.heard(mark=self._max_staleness_s is not None)

    @property
    def _max_staleness_s(self) -> int | None:
        return self._snapshot.platform.max_staleness_s if self._snapshot is not None else None

    def _mind_staleness(self) -> None:
        limit_s = self._max_staleness_s
        too_old = limit_s is not None and self._contact.silent_s > limit_s
        self.current = None if too_old else self._snapshot
        if self.current is not None:
            self._first.set()

    async def _deliver(self) -> None:
        if await self._stops.deliver():
            self._epoch = None

    async def _give_back(self) -> None:
        if await self._stops.give_back():
            self._epoch = None

    async def _learn_stops(self, epoch: int) -> None:
        try:
            await self._stops.learn(epoch)
        finally:
            self._show_stops()

    async def _learn_policy(self) -> None:
        self._confirmed = False
        raw = await self._store.head_manifest()
        if raw is None:
            self.status.head_seq = 0
            return
        try:
            head = parse(raw)
            self.status.head_seq = head.seq
            await self._follow(head)
        except ManifestRefused as refused:
            self._refuse(self.status.head_seq, "", refused.why, str(refused))

    async def _follow(self, head: Manifest) -> None:
        digest = head.digest()
        if digest == self._refused_digest:
            return
        if self._accepted is not None and digest == self._accepted.digest and self._snapshot is not None:
            self._confirmed = True
            self._clear_refusal()
            return
        try:
            verify(head, self._keys(), self._older_roots)
        except ManifestRefused as refused:
            if refused.why != "unknown_key" or not await self._vouched(head):
                raise
        accept(head, self._accepted)
        await self._fetch(head)

    async def _vouched(self, head: Manifest) -> bool:
        """Whether a revision between ours and `head` names its publisher: goes from the newest manifest that we trust
        to the ones that its policy trusts. None of these revisions comes into force."""
        log = [parse(raw) for raw in await self._store.manifests(LOG_LIMIT)]
        keys, last = self._keys(), self._accepted
        while head.key_id not in keys:
            between = (step for step in log if (last.seq if last else 0) < step.seq < head.seq)
            step = next((step for step in between if _verifies(step, keys, self._older_roots)), None)
            content = await self._store.get_revision(step.revision) if step is not None else None
            if step is None or content is None:
                return False
            accept(step, last)
            check_content(step, content)
            snapshot = await self._compiled(step, content)
            if snapshot is None:
                return False
            keys, last = trusted_keys(self._root_public_key, snapshot.platform.publishers), Accepted.of(step)
        verify(head, keys, self._older_roots)
        return True

    async def _fetch(self, manifest: Manifest) -> None:
        content = await self._store.get_revision(manifest.revision)
        if content is None:
            raise ManifestRefused("content", f"the store does not have the content of seq {manifest.seq}")
        await self._adopt(manifest, content, from_disk=False)

    async def _adopt(self, manifest: Manifest, content: bytes, *, from_disk: bool) -> None:
        """Checks the content of a manifest that was accepted, compiles off the loop, swaps, then writes to disk."""
        await asyncio.to_thread(check_content, manifest, content)
        snapshot = await self._compiled(manifest, content)
        if snapshot is None:
            return
        self._accepted, self._snapshot = Accepted.of(manifest), snapshot
        self.status.revision, self.status.seq = snapshot.revision, manifest.seq
        self.status.loaded_at_s, self.status.from_disk = self._clock(), from_disk
        self._clear_refusal()
        if not from_disk:
            self._confirmed = True
            self._heard()
        self._mind_staleness()
        if self._on_swap is not None:
            self._on_swap(snapshot)
        if not from_disk:
            self._unsaved = manifest, content
            await self._save()

    async def _save(self) -> None:
        """Raises OSError (disk full): the revision is in force all the same, and saving is tried at each poll."""
        if self._unsaved is not None:
            await asyncio.to_thread(self._last_good.write, *self._unsaved)
            self._unsaved = None

    async def _compiled(self, manifest: Manifest, content: bytes) -> Snapshot | None:
        try:
            return await asyncio.to_thread(self._compile, content, manifest.seq, self._snapshot)
        except Exception as error:  # noqa: BLE001 - whatever a revision does to the compiler, it never loads
            self._refuse(manifest.seq, manifest.digest(), "config", _first_line(error))
            return None

    def _keys(self) -> Mapping[str, bytes]:
        publishers = self._snapshot.platform.publishers if self._snapshot else {}
        return trusted_keys(self._root_public_key, publishers)

    def _refuse(self, seq: int, digest: str, why: str, detail: str) -> None:
        self._refused_digest = digest
        self.status.refused_seq, self.status.refused_why, self.status.refused_detail = seq, why, detail

    def _clear_refusal(self) -> None:
        self._refuse(0, "", "", "")


def _verifies(manifest: Manifest, keys: Mapping[str, bytes], older_roots: Sequence[bytes]) -> bool:
    try:
        verify(manifest, keys, older_roots)
    except ManifestRefused:
        return False
    return True


def _first_line(error: Exception) -> str:
    """Config errors are made for people; of others only the type is safe to show."""
    if not isinstance(error, ConfigErrors):
        return f"the revision does not compile ({type(error).__name__})"
    first = error.errors[0]
    return f"{first.file}:{first.line}:{first.col}: {first.message}"[:300]
