"""Issue bullet 10: policy changes under traffic, and the admin's loop."""

import asyncio
import contextlib
import hashlib
import json
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from proxy.config.manifest import Signer, parse
from proxy.keys.root import MANIFEST, RootKey
from proxy.stores.open import open_store
from tests.lab.fixtures import Lab, build_lab, default_setup
from tests.lab.product import eventually


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    """One product with two workers for this module; each test publishes on top of the last."""
    with ExitStack() as stack:
        lab = build_lab(stack, default_setup, workers=2)
        stack.enter_context(lab.product)
        yield lab


def _seq(lab: Lab) -> int:
    return int(lab.product.status()["policy"]["seq"])


def _everywhere(lab: Lab, seq: int) -> bool:
    return all(worker["seq"] == seq for worker in lab.product.status()["workers"])


def test_reloads_under_traffic_drop_nothing(shared: Lab) -> None:
    lab = shared
    stop = threading.Event()
    statuses: list[int] = []
    faults: list[str] = []

    def traffic() -> None:
        with lab.product.httpx("alpha") as client:
            while not stop.is_set():
                try:
                    statuses.append(client.get(lab.url).status_code)
                except httpx.HTTPError as error:
                    faults.append(repr(error))

    threads = [threading.Thread(target=traffic) for _ in range(4)]
    for thread in threads:
        thread.start()
    before = _seq(lab)
    for number in range(3):
        lab.policy.apps["beta"]["owner"] = f"owner-{number}@example.com"
        lab.push()
        assert _everywhere(lab, before + 1 + number)
    shown = lab.product.cli("rollback", "--reason", "test", check=False)
    assert shown.returncode == 0, shown.stderr
    eventually(lambda: _everywhere(lab, before + 4), "the rollback", 2)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert faults == []
    assert set(statuses) == {200}
    assert len(statuses) > 20


def test_a_host_that_is_taken_away_is_denied_within_a_second(shared: Lab) -> None:
    lab = shared
    with lab.product.httpx("beta") as client:
        assert client.get(lab.url).status_code == 200
        entries = lab.policy.apps["beta"]["allow"]
        lab.policy.apps["beta"]["allow"] = entries[1:]
        lab.push()
        assert client.get(lab.url).json()["code"] == "host_denied"
        lab.policy.apps["beta"]["allow"] = entries
        lab.push()
        assert client.get(lab.url).status_code == 200


@pytest.mark.parametrize("kind", ["unsigned", "wrong key", "older", "forked", "garbage", "other content", "bad policy"])
def test_what_is_not_ours_never_loads(shared: Lab, kind: str) -> None:
    """Somebody who can write to the store writes his own head. The policy in force stays; `status` says why."""
    lab = shared
    seq, revision = _seq(lab), lab.product.status()["policy"]["revision"]
    asyncio.run(_tamper(lab, kind, seq))
    refused = eventually(lambda: _refusal(lab), "the refusal", 5)
    assert refused["why"] or refused["detail"]
    assert {worker["revision"] for worker in lab.product.status()["workers"]} == {revision}
    with lab.product.httpx("alpha") as client:
        assert client.get(lab.url).status_code == 200
    lab.policy.apps["beta"]["owner"] = f"{kind.replace(' ', '-')}@example.com"
    lab.push()
    assert lab.product.status()["policy"]["seq"] > seq
    eventually(lambda: _refusal(lab) is None, "the end of the refusal", 3)


def _refusal(lab: Lab) -> dict[str, object] | None:
    workers = lab.product.status()["workers"]
    found = [worker["refused"] for worker in workers if worker["refused"]]
    return found[0] if len(found) == len(workers) else None


async def _tamper(lab: Lab, kind: str, seq: int) -> None:
    store = open_store(None, lab.product.paths)
    root = RootKey.load(lab.product.paths.root_key)
    try:
        head = await store.config.head_manifest()
        assert head is not None
        manifest = parse(head)
        content = await store.config.get_revision(manifest.revision)
        assert content is not None
        raw = json.loads(head)
        ours, theirs = Signer(root.derive(MANIFEST)), Signer(b"\x07" * 32)
        new = replace(manifest, seq=seq + 1, parent=manifest.revision)
        evil = {
            "unsigned": lambda: json.dumps({**raw, "seq": seq + 1, "signature": ""}).encode(),
            "wrong key": lambda: theirs.sign(new).to_bytes(),
            "older": lambda: ours.sign(replace(manifest, seq=max(1, seq - 1))).to_bytes(),
            "forked": lambda: ours.sign(replace(manifest, reason="another history")).to_bytes(),
            "garbage": lambda: b"\x00not a manifest",
            "other content": lambda: ours.sign(replace(new, revision="ab" * 32)).to_bytes(),
            "bad policy": lambda: ours.sign(replace(new, revision=_bad_revision())).to_bytes(),
        }[kind]()
        await store.config.put_revision("ab" * 32, content)
        await store.config.put_revision(_bad_revision(), _BAD)
        await store.config.append_manifest(evil, seq=seq + 1, expect_seq=seq)
    finally:
        await store.aclose()


