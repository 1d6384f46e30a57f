"""The admin's loop and the incident's, as they are typed: push, diff, rollback, kill, unkill, usage."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from proxy.budget import usd
from proxy.cli import main
from proxy.cli.usage import grouped
from proxy.config.manifest import Signer, parse, publisher_text, trusted_keys, verify
from proxy.keys.root import MANIFEST, RootKey
from proxy.paths import Paths
from proxy.stores.last_good import LastGood
from proxy.stores.open import Store
from proxy.stores.orders import stopped
from proxy.stores.stops import StopsFile
from proxy.stores.usage_rows import COUNTERS
from tests.stores.kit import opened, valkey

__all__ = ["valkey"]

APP = """\
version: 1
app: a
owner: owner@example.com
cost_center: CC-1
stage: production
identify: {token: true}
allow:
  - {id: x, host: api.example.com, scheme: https, ports: [443], methods: [METHODS], reason: r}
"""


def with_store(url: str, scenario: Callable[[Store], Any]) -> Any:
    async def run() -> Any:
        async with opened(url, empty=False) as store:
            return await scenario(store)

    return asyncio.run(run())


class Cli:
    """Runs verbs in this process against one store, state directory and policy directory."""

    def __init__(self, paths: Paths, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.paths, self.url, self._capsys = paths, url, capsys
        self.directory = paths.state_dir / "allowlists"
        (self.directory / "apps").mkdir(parents=True)
        self.root = RootKey.load_or_create(paths.root_key)
        self.write("GET")

    def write(self, methods: str, platform: str = "") -> None:
        (self.directory / "platform.yaml").write_text(f"version: 1\n{platform}")
        (self.directory / "apps" / "a.yaml").write_text(APP.replace("METHODS", methods))

    def __call__(self, *words: str, store: bool = True) -> tuple[int, str, str]:
        options = ["--store", self.url] if store else []
        code = main([*words, *options, "--state", str(self.paths.state_dir)])
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, *words: str) -> Any:
        code, out, err = self(*words, "--json")
        assert code in (0, 1), err
        return json.loads(out)


@pytest.fixture
def cli(paths: Paths, valkey: str, capsys: pytest.CaptureFixture[str]) -> Cli:
    async def empty() -> None:
        async with opened(valkey):
            pass

    asyncio.run(empty())
    return Cli(paths, valkey, capsys)


def test_push_diff_rollback(cli: Cli) -> None:
    code, out, _ = cli("diff", str(cli.directory))
    assert code == 1
    assert "a:" in out
    code, out, err = cli("push", str(cli.directory), "--reason", "first", "--author", "ann")
    assert (code, err) == (0, "")
    assert "published seq 1" in out
    assert cli("push", str(cli.directory))[1] == "already active as seq 1\n"
    assert cli("diff", str(cli.directory))[:2] == (0, "no change\n")
    cli.write("GET, POST")
    found = cli.json("diff", str(cli.directory))
    assert [(change["app"], change["widens"]) for change in found["changes"]] == [("a", True)]
    pushed = cli.json("push", str(cli.directory), "--reason", "more")
    assert (pushed["seq"], pushed["changed"], pushed["effect"]) == (2, True, None)
    code, out, _ = cli("rollback", "--reason", "oops")
    assert code == 0
    assert "seq 3 is the policy of seq 1" in out
    log = [parse(raw) for raw in with_store(cli.url, lambda store: store.config.manifests(9))]
    assert [(m.seq, m.author, m.reason) for m in log[1:]] == [(2, log[0].author, "more"), (1, "ann", "first")]
    assert log[0].reason == "rollback to seq 1: oops"
    assert (log[0].revision, log[0].parent) == (log[2].revision, log[1].revision)
    keys = trusted_keys(Signer(cli.root.derive(MANIFEST)).public_key(), {})
    for manifest in log:
        verify(manifest, keys)


def test_after_a_rotation_push_signs_the_active_policy_anew(cli: Cli) -> None:
    assert cli("push", str(cli.directory))[0] == 0
    rotated = cli.root.rotated(1.0)
    rotated.save(cli.paths.root_key)
    found = cli.json("push", str(cli.directory))
    assert (found["seq"], found["changed"], found["changes"]) == (2, True, [])
    raw = with_store(cli.url, lambda store: store.config.head_manifest())
    verify(parse(raw), {"root": Signer(rotated.derive(MANIFEST)).public_key()})
    assert cli.json("push", str(cli.directory))["changed"] is False


def test_all_mistakes_are_printed_and_nothing_is_published(cli: Cli) -> None:
    cli.write("GET, BREW IT", platform="lisen: {}\n")
    code, out, err = cli("push", str(cli.directory))
    assert (code, out) == (2, "")
    assert "platform.yaml:2:1" in err
    assert "apps/a.yaml:8" in err
    assert with_store(cli.url, lambda store: store.config.head_manifest()) is None


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("push", "/nonexistent"), "no such directory"),
        (("rollback",), "nothing has been published"),
        (("kill", "--reason", "x"), "name one app"),
        (("kill", "a", "--all", "--reason", "x"), "name one app"),
        (("usage", "--since", "yesterday"), "isoformat"),
        (("usage", "--since", "1200-01-01"), "at most"),
    ],
)
def test_mistakes_are_explained_in_three_lines(cli: Cli, words: tuple[str, ...], what: str) -> None:
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert what in err
    assert [line[:6] for line in err.splitlines()] == ["error:", "  at: ", "  fix:"]


def test_a_publishers_own_key(cli: Cli) -> None:
    seed = b"c" * 32
    key = cli.paths.state_dir / "ci.key"
    key.write_text(base64.b64encode(seed).decode() + "\n")
    assert "--key-id" in cli("push", str(cli.directory), "--key", str(key))[2]
    assert cli("push", str(cli.directory), "--key", str(key), "--key-id", "ci")[0] == 0
    raw = with_store(cli.url, lambda store: store.config.head_manifest())
    verify(parse(raw), {"ci": Signer(seed).public_key()})
    assert publisher_text(Signer(seed).public_key()).startswith("ed25519:")
    key.write_text("not a key")
    cli.write("PUT")
    assert "not an Ed25519 private key" in cli("push", str(cli.directory), "--key", str(key), "--key-id", "ci")[2]


def test_numbers_go_on_when_the_store_has_lost_its_log(cli: Cli) -> None:
    seed = cli.root.derive(MANIFEST)
    assert cli("push", str(cli.directory))[0] == 0
    raw = with_store(cli.url, lambda store: store.config.head_manifest())
    content = with_store(cli.url, lambda store: store.config.get_revision(parse(raw).revision))
    LastGood(cli.paths.last_good, seed).write(parse(raw), content)

    async def empty() -> None:
        async with opened(cli.url):
            pass

    asyncio.run(empty())
    assert cli.json("push", str(cli.directory))["seq"] == 2


def test_a_damaged_log_is_followed_by_a_good_manifest(cli: Cli) -> None:
    seed = cli.root.derive(MANIFEST)
    assert cli("push", str(cli.directory))[0] == 0
    raw = with_store(cli.url, lambda store: store.config.head_manifest())
    with_store(cli.url, lambda store: store.config.append_manifest(b"garbage", seq=77, expect_seq=1))
    cli.write("GET, POST")
    code, _, err = cli("push", str(cli.directory))
    assert code == 2
    assert "damaged" in err
    content = with_store(cli.url, lambda store: store.config.get_revision(parse(raw).revision))
    LastGood(cli.paths.last_good, seed).write(parse(raw), content)
    code, out, err = cli("push", str(cli.directory))
    assert code == 0
    assert "published seq 2" in out
    assert "damaged" in err
    assert cli.json("rollback")["restored_seq"] == 1


def test_a_person_is_asked_before_more_is_allowed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    answers = iter(["n", "y"])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    code, _, err = cli("push", str(cli.directory))
    assert (code, err) == (1, "nothing was published\n")
    assert with_store(cli.url, lambda store: store.config.head_manifest()) is None
    assert cli("push", str(cli.directory))[0] == 0
    cli.write("GET, POST")
    assert cli("push", str(cli.directory), "--yes")[0] == 0
    cli.write("GET")
    assert cli("push", str(cli.directory))[0] == 0


def test_kill_and_unkill(cli: Cli) -> None:
    assert "a stopped" in cli("kill", "a", "--reason", "incident 7")[1]
    assert with_store(cli.url, lambda store: store.config.kills())["a"]["reason"] == "incident 7"
    assert "all apps stopped" in cli("kill", "--all", "--reason", "x")[1]
    assert set(StopsFile(cli.paths.last_good).read().effective) == {"a", "*"}
    assert cli("unkill", "--all")[0] == cli("unkill", "a")[0] == 0
    assert stopped(with_store(cli.url, lambda store: store.config.kills())) == {}
    assert StopsFile(cli.paths.last_good).read().effective == {}


def test_without_the_root_key_one_may_stop_and_not_lift(cli: Cli) -> None:
    """A lift has to be sealed; a stop is obeyed from anybody."""
    cli.paths.root_key.unlink()
    assert cli("kill", "a", "--reason", "incident 7")[0] == 0
    assert "mac" not in with_store(cli.url, lambda store: store.config.kills())["a"]
    code, _, err = cli("unkill", "a")
    assert code == 2
    assert "root key" in err
    assert "a" in StopsFile(cli.paths.last_good).read().effective


def test_kill_works_while_the_store_is_down(cli: Cli) -> None:
    code, out, _ = cli("kill", "a", "--reason", "incident", store=False)
    assert code == 0
    assert "does not answer" in out
    assert "a" in StopsFile(cli.paths.last_good).read().effective


class Admin:
    """The supervisor's side of the admin socket: one JSON line in, one out."""

    def __init__(self, paths: Paths) -> None:
        self.asked: list[dict[str, Any]] = []
        self.workers: list[list[dict[str, Any]]] = []
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._path = str(paths.admin_socket)
        paths.admin_socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._up.wait(5)

    def _run(self) -> None:
        async def serve() -> None:
            server = await asyncio.start_unix_server(self._answer, self._path)
            self._up.set()
            await server.serve_forever()

        with suppress(RuntimeError):
            self._loop.run_until_complete(serve())

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if line:
            request = json.loads(line)
            self.asked.append(request)
            workers = self.workers.pop(0) if len(self.workers) > 1 else (self.workers or [[]])[0]
            answer = {"ok": True, "workers": workers if request["verb"] == "workers" else 2}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


