"""How policy reaches the workers: a store that is away, slow, refusing or lying; manifests that nobody may publish."""

import contextlib
import hashlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import redis

from proxy.config.compile import load_content
from proxy.config.manifest import Manifest, Signer, parse
from proxy.keys.root import MANIFEST, RootKey
from tests.attack.procedures import Bench, procedure
from tests.attack.procedures.faults import children, request, status
from tests.attack.world import send_signal, wait_until
from tests.lab.product import Product

_P = "egress:{config}:"
_POLLED_S = 3.0
"""A worker asks the store every half second; several rounds of it on a machine that stutters."""
_NO_SERVER = "redis://127.0.0.1:1"
_LEGAL_S = 1.0


def product_of(bench: Bench) -> Product:
    """The running product."""
    if bench.world.product is None:
        raise RuntimeError("a baseline has no store")
    return bench.world.product


def store_of(bench: Bench) -> Any:
    """A connection to the product's own store, as an attacker on the store would have it."""
    return redis.Redis(unix_socket_path=str(product_of(bench).paths.store_socket), socket_timeout=5)


def policy_facts(bench: Bench) -> Mapping[str, Any]:
    """What the supervisor says of policy: seq, refused, stale_s …"""
    facts: Mapping[str, Any] = product_of(bench).status()["policy"]
    return facts


def fault_of(bench: Bench) -> str:
    """What the supervisor says is wrong with the store; empty when nothing is."""
    return str(product_of(bench).status()["store"]["fault"] or "")


def signer_of(bench: Bench) -> Signer:
    """The installation's own."""
    return Signer(RootKey.load(product_of(bench).paths.root_key).derive(MANIFEST))


def without(bench: Bench, app: str) -> bytes:
    """Canonical content of the world's policy in which `app` may reach nothing but another host."""
    world = bench.world
    whole = world.apps[app]
    world.apps[app] = {**whole, "allow": [{"id": "other", "host": "other.test", "reason": "lab"}]}
    try:
        return load_content(world.write_policy()).canonical
    finally:
        world.apps[app] = whole
        world.write_policy()


def open_to_evil(bench: Bench) -> bytes:
    """Canonical content in which alpha may also reach the evil host."""
    world = bench.world
    whole = world.apps["alpha"]
    evil = {**whole["allow"][1], "id": "evil", "host": "evil.test"}
    world.apps["alpha"] = {**whole, "allow": [*whole["allow"], evil]}
    try:
        return load_content(world.write_policy()).canonical
    finally:
        world.apps["alpha"] = whole
        world.write_policy()


def revision_of(content: bytes) -> str:
    """The name of a content."""
    return hashlib.sha256(content).hexdigest()


def head_of(bench: Bench) -> Manifest:
    """The newest manifest of the store."""
    raw = store_of(bench).lindex(_P + "log", 0)
    return parse(bytes(raw))


def put(bench: Bench, manifest: bytes, seq: int, revision: str, content: bytes, *, notify: bool = True) -> None:
    """Writes straight into the store what a push would, with or without the message."""
    store = store_of(bench)
    store.set(f"{_P}rev:{revision}", content)
    store.set(_P + "seq", seq)
    store.lpush(_P + "log", manifest)
    store.incr(_P + "epoch")
    if notify:
        store.publish("egress:changes", "1")


def evil_status(bench: Bench) -> int:
    """What alpha gets for the evil host."""
    observed = request(bench, "GET http://evil.test/x HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n")
    return observed.answers[0].status if observed.answers else -2


def refused_why(bench: Bench) -> str:
    """Why the newest manifest was refused; empty when it was not."""
    return str((policy_facts(bench)["refused"] or {}).get("why", ""))


@procedure("CFG-01")
def no_store_at_start(bench: Bench) -> None:
    """No store and no last good policy: nothing is ever served, and it is never ready."""
    state = bench.world.directory / "no-store"
    state.mkdir(mode=0o700)
    product = Product(state, bench.world.policy_dir, extra=("--store", _NO_SERVER))
    product.start(wait=False)
    try:
        ended = wait_until(lambda: product.process is not None and product.process.poll() is not None, 40)
        bench.check(ended and product.process and product.process.returncode == 2, "start is not refused with code 2")
        bench.check("no valid policy" in product.log(), f"no reason named: {product.log()[-300:]}")
        bench.check(not Path(product.paths.status_file).exists(), "it said it was listening")
    finally:
        product.stop()


