"""The audit trail while processes die and disks refuse: what is forwarded has its record, and the chains stay whole."""

import json
import random
import resource
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.attack.net import GW_EXPLICIT
from tests.attack.procedures import Bench, procedure
from tests.attack.procedures.audit import audit_dir, verify
from tests.attack.procedures.faults import children, request, status
from tests.attack.procedures.injected import _fill, _on_small_disk
from tests.attack.wire import SSN
from tests.attack.world import EXPLICIT, send_signal, wait_until

_KILLS: Final = 8
_SEED: Final = 5
_BOTH_WAYS: Final = "aeiou"


def _word(number: int) -> str:
    """A number as a pronounceable word, which the trail shows as it is."""
    return "r" + "".join("bdfgk"[number // 25**at % 5] + _BOTH_WAYS[number // 5 // 25**at % 5] for at in range(4))


def _records(directory: Path) -> Iterator[dict[str, Any]]:
    """Every whole record of the trail."""
    for file in sorted(directory.glob("*/*.jsonl")):
        for line in file.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)


class Load:
    """Requests of one app, each with a path of its own, until `end`."""

    def __init__(self, bench: Bench, threads: int = 4) -> None:
        self._bench = bench
        self._stop = threading.Event()
        self._numbers = iter(range(5**8))
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        self.answers: Counter[int] = Counter()
        for one in self._threads:
            one.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers[status(self._bench, f"/load/{_word(next(self._numbers))}")] += 1
            except OSError:
                self.answers[0] += 1

    def end(self) -> None:
        """Returns once no request is under way."""
        self._stop.set()
        for one in self._threads:
            one.join(30)


@procedure("AUD-05", fresh=True)
def killed_writers(bench: Bench) -> None:
    """SIGKILL of the worker amid records, again and again (scaled to 8): the chains verify, at most one torn record a
    kill, and nothing was forwarded that no record tells of."""
    world = bench.world
    chance = random.Random(_SEED)
    world.upstreams.mark()
    load = Load(bench)
    for _ in range(_KILLS):
        served = load.answers[200]
        bench.check(wait_until(lambda served=served: load.answers[200] > served + 20, 40), "no new worker")
        threading.Event().wait(chance.random() / 20)
        for pid in children(bench, "proxy.dataplane.worker"):
            send_signal(pid, signal.SIGKILL)
    bench.check(wait_until(lambda: status(bench) == 200, 40), "no new worker after the last kill")
    load.end()
    forwarded = Counter(
        line.split(b" ")[1].decode()
        for one in world.upstreams.accepted
        for line in bytes(one.raw).split(b"\r\n")
        if line.startswith(b"GET /load/")
    )
    bench.check(len(forwarded) > 20 * _KILLS, f"only {len(forwarded)} requests were forwarded: nothing is shown")

    def missing() -> int:
        told = [one for one in _records(audit_dir(bench)) if one["kind"] == "terminal" and one.get("app") == "alpha"]
        paths = {one["path"] for one in told if "path" in one}
        # What a killed process had under way is told by the next one, by id and app.
        unnamed = sum("path" not in one for one in told)
        return len(set(forwarded) - paths) - unnamed

    bench.check(wait_until(lambda: missing() <= 0, 15), f"{missing()} forwarded requests without a record")
    ids = Counter(one["id"] for one in _records(audit_dir(bench)) if one["kind"] == "terminal")
    bench.check(max(ids.values()) == 1, "an exchange ended twice")
    done = verify(bench, audit_dir(bench))
    bench.check(done.returncode == 0, f"verify: exit {done.returncode}: {done.stdout[:300]}")
    _proved(bench)
    torn = done.stdout.count("torn tail")
    bench.check(torn <= _KILLS, f"{torn} torn records after {_KILLS} kills")


def _denied(bench: Bench, why: str) -> None:
    """New requests get 503 audit_unavailable, and none reaches an upstream."""
    world = bench.world
    bench.check(wait_until(lambda: status(bench) == 503, 40), f"{why}: still served: {status(bench)}")
    token = world.token()
    world.upstreams.mark()
    text = f"GET http://${{A}}/{token} HTTP/1.1\r\nHost: ${{A}}\r\nConnection: close\r\n\r\n"
    observed = request(bench, text)
    told = observed.answers[0] if observed.answers else None
    bench.check(told is not None and told.status == 503, f"{why}: {told and told.status}")
    bench.check(b"audit_unavailable" in bytes(observed.received), f"{why}: the reason is not told")
    if any(token.encode() in one.all for one in world.upstreams.accepted):
        bench.leak(f"{why}: forwarded without a record")


@procedure("AUD-08", fresh=True)
def sink_down(bench: Bench) -> None:
    """The trail's disk is full, then its files refuse every write: 503 audit_unavailable with nothing sent, and again
    service without a restart. The chains verify after both."""
    world, product = bench.world, bench.world.product
    if product is None or world.wires is None:
        return
    gw = world.wires.gw
    product.stop()
    gw.call(partial(_on_small_disk, product.paths.audit_dir, world.directory / "kept-audit"))
    gw.call(product.start)
    bench.check(status(bench) == 200, "not serving before")
    pids = [one["pid"] for one in product.status()["workers"]]
    ballast = product.paths.audit_dir / "ballast"
    gw.call(partial(_fill, ballast))
    _denied(bench, "disk full")
    gw.call(ballast.unlink)
    bench.check(wait_until(lambda: status(bench) == 200, 40), "does not heal from a full disk")
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    _denied(bench, "writes refused")
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    bench.check(wait_until(lambda: status(bench) == 200, 40), "does not heal from refused writes")
    bench.check([one["pid"] for one in product.status()["workers"]] == pids, "workers were restarted")
    done = gw.call(lambda: verify(bench, product.paths.audit_dir))
    bench.check(done.returncode == 0, f"verify: exit {done.returncode}: {done.stdout[:300]}")
    gw.call(partial(_proved, bench))


def _proved(bench: Bench) -> None:
    """The trail verifies with the public key alone, and soon there is no record that no checkpoint covers."""
    key = bench.world.cli("audit", "public-key").stdout.strip()

    def uncovered() -> int:
        done = verify(bench, audit_dir(bench), "--public-key", key)
        bench.check(done.returncode == 0, f"verify by the public key: exit {done.returncode}: {done.stdout[:300]}")
        return sum(int(chain["uncovered"]) for chain in json.loads(done.stdout)["chains"])

    bench.check(wait_until(lambda: uncovered() == 0, 10), "records stay without a checkpoint")


@procedure("AUD-09")
def each_outcome_once(bench: Bench) -> None:
    """Allowed, denied, left by upstream or client: each request has exactly one terminal record, with its outcome."""
    world, trail = bench.world, bench.world.trail
    if trail is None:
        return
    trail.more()
    head = "HTTP/1.1\r\nHost: ${A}\r\nConnection: close\r\n"
    wanted = Counter({("allowed", None): 3, ("denied", "host_denied"): 3, ("denied", "pii"): 3})
    for _ in range(3):
        bench.check(status(bench) == 200, "a legal request fails")
        request(bench, "GET http://evil.test/x HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n")
        request(bench, f"POST http://${{A}}/x {head}Content-Length: {len(SSN)}\r\n\r\n{SSN}")
    told: Counter[tuple[str, str | None]] = Counter()

    def all_told(wanted: Counter[tuple[str, str | None]]) -> bool:
        told.update((one["outcome"], one.get("code")) for one, _ in trail.more() if one["kind"] == "terminal")
        return told.total() >= wanted.total()

    bench.check(wait_until(lambda: all_told(wanted), 8) and told == wanted, f"told {told}, wanted {wanted}")
    told.clear()

    def drops(*_: Any) -> None:
        raise ConnectionAbortedError("as the script says")

    world.upstreams.script = drops
    request(bench, f"GET http://${{A}}/x {head}\r\n")
    arrived, waiting = threading.Event(), threading.Event()

    def silent(*_: Any) -> None:
        arrived.set()
        waiting.wait(20)

    world.upstreams.script = silent
    with world.dial((GW_EXPLICIT, EXPLICIT)) as client:
        client.sendall(b"GET http://allowed.test/x HTTP/1.1\r\nHost: allowed.test\r\n\r\n")
        bench.check(arrived.wait(10), "not forwarded")
        # Closed by a reset: a mere end might be a client that only has nothing more to send.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    left = Counter({("denied", "upstream_unreachable"): 1, ("aborted", None): 1})
    bench.check(wait_until(lambda: all_told(left), 15) and told == left, f"told {told}, wanted {left}")
    waiting.set()
    world.upstreams.plain()
    bench.check(status(bench) == 200, "a legal request fails after")


@procedure("AUD-04", fresh=True)
def torn_write(bench: Bench) -> None:
    """Half a record at the end, as a crash leaves it: `verify` names the record before it, and the chain goes on in a
    new segment that is linked to exactly that record."""
    for _ in range(4):
        bench.check(status(bench) == 200, "a legal request fails")
    directory = audit_dir(bench)
    files = [file for file in directory.glob("*/*.jsonl") if file.parent.name != "supervisor"]
    file = max(files, key=lambda one: one.stat().st_size)
    bench.check(wait_until(lambda: file.read_bytes().count(b'"terminal"') >= 4, 8), "no records of the requests")
    workers = children(bench, "proxy.dataplane.worker")
    for pid in workers:
        send_signal(pid, signal.SIGSTOP)
    whole = file.read_bytes()
    last = json.loads(whole.splitlines()[-1])
    with file.open("ab") as stream:
        stream.write(whole.splitlines()[-1][:80])
    for pid in workers:
        send_signal(pid, signal.SIGKILL)
    bench.check(wait_until(lambda: status(bench) == 200, 15), "no new worker")
    done = verify(bench, directory)
    bench.check(done.returncode == 0, f"exit {done.returncode}: {done.stdout[:300]}")
    notes = [note for chain in json.loads(done.stdout)["chains"] for note in chain["notes"]]
    named = [note for note in notes if "torn tail" in note and f"after seq {last['seq']}" in note]
    bench.check(len(named) == 1, f"the torn tail after seq {last['seq']} is not named: {notes}")
    later = file.with_name(f"{int(file.stem) + 1:06d}.jsonl")
    if not later.exists():
        # A new worker has a chain of its own; the dead one's gets no end but the supervisor's word.
        told = [one for one in _records(directory) if one.get("subject") == file.parent.name]
        heads = [(one.get("subject_seq"), one.get("subject_mac")) for one in told]
        bench.check(
            (last["seq"], last["mac"]) in heads, f"the supervisor does not vouch for seq {last['seq']}: {heads}"
        )
        return
    first = json.loads(later.read_bytes().splitlines()[0])
    linked = first["prev"], first["seq"], first.get("prev_segment"), first.get("prev_bytes")
    wanted = last["mac"], last["seq"] + 1, int(file.stem), len(whole)
    bench.check(linked == wanted, f"the new segment is linked to {linked}, expected {wanted}")


@procedure("AUD-11", fresh=True)
def key_rotation(bench: Bench) -> None:
    """A new root secret and a restart while requests come: the trail verifies across the change; both keys wrote."""
    world, product = bench.world, bench.world.product
    if product is None or world.wires is None:
        return
    old = world.cli("audit", "public-key").stdout.strip()
    load = Load(bench, threads=2)
    bench.check(wait_until(lambda: load.answers[200] > 20, 20), "no load")
    world.cli("keys", "rotate")
    product.stop()
    world.wires.gw.call(product.start)
    served = load.answers[200]
    bench.check(wait_until(lambda: load.answers[200] > served + 20, 20), "no load after the restart")
    load.end()
    done = verify(bench, audit_dir(bench))
    bench.check(done.returncode == 0, f"exit {done.returncode}: {done.stdout[:300]}")
    # The old public key alone is enough: it signed the new one.
    done = verify(bench, audit_dir(bench), "--public-key", old)
    bench.check(done.returncode == 0, f"with the old public key: {done.stdout[:300]}")
    headers = [one for one in _records(audit_dir(bench)) if one.get("event") == "segment"]
    keys = {one["key_id"] for one in headers if one["writer"] == "supervisor"}
    bench.check(len(keys) == 2, f"the supervisor's chain was written with {keys}")
    crossed = [one for one in headers if one["writer"] == "supervisor" and one.get("prev_segment")]
    bench.check(crossed, "no segment continues the chain of the old key")