@pytest.fixture
def admin(cli: Cli) -> Iterator[Admin]:
    server = Admin(cli.paths)
    yield server
    server.stop()


def worker(seq: int, **facts: Any) -> dict[str, Any]:
    return {"seq": seq, "state": "serving", "refused": None} | facts


def test_push_waits_until_every_worker_has_it(cli: Cli, admin: Admin) -> None:
    admin.workers = [
        [worker(0), worker(1)],
        [worker(0), worker(1)],
        [worker(1), worker(1), worker(0, state="draining")],
    ]
    code, out, _ = cli("push", str(cli.directory))
    assert code == 0
    assert "effective on all 2 workers" in out
    assert admin.asked[0]["verb"] == "reload"


def test_push_tells_what_the_workers_have_against_it(cli: Cli, admin: Admin) -> None:
    refused = {"seq": 1, "why": "config", "detail": "apps/a.yaml:1:1: too new"}
    admin.workers = [[worker(0), worker(0, refused=refused)]]
    begun_s = time.monotonic()
    code, out, _ = cli("push", str(cli.directory))
    assert code == 1
    assert "REFUSED by the workers: apps/a.yaml:1:1: too new" in out
    assert time.monotonic() - begun_s < 3


def test_kill_goes_through_the_running_proxy(cli: Cli, admin: Admin) -> None:
    out = cli.json("kill", "a", "--reason", "r")
    assert (out["workers"], out["killed"]) == (2, True)
    assert [(asked["verb"], asked["app"], asked["reason"]) for asked in admin.asked] == [("kill", "a", "r")]
    assert cli.json("unkill", "--all")["app"] == "*"
    assert (admin.asked[-1]["verb"], admin.asked[-1]["app"]) == ("unkill", "*")