def _silent_s(bench: Bench) -> float:
    found = re.search(r"^egress_store_silent_seconds ([0-9.e+]+)$", bench.world.page("/metrics"), re.MULTILINE)
    return float(found[1]) if found else -1.0


@procedure("CFG-02", fresh=True)
def store_away_for_long(bench: Bench) -> None:
    """The store stops: the last good policy holds until `max_staleness` (scaled to 5 s), then all is denied, also by a
    worker that starts meanwhile; with the store everything is back."""
    world = bench.world
    world.platform["max_staleness"] = "5s"
    world.push()
    bench.check(status(bench) == 200, "not serving before")
    pids = children(bench, "valkey")
    bench.check(pids, "no store process found")
    for pid in pids:
        send_signal(pid, signal.SIGSTOP)
    try:
        stopped_s = time.monotonic()
        _legal_at_once(bench, "within the limit")
        bench.check(time.monotonic() - stopped_s < 5, "too slow here to see the last good policy hold")
        denied = wait_until(lambda: status(bench) == 503, 15)
        bench.check(denied, f"still {status(bench)} after the limit")
        # It counts from the last answer, which may be one poll before the stop.
        bench.check(time.monotonic() - stopped_s > 4, "denied before the limit")
        answer = request(bench, "GET http://${A}/x HTTP/1.1\r\nHost: ${A}\r\n\r\n").answers[0]
        bench.check(b"policy_unavailable" in answer.body, f"denied as {answer.body[:80]!r}")
        bench.check(wait_until(lambda: _silent_s(bench) > 5, 5), f"the metric says {_silent_s(bench)} s")
        told = wait_until(lambda: "max_staleness" in str(product_of(bench).status()["why_not"]), 3)
        bench.check(told, f"not ready because {product_of(bench).status()['why_not']}")
        for pid in children(bench, "proxy.dataplane.worker"):
            send_signal(pid, signal.SIGKILL)
        bench.check(not wait_until(lambda: status(bench) == 200, 4), "a new worker serves by the old policy")
    finally:
        for pid in pids:
            send_signal(pid, signal.SIGCONT)
    bench.check(wait_until(lambda: status(bench) == 200, 20), "does not serve again with the store")
    bench.check(wait_until(lambda: _silent_s(bench) == 0, 10), "the metric does not fall back to 0")


@procedure("CFG-03", fresh=True)
def hung_store(bench: Bench) -> None:
    """A store that hangs (CLIENT PAUSE, then SIGSTOP) is not on the path of a request."""
    bench.check(status(bench) == 200, "not serving before")
    store = store_of(bench)
    store.client_pause(3000)
    _legal_at_once(bench, "paused")
    pids = children(bench, "valkey")
    bench.check(pids, "no store process found")
    for pid in pids:
        send_signal(pid, signal.SIGSTOP)
    try:
        _legal_at_once(bench, "stopped")
        bench.check(wait_until(lambda: fault_of(bench) != "", 10), "nobody says that the store is away")
        _legal_at_once(bench, "stopped for long")
        bench.check(evil_status(bench) == 403, "the denied host is not denied")
    finally:
        for pid in pids:
            send_signal(pid, signal.SIGCONT)
    bench.check(wait_until(lambda: fault_of(bench) == "", 15), "does not find the store again")


def _legal_at_once(bench: Bench, when: str) -> None:
    for _ in range(10):
        started_s = time.monotonic()
        code = status(bench)
        took_s = time.monotonic() - started_s
        bench.check(code == 200, f"{when}: {code}")
        bench.check(took_s < _LEGAL_S, f"{when}: answered after {took_s:.2f} s")