_BAD = b'{"version":1,"apps":"nonsense"}'


def _bad_revision() -> str:
    return hashlib.sha256(_BAD).hexdigest()


def test_the_admins_loop(shared: Lab) -> None:
    """edit, check, test, diff, push: each is one command; its own work takes under a second of CPU."""
    lab = shared
    lab.policy.apps["beta"]["owner"] = "loop@example.com"
    directory = str(lab.policy.write())
    for command in (["check", directory], ["diff", directory], ["push", directory, "--yes", "--reason", "loop"]):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        lab.product.cli(*command, check=command[0] != "diff")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert used_s < 1.0, f"egress {command[0]} used {used_s:.2f} s of CPU"
    assert lab.product.cli("diff", directory).stdout.strip().startswith("no change")


def test_explain_names_the_rule_and_the_fix(shared: Lab) -> None:
    shown = shared.product.cli(
        "explain", "--active", "--app", "alpha", "--method", "GET", "--url", "https://evil.example/x", check=False
    )
    assert shown.returncode == 1
    for part in ("host_denied", "apps/alpha.yaml:", "host: evil.example"):
        assert part in shown.stdout
    allowed = shared.product.cli("explain", "--active", "--app", "alpha", "--url", f"{shared.url}/v1/x")
    assert "apps/alpha.yaml:" in allowed.stdout


def test_replay_shows_what_a_candidate_would_change(shared: Lab) -> None:
    lab = shared
    with lab.product.httpx("alpha") as client:
        client.get(lab.url + "/v1/replayed")
        with pytest.raises(httpx.ProxyError):
            client.get(f"https://wanted.lab.test:{lab.api.port}/")
    eventually(
        lambda: len(lab.product.records(kind="terminal", app="alpha", host="wanted.lab.test")) >= 1, "the records"
    )
    entries = lab.policy.apps["alpha"]["allow"]
    wanted = lab.policy.entry("wanted", lab.api, host="wanted.lab.test")
    lab.policy.apps["alpha"]["allow"] = [{**entries[0], "paths": ["/v2/**"]}, entries[1], wanted]
    try:
        directory = str(lab.policy.write())
        shown = lab.product.cli("replay", directory, "--app", "alpha", "--since", "1h", "--json", check=False)
        assert shown.returncode == 1
        changes = json.loads(shown.stdout)["changes"]
        denied = [change for change in changes if change["became"] == "denied"]
        allowed = [change for change in changes if change["became"] == "allowed"]
        assert any(one["code"] == "path_denied" and "/v1/replayed" in one["target"] for one in denied)
        assert any(one["code"] == "host_denied" and "wanted.lab.test" in one["target"] for one in allowed)
        text = lab.product.cli("replay", directory, "--app", "alpha", "--since", "1h", check=False).stdout
        assert "newly denied" in text
        assert "newly allowed" in text
    finally:
        lab.policy.apps["alpha"]["allow"] = entries
        lab.policy.write()


def test_the_store_goes_away_and_comes_back(lab_factory: Callable[..., Lab]) -> None:
    lab = lab_factory()
    store = _store_pid(lab)
    os.kill(store, signal.SIGSTOP)
    try:
        with lab.product.httpx("alpha") as client:
            assert client.get(lab.url).status_code == 200
            eventually(lambda: lab.product.status()["store"]["fault"], "the fault in status", 10)
            assert client.get(lab.url).status_code == 200
        (worker,) = lab.product.status()["workers"]
        os.kill(worker["pid"], signal.SIGKILL)
        log = lab.product.log
        eventually(lambda: f"books of {worker['id']} stay open" in log(), "a try to close the books", 20)
    finally:
        os.kill(store, signal.SIGCONT)
    eventually(lambda: not lab.product.status()["store"]["fault"], "the store is back", 10)
    marks = lab.product.paths.living_dir
    eventually(lambda: not (marks / worker["id"]).exists(), "the dead worker's leases are given back", 20)
    os.kill(store, signal.SIGKILL)
    with lab.product.httpx("alpha") as client:
        assert client.get(lab.url).status_code == 200
    lab.policy.apps["beta"]["owner"] = "after@example.com"
    eventually(lambda: lab.product.cli("push", str(lab.policy.write()), "--yes", check=False).returncode == 0, "a push")
    eventually(lambda: all(worker["seq"] == 2 for worker in lab.product.status()["workers"]), "the new policy", 5)


def _store_pid(lab: Lab) -> int:
    """The embedded store of this very product, by the supervisor's children."""
    assert lab.product.process is not None
    own = str(lab.product.process.pid)
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = status.read_text().rpartition(")")
            if rest.split()[1] == own and "valkey" in name:
                return int(status.parent.name)
    raise AssertionError("the embedded store does not run")
