"""The supervisor's view of store and policy: starts the embedded store, fills an empty one from the directory,
follows the active revision, and cleans up behind dead workers."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxy.dataplane.watcher import ConfigWatcher
from proxy.paths import Paths
from proxy.supervisor.boot import StartRefused
from proxy.supervisor.child import Backoff
from proxy.supervisor.options import Options

if TYPE_CHECKING:
    from proxy.config.manifest import Manifest, Signer
    from proxy.keys.root import RootKey
    from proxy.stores.embedded import EmbeddedStore
    from proxy.stores.open import Store

FIRST_POLICY_S: Final = 10.0
FILL_TRIES: Final = 3
"""Our own store has just said that it is ready: on a machine that is busy it may still miss a deadline."""

_LOG = logging.getLogger(__name__)


class Policy:
    """Made by `open`; `aclose` ends it and the embedded store."""

    def __init__(
        self,
        options: Options,
        store: "Store",
        embedded: "EmbeddedStore | None",
        signer: "Signer",
        older_seeds: Sequence[bytes] = (),
    ) -> None:
        self.store = store
        self._options = options
        self._paths: Paths = options.paths
        self._embedded = embedded
        self._signer = signer
        self._older_seeds = older_seeds
        self.watcher = ConfigWatcher(store.config, options.paths, manifest_seed=signer.seed, older_seeds=older_seeds)
        self._tasks = [asyncio.create_task(self.watcher.run(), name="supervisor-watcher")]
        if embedded is not None:
            self._tasks.append(asyncio.create_task(self._keep_store(embedded), name="store"))

    @classmethod
    async def open(cls, options: Options, root: "RootKey") -> "Policy":
        """Raises StartRefused, ConfigErrors (of a directory that an empty store was to be filled from)."""
        from proxy.config.manifest import Signer
        from proxy.keys.root import MANIFEST
        from proxy.stores.ports import StoreUnavailable

        embedded = await _start_embedded(options) if options.store_url is None else None
        store = _open(options)
        signer, older_seeds = Signer(root.derive(MANIFEST)), root.older_manifest_seeds()
        try:
            for left in reversed(range(FILL_TRIES if embedded is not None else 1)):
                try:
                    await fill_when_empty(options, store, signer, older_seeds)
                    break
                except StoreUnavailable:
                    if not left:
                        raise
        except StoreUnavailable as fault:
            _LOG.warning("the store is away (%s); working from the last good revision", fault)
        except BaseException:
            await store.aclose()
            if embedded is not None:
                await embedded.stop()
            raise
        return cls(options, store, embedded, signer, older_seeds)

    async def platform_listen(self) -> Mapping[str, str]:
        """`listen:` of the active policy. StartRefused when there is none anywhere."""
        try:
            snapshot = await asyncio.wait_for(self.watcher.first(), FIRST_POLICY_S)
        except TimeoutError:
            facts = self.watcher.facts()
            why = facts["store_fault"] or (facts["refused"] or {}).get("detail") or "the store holds none"
            raise StartRefused(
                f"there is no valid policy: {why}",
                self.store.url.rpartition("@")[2],
                "publish one with `egress push allowlists`, or start with --directory",
            ) from None
        return snapshot.platform.listen

    async def push(self, directory: Path, reason: str) -> "Manifest | None":
        """Publishes the directory unless it is the active revision. Raises ConfigErrors, Conflict, StoreUnavailable."""
        content = await asyncio.to_thread(_content, directory, self._paths)
        current = self.watcher.current
        if current is not None and current.revision == content.revision:
            return None
        manifest = await _publish(self.store, content.canonical, self._signer, self._older_seeds, self._paths, reason)
        self.watcher.poke()
        return manifest

    async def reconcile(self, holder: str) -> None:
        """Gives a dead worker's leases back and settles what its journal shows. Raises StoreUnavailable."""
        from proxy.dataplane.ledger import reconcile

        await reconcile(self._paths.journal_dir, self.store.budget, holder)

    def facts(self) -> dict[str, Any]:
        """JSON-able state of store and policy."""
        return {
            "store": {
                "kind": "embedded" if self._embedded is not None else "external",
                "url": self.store.url.rpartition("@")[2],
                "fault": self.watcher.status.store_fault,
            },
            "policy": self.watcher.facts(),
            "kills": {app: dict(facts) for app, facts in self.watcher.kills.items()},
        }

    async def aclose(self) -> None:
        """Ends watching, closes the store, stops the embedded one."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.store.aclose()
        if self._embedded is not None:
            await self._embedded.stop()

    async def _keep_store(self, embedded: "EmbeddedStore") -> None:
        from proxy.stores.ports import StoreUnavailable

        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            backoff.started(loop.time())
            await embedded.wait()
            await asyncio.sleep(backoff.pause_s(loop.time()))
            with contextlib.suppress(StoreUnavailable, OSError):
                await embedded.restart()
            self.watcher.poke()


async def fill_when_empty(
    options: Options, store: "Store", signer: "Signer", older_seeds: Sequence[bytes] = ()
) -> None:
    """The first policy of an empty store is the directory's. Afterwards the store's revision wins."""
    if options.directory is None or await store.config.head_manifest() is not None:
        return
    content = await asyncio.to_thread(_content, options.directory, options.paths)
    await _publish(store, content.canonical, signer, older_seeds, options.paths, "first start")


async def _publish(
    store: "Store", canonical: bytes, signer: "Signer", older_seeds: Sequence[bytes], paths: Paths, reason: str
) -> "Manifest":
    from proxy.stores.last_good import LastGood
    from proxy.stores.publish import publish, this_user

    return await publish(
        store.config,
        canonical,
        author=this_user(),
        reason=reason,
        signer=signer,
        now_s=time.time(),
        floor=LastGood(paths.last_good, signer.seed, older_seeds).accepted(),
    )


def _content(directory: Path, paths: Paths) -> Any:
    from proxy.config.compile import load_content

    return load_content(directory, paths.state_dir)


def _open(options: Options) -> "Store":
    from proxy.stores.open import MEMORY_URL, open_store

    try:
        if options.store_url == MEMORY_URL:
            raise ValueError("a store in memory cannot be shared by the workers")
        return open_store(options.store_url, options.paths)
    except ValueError as error:
        raise StartRefused(
            str(error), "--store", "give redis://HOST:PORT, or leave it out for the embedded store"
        ) from None


async def _start_embedded(options: Options) -> "EmbeddedStore":
    from proxy.stores.embedded import EmbeddedStore
    from proxy.stores.ports import StoreUnavailable

    try:
        return await EmbeddedStore.start(options.paths)
    except StoreUnavailable as fault:
        raise StartRefused(
            f"the embedded store does not start: {fault}",
            str(options.paths.store_dir),
            "mend what it names, or use another store with --store redis://HOST:PORT",
        ) from None