def test_usage_prints_and_exports(cli: Cli) -> None:
    row = {"day": "2026-11-24", "app": "a", "owner": "o", "cost_center": "CC", "provider": "openai", "model": "m"}
    rows = [
        row | {"id": "1", "requests": 2, "input_tokens": 10, "cost_usd_nanos": 1_500_000_001},
        row | {"id": "2", "app": "b", "model": "=cmd()", "requests": 1, "unpriced": 1, "saved_usd_nanos": 5},
        row | {"id": "3", "day": "2026-10-01", "requests": 50},
    ]
    with_store(cli.url, lambda store: store.budget.add_usage(rows))
    period = ("usage", "--since", "2026-11-01", "--until", "2026-11-30")
    lines = cli(*period)[1].splitlines()
    assert lines[0].split()[:2] == ["APP", "CALLS"]
    assert [line.split()[:2] for line in lines[1:]] == [["a", "2"], ["b", "1"], ["TOTAL", "3"]]
    assert "1.500000001" in lines[1]
    assert cli(*period, "--by", "model", "--format", "csv")[1].splitlines()[2].startswith("'=cmd(),1,")
    found = cli.json(*period, "--app", "a")["rows"]
    assert [(entry["app"], entry["cost_usd_nanos"]) for entry in found] == [("a", 1_500_000_001)]
    assert json.loads(cli(*period, "--format", "json", "--by", "day")[1])["rows"][0]["requests"] == 3
    assert cli("usage", "--since", "2020-01-01", "--until", "2020-01-01")[1].startswith("no calls from")


def test_sums_are_exact_and_the_dearest_come_first() -> None:
    def row(app: str, nanos: int) -> dict[str, Any]:
        return {"app": app, "day": "d"} | dict.fromkeys(COUNTERS, 0) | {"cost_usd_nanos": nanos}

    totals = grouped([row("a", 1), row("b", 2**60), row("a", 1), row("c", 2)], "app")
    assert [(total["app"], total["cost_usd_nanos"]) for total in totals] == [("b", 2**60), ("a", 2), ("c", 2)]
    assert usd(2**60) == "1152921504.606846976"


def test_verbs_name_themselves() -> None:
    from proxy.cli import load_verb

    for name in ("push", "diff", "rollback", "kill", "unkill", "usage"):
        assert load_verb(name).name == name


def test_no_key_no_publishing(cli: Cli, tmp_path: Path) -> None:
    cli.paths.root_key.unlink()
    code, _, err = cli("push", str(cli.directory))
    assert code == 2
    assert "root key" in err