@contextlib.contextmanager
def _said_no(store: Any, kind: str) -> Iterator[None]:
    """The store answers with that error for as long as the block lasts."""
    names = (_P + "epoch", _P + "log")
    if kind == "NOAUTH":
        store.config_set("requirepass", "x")
        store.client_kill_filter(_type="normal", skipme=True)
    elif kind == "READONLY":
        store.execute_command("REPLICAOF", "127.0.0.1", "1")
    elif kind == "OOM":
        store.config_set("maxmemory", "1")
    elif kind == "WRONGTYPE":
        for name in names:
            store.rename(name, name + ".kept")
            store.hset(name, "a", "b")
    try:
        yield
    finally:
        if kind == "NOAUTH":
            store.config_set("requirepass", "")
        elif kind == "READONLY":
            store.execute_command("REPLICAOF", "NO", "ONE")
        elif kind == "OOM":
            store.config_set("maxmemory", "0")
        elif kind == "WRONGTYPE":
            for name in names:
                store.rename(name + ".kept", name)


@procedure("CFG-04", fresh=True)
def store_says_no(bench: Bench) -> None:
    """NOAUTH, WRONGTYPE, READONLY, OOM of the real store: the last good policy holds, and the fault is named."""
    bench.check(status(bench) == 200, "not serving before")
    for kind, named in (("NOAUTH", True), ("WRONGTYPE", True), ("READONLY", False), ("OOM", False)):
        with _said_no(store_of(bench), kind):
            # Reading goes on where only writing is refused: there is no fault of the configuration then.
            if named:
                bench.check(wait_until(lambda: fault_of(bench) != "", 5), f"{kind}: no fault is named")
            _legal_at_once(bench, kind)
            bench.check(evil_status(bench) == 403, f"{kind}: the denied host is not denied")
        bench.check(wait_until(lambda: fault_of(bench) == "", 15), f"{kind}: does not recover")


@procedure("CFG-07", fresh=True)
def forged(bench: Bench) -> None:
    """Manifests without a signature, with that of another key, and true ones over other content: each is refused."""
    content = open_to_evil(bench)
    head = head_of(bench)
    honest = Manifest(head.seq + 1, revision_of(content), head.revision, "mallory", time.time(), "forged")
    stranger = os.urandom(32)
    true = signer_of(bench).sign(replace(honest, revision=revision_of(without(bench, "beta"))))
    for name, manifest, why in (
        ("unsigned", replace(honest, key_id="root", signature=""), "signature"),
        ("another key as root", Signer(stranger).sign(honest), "signature"),
        ("another key by its name", Signer(stranger, "mallory").sign(honest), "unknown_key"),
        ("signature of another", replace(honest, key_id="root", signature=true.signature), "signature"),
        ("other content", true, "content"),
    ):
        put(bench, manifest.to_bytes(), manifest.seq, manifest.revision, content)
        got = wait_until(lambda why=why: refused_why(bench) == why, _POLLED_S)
        bench.check(got, f"{name}: refused as {refused_why(bench)!r}, expected {why}")
        if evil_status(bench) != 403:
            bench.leak(f"{name}: the evil host is open")
        bench.check(status(bench) == 200, f"{name}: the old policy does not hold")
        bench.check(policy_facts(bench)["seq"] == head.seq, f"{name}: seq moved")
        store_of(bench).lpop(_P + "log")


@procedure("CFG-08", fresh=True)
def rolled_back(bench: Bench) -> None:
    """An older manifest put back on top is refused, also after a restart; `egress rollback` gives it a new number."""
    world, product = bench.world, product_of(bench)
    world.apps["alpha"]["allow"].append({**world.apps["alpha"]["allow"][1], "id": "evil", "host": "evil.test"})
    world.push()
    bench.check(wait_until(lambda: evil_status(bench) == 200, _POLLED_S), "the wide policy does not come")
    wide = head_of(bench)
    world.apps["alpha"]["allow"].pop()
    world.push()
    bench.check(wait_until(lambda: evil_status(bench) == 403, _POLLED_S), "the narrow policy does not come")
    content = store_of(bench).get(f"{_P}rev:{wide.revision}")
    put(bench, wide.to_bytes(), wide.seq, wide.revision, bytes(content or b""))
    bench.check(wait_until(lambda: refused_why(bench) == "older", _POLLED_S), f"refused as {refused_why(bench)!r}")
    bench.check(evil_status(bench) == 403, "the old policy is back")
    product.stop()
    if world.wires:
        world.wires.gw.call(product.start)
    bench.check(evil_status(bench) == 403, "the old policy is back after a restart")
    store_of(bench).lpop(_P + "log")
    world.cli("rollback", str(wide.seq), "--reason", "break glass", check=False)
    bench.check(wait_until(lambda: evil_status(bench) == 200, _POLLED_S), "rollback on purpose has no effect")


