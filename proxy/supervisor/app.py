"""`egress run`: binds, starts, watches, restarts, drains. Order of start: state, keys, demo, store, policy, sockets,
inspectors, workers, health and admin; the order of the end is the reverse."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from proxy.inspector import exits
from proxy.paths import private_dir
from proxy.sinks.file import UnsafeAuditFile
from proxy.supervisor import admin, boot, http
from proxy.supervisor.child import Child, module_command
from proxy.supervisor.metrics import Totals, make_registry, render
from proxy.supervisor.options import OFF, Options
from proxy.supervisor.policy import Policy
from proxy.supervisor.pulse import keep_alive
from proxy.supervisor.readiness import Condition, not_ready
from proxy.supervisor.sockets import bind_slots, format_address
from proxy.supervisor.trail import SupervisorTrail
from proxy.supervisor.watch import watch
from proxy.supervisor.worker_pool import Message, Worker, WorkerPool

_LOG = logging.getLogger(__name__)

TRAFFIC_LISTENERS: Final = ("explicit", "transparent", "dns")
BOOKS_AGAIN_S: Final = 2.0
EXIT_UNSETTLED: Final = 1


class Supervisor:
    """Owns everything that `egress run` starts. `run` returns the exit code."""

    def __init__(self, options: Options, *, on_ready: Callable[["Supervisor"], None] = lambda _: None) -> None:
        self.options = options
        self.paths = options.paths
        self.totals = Totals()
        self.listen: dict[str, str] = {}
        self.started_s = time.time()
        self.draining = False
        self.inspectors: list[Child] = []
        self.pool = WorkerPool([], self.paths.log_dir, self)
        self.keys: boot.Keys
        self.policy: Policy
        self.trail: SupervisorTrail
        self._metrics_listener: socket.socket | None = None
        self._on_ready = on_ready
        self._was_ready = False
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._restart = asyncio.Event()
        self._books = asyncio.Lock()
        self._tasks: list[asyncio.Task[Any]] = []

    # -- life

    def _open_trail(self) -> SupervisorTrail:
        try:
            return SupervisorTrail(self.paths, self.keys.root, self.options.audit_mirrors)
        except UnsafeAuditFile as unsafe:
            place = str(self.paths.audit_dir)
            raise boot.StartRefused("the audit directory is not private", place, str(unsafe)) from None

    async def run(self) -> int:
        """Starts everything, waits for the end, drains. The exit code: 0, or EXIT_UNSETTLED.

        Raises StartRefused, KeyProblem, ConfigErrors, CannotListen.
        """
        boot.refuse_strangers()
        boot.directory_of(self.options)
        self._on_signals()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(os.close, boot.lock_state(self.paths))
            self.keys = boot.load_keys(self.paths)
            self.trail = self._open_trail()
            stack.callback(self.trail.close)
            if self.options.demo:
                await self._start_demo(stack)
            self.policy = await Policy.open(self.options, self.keys.root)
            stack.push_async_callback(self.policy.aclose)
            sockets = self._bind(stack, await self.policy.platform_listen())
            await self._start_inspectors(stack)
            await self._serve_pages(stack)
            await self._start_workers(stack, sockets)
            boot.write_status_file(self.paths, self.listen)
            stack.callback(self.paths.status_file.unlink, missing_ok=True)
            self._spawn(self._watch_readiness())
            self._spawn(self._hot_restarts())
            self._spawn(self._close_left_books())
            if self.options.watch and self.options.directory is not None:
                self._spawn(watch(self.options.directory, self.policy))
            stack.push_async_callback(self._cancel_tasks)
            await self._stop.wait()
            self._refuse_without_inspector()
            await self._drain(sockets)
            return EXIT_UNSETTLED if await self._unsettled() else 0

    def _on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._restart.set)

    def stop(self) -> None:
        """Drain and exit; a second call cuts what is still open."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    async def _drain(self, sockets: list[dict[str, socket.socket]]) -> None:
        self.draining = True
        await self._cancel_tasks()
        # New clients are refused at once, so that a load balancer or a client's own retry goes elsewhere.
        for slot in sockets:
            for listener in slot.values():
                listener.close()
        drained = asyncio.create_task(self.pool.drain(self.options.drain_s))
        hurried = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({drained, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not drained.done():
            for worker in self.pool.living:
                worker.drain(0.0)
        await drained

    async def _unsettled(self) -> bool:
        """Whether money or records of this run wait for the next start: the store or the disk did not take them."""
        for mark in list(self.paths.living_dir.iterdir()):
            await self._close_books(mark.name)
        left = len(list(self.paths.living_dir.iterdir()))
        if left:
            _LOG.error("the books of %d workers stay open; the next start closes them, once the store is there", left)
        return bool(left)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    async def _cancel_tasks(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- parts

    async def _start_demo(self, stack: contextlib.AsyncExitStack) -> None:
        log = self.paths.log_dir / "demo.log"
        command = module_command("proxy.demo", "--state", str(self.paths.state_dir))
        demo = Child("demo", "demo", command, log, on_end=self._child_ended("demo"))
        self._keep_child(stack, demo)
        await boot.wait_for_demo(demo, self.paths.demo_dir / "ca.pem")

    async def _start_inspectors(self, stack: contextlib.AsyncExitStack) -> None:
        private_dir(self.paths.socket_dir)
        for index in range(self.options.inspectors):
            path = self.paths.inspector_socket(index)
            command = module_command("proxy.inspector.server", "--socket", str(path), *self._data_options())
            log = self.paths.log_dir / f"inspector-{index}.log"
            child = Child(
                "inspector", str(index), command, log, on_end=self._inspector_ended, explained={exits.NO_MODEL}
            )
            self.inspectors.append(child)
            self._keep_child(stack, child)
            self._keep_task(stack, keep_alive(child, path), f"pulse-{index}")

    def _data_options(self) -> list[str]:
        """Where inspectors find the indexes that policies name by digest."""
        directories = [self.paths.data_dir, self.paths.state_dir]
        if self.options.directory is not None:
            directories.append(self.options.directory)
        return [part for directory in directories for part in ("--data", str(directory))]

    def _keep_child(self, stack: contextlib.AsyncExitStack, child: Child) -> None:
        self._keep_task(stack, child.run(), f"{child.kind}-{child.name}")

    @staticmethod
    def _keep_task(stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        stack.push_async_callback(end)

    def _child_ended(self, kind: str) -> Callable[[int], Awaitable[None] | None]:
        def ended(code: int) -> None:
            self.totals.own.add("worker_restarts_total", (kind,))
            self.trail.event(f"{kind}_ended", exit_code=code)

        return ended

    def _inspector_ended(self, code: int) -> None:
        """One that lacks its model ends the start; later it is waited for, while every call is denied."""
        self._child_ended("inspector")(code)
        if code == exits.NO_MODEL and not self._was_ready:
            self._stop.set()

    def _refuse_without_inspector(self) -> None:
        lacking = next(((child, child.fault) for child in self.inspectors if child.fault), None)
        if lacking is not None and not self._was_ready:
            child, said = lacking
            raise boot.StartRefused(said.what, f"inspector {child.name} ({child.log})", said.fix)

    def _bind(self, stack: contextlib.AsyncExitStack, platform: Mapping[str, str]) -> list[dict[str, socket.socket]]:
        slots: list[dict[str, socket.socket]] = [{} for _ in range(self.options.workers)]
        for name in TRAFFIC_LISTENERS:
            bound = bind_slots(self.options.address_of(name, platform), self.options.workers)
            for slot, listener in zip(slots, bound, strict=False):
                slot[name] = listener
                stack.callback(listener.close)
            if bound:
                self.listen[name] = format_address(*bound[0].getsockname()[:2])
        # DNS speaks both transports on one port.
        datagrams = bind_slots(self.listen.get("dns", OFF), self.options.workers, socket.SOCK_DGRAM)
        for slot, listener in zip(slots, datagrams, strict=False):
            slot["dns_udp"] = listener
            stack.callback(listener.close)
        metrics = bind_slots(self.options.address_of("metrics", platform), 1)
        self._metrics_listener = metrics[0] if metrics else None
        if self._metrics_listener is not None:
            stack.callback(self._metrics_listener.close)
            self.listen["metrics"] = format_address(*self._metrics_listener.getsockname()[:2])
        return slots

    async def _serve_pages(self, stack: contextlib.AsyncExitStack) -> None:
        registry = make_registry(self.totals)
        pages: dict[str, http.Handler] = {
            "/metrics": lambda: (200, "text/plain; version=0.0.4; charset=utf-8", render(registry)),
            "/healthz": lambda: http.json_page(200, {"alive": True}),
            "/readyz": self._ready_page,
        }
        if self._metrics_listener is not None:
            stack.callback((await http.serve(self._metrics_listener, pages)).close)
        from proxy.supervisor.verbs import verbs

        stack.callback((await admin.serve(self.paths.admin_socket, verbs(self))).close)

    async def _start_workers(self, stack: contextlib.AsyncExitStack, sockets: list[dict[str, socket.socket]]) -> None:
        for left in private_dir(self.paths.living_dir).iterdir():
            await self._close_books(left.name)
        stdout = "stdout" in self.options.audit_mirrors
        self.pool = WorkerPool(sockets, self.paths.log_dir, self, keep_stdout=stdout)
        for slot in range(self.options.workers):
            self._spawn(self.pool.keep(slot))
        stack.push_async_callback(self._last_resort)

    async def _last_resort(self) -> None:
        """A failed start must not leave workers behind."""
        await self._cancel_tasks()
        await self.pool.drain(0.0)

    # -- what the pool tells

    async def worker_starting(self, worker: Worker) -> Message:
        """Every chain of audit records has a witness that outlives its writer: no birth record, no worker."""
        await self.trail.until_ready()
        (self.paths.living_dir / worker.id).touch(mode=0o600)
        self.trail.worker_born(worker.id, worker.process.pid)
        return {
            "state": str(self.paths.state_dir),
            "store": self.options.store_url,
            "addons": list(self.options.addons),
            "audit_mirrors": list(self.options.audit_mirrors),
            "inspectors": self.options.inspectors,
            "listen": self.listen,
        }

    def worker_said(self, worker: Worker, message: Message) -> None:
        """Numbers and status; anything malformed counts against the worker, never against us."""
        if message.get("is") == "status":
            worker.status = message
            self.trail.worker_head(worker.id, int(message["audit_seq"]), str(message["audit_mac"]))
            self.totals.own.set("config_seq", (str(worker.slot),), float(message.get("seq") or 0))
        elif message.get("is") == "delta":
            try:
                self.totals.merge(worker.id, message)
            except (KeyError, ValueError, TypeError):
                self.totals.own.add("internal_errors_total", ("metrics",))

    async def worker_ended(self, worker: Worker, code: int) -> None:
        """Books of the dead: gauges, audit chain, budget leases."""
        self.totals.forget(worker.id)
        if not worker.draining:
            _LOG.warning("worker %s in slot %d ended unexpectedly (code %d)", worker.id, worker.slot, code)
            self.totals.own.add("worker_restarts_total", ("worker",))
        await self._close_books(worker.id)

    async def _close_books(self, worker_id: str) -> None:
        """Audit chain and budget of a worker that is gone; its mark stays until both are closed."""
        mark = self.paths.living_dir / worker_id
        async with self._books:
            if not mark.exists():
                return
            try:
                await asyncio.to_thread(self.trail.worker_ended, worker_id)
                await self.policy.reconcile(worker_id)
            except Exception as fault:  # noqa: BLE001 - the mark stays, so it is tried again
                _LOG.warning("books of %s stay open: %s", worker_id, type(fault).__name__)
            else:
                mark.unlink(missing_ok=True)

    async def _close_left_books(self) -> None:
        """Of workers that died while the store was away: their leases must not wait for the next start."""
        while True:
            await asyncio.sleep(BOOKS_AGAIN_S)
            alive = {worker.id for worker in self.pool.living}
            for mark in list(self.paths.living_dir.iterdir()):
                if mark.name not in alive and not self.policy.watcher.status.store_fault:
                    await self._close_books(mark.name)

    # -- health

    def reasons_not_ready(self) -> list[str]:
        """Empty when traffic would be served."""
        now_s = time.time()
        current = [worker for worker in self.pool.current if worker is not None and worker.ready.is_set()]
        condition = Condition(
            workers=[worker.status for worker in current if not worker.ended.is_set()],
            inspectors_alive=sum(child.pid is not None for child in self.inspectors),
            ca_expires_at_s=self.keys.ca.signing(now_s).not_after_s,
            audit_ready=self.trail.ready,
            draining=self.draining,
            policy_outdated=self.policy.watcher.outdated,
            inspector_fault=next((child.fault.what for child in self.inspectors if child.fault), ""),
        )
        return not_ready(condition, now_s)

    def _ready_page(self) -> http.Page:
        reasons = self.reasons_not_ready()
        return http.json_page(503 if reasons else 200, {"ready": not reasons, "why_not": reasons})

    async def _watch_readiness(self) -> None:
        while True:
            ready = not self.reasons_not_ready()
            self._set_gauges(ready=ready)
            if ready and not self._was_ready and all(w is not None and w.ready.is_set() for w in self.pool.current):
                self._was_ready = True
                self._on_ready(self)
            await asyncio.sleep(0.1)

    def _set_gauges(self, *, ready: bool) -> None:
        own = self.totals.own
        own.set("ready", (), float(ready))
        own.set("store_up", (), float(not self.policy.watcher.status.store_fault))
        own.set("stops_restored", (), self.policy.watcher.stops_restored)
        own.set("store_silent_seconds", (), self.policy.watcher.stale_s)
        own.set("ca_expires_timestamp_seconds", (), self.keys.ca.signing(time.time()).not_after_s)
        for slot, worker in enumerate(self.pool.current):
            own.set("worker_up", (str(slot),), float(worker is not None and not worker.ended.is_set()))
        for child in self.inspectors:
            own.set("inspector_up", (child.name,), float(child.pid is not None))

    # -- restarts

    async def _hot_restarts(self) -> None:
        while True:
            await self._restart.wait()
            self._restart.clear()
            for slot in range(self.options.workers):
                replaced = await self.pool.replace(slot, self.options.drain_s)
                self.trail.event("worker_replaced" if replaced else "worker_not_replaced", slot=slot)

    def restart_workers(self) -> None:
        """Hot restart, slot by slot."""
        self._restart.set()