@procedure("CFG-13", fresh=True)
def lost_message(bench: Bench) -> None:
    """A push whose message is lost still bites."""
    content = without(bench, "beta")
    head = head_of(bench)
    manifest = signer_of(bench).sign(
        Manifest(head.seq + 1, revision_of(content), head.revision, "lab", time.time(), "no message")
    )
    bench.check(status(bench, source="4") == 200, "beta is not served before")
    put(bench, manifest.to_bytes(), manifest.seq, manifest.revision, content, notify=False)
    bench.check(wait_until(lambda: status(bench, source="4") == 403, 30), "not in effect within 30 s")


@procedure("CFG-10", fresh=True)
def reload_under_load(bench: Bench) -> None:
    """A hundred publications while requests run: no error, and every record names one revision that was published."""
    world = bench.world
    contents = [without(bench, "beta"), without(bench, "holder")]
    signer, manifest = signer_of(bench), head_of(bench)
    known = {manifest.revision, *map(revision_of, contents)}
    if world.trail:
        world.trail.more()
    codes: list[int] = []
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            codes.append(status(bench))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for one in threads:
        one.start()
    try:
        for turn in range(100):
            content = contents[turn % 2]
            manifest = signer.sign(
                Manifest(manifest.seq + 1, revision_of(content), manifest.revision, "lab", time.time(), "load")
            )
            put(bench, manifest.to_bytes(), manifest.seq, manifest.revision, content)
        settled = wait_until(lambda: policy_facts(bench)["seq"] == manifest.seq, 15)
    finally:
        over.set()
        for one in threads:
            one.join(10)
    bench.check(settled, f"the last one is not in effect: {policy_facts(bench)['seq']} of {manifest.seq}")
    bench.check(codes and set(codes) == {200}, f"{len(codes)} requests: {sorted(set(codes))}")
    _one_revision_each(bench, known, len(codes))


def _one_revision_each(bench: Bench, known: set[str], wanted: int) -> None:
    found: list[str] = []

    def read() -> bool:
        if bench.world.trail:
            rows = [one for one, _ in bench.world.trail.more() if one["kind"] == "terminal"]
            found.extend(str(one.get("revision", "")) for one in rows)
        return len(found) >= wanted

    bench.check(wait_until(read, 5), f"{len(found)} records of {wanted} requests")
    strange = {one for one in found if not any(one and full.startswith(one) for full in known)}
    bench.check(not strange, f"records name {sorted(strange)[:2]}")


@procedure("ADM-03", fresh=True)
def kill_lifted_in_the_store(bench: Bench) -> None:
    """Who can write to the store removes a kill, or puts a lift of his own in its place: it holds, also over a restart
    of the product, and stands in the store again."""
    world, product, store = bench.world, product_of(bench), store_of(bench)
    name = _P + "kills"
    world.cli("kill", "alpha", "--reason", "test")
    bench.check(wait_until(lambda: status(bench) == 403, 1.5), "still served 1.5 s after the kill")

    def stands() -> bool:
        raw = store.hget(name, "alpha")
        return raw is not None and json.loads(raw).get("reason") == "test" and "lifted" not in json.loads(raw)

    order = json.loads(store.hget(name, "alpha"))
    forged = json.dumps({**order, "lifted": True, "number": order["number"] + 1})
    for attack, act in (
        ("removed", partial(store.hdel, name, "alpha")),
        ("forged", partial(store.hset, name, "alpha", forged)),
    ):
        act()
        store.incr(_P + "epoch")
        store.publish("egress:changes", "1")
        bench.check(wait_until(stands, _POLLED_S), f"{attack}: the store does not get the order again")
        if status(bench) != 403:
            bench.leak(f"{attack}: the kill is lifted")
    store.hdel(name, "alpha")
    product.stop()
    if world.wires:
        world.wires.gw.call(product.start)
    if status(bench) != 403:
        bench.leak("removed before a restart: the kill is lifted")
    world.cli("unkill", "alpha")
    bench.check(wait_until(lambda: status(bench) == 200, 5), "unkill does not lift it")
