"""Life's accidents, on the running product: what is hung, gone, full or lying ends in a denial, never in a way out.

Cases FLT-03, -04, -07, -08, -10, -12, CFG-01 to -06, -14, CRY-01 and ADM-01, -02 of the attack corpus; FLT-05, -06 and
ADM-03 stand in tests/supervisor, FLT-01 and -02 in tests/exchange, FLT-11 and AUD-08 in tests/audit.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.lab.fixtures import Lab
from tests.lab.product import eventually
from tests.lab.upstream import Piece, raw, reply

type Factory = Callable[..., Lab]


def get(lab: Lab, path: str = "/", *, content: bytes | None = None) -> httpx.Response:
    with lab.product.httpx("alpha") as client:
        return client.post(lab.url + path, content=content) if content else client.get(lab.url + path)


def refused_start(lab: Lab) -> str:
    """What `egress run` says when it does not start."""
    lab.product.start(wait=False)
    process = lab.product.process
    assert process is not None
    assert process.wait(60) != 0, lab.product.log()
    return lab.product.log()


# -- inspector


def test_a_hung_inspector_denies_within_its_deadline_and_is_replaced(lab_factory: Factory) -> None:
    lab = lab_factory()
    assert get(lab, content=b"hello").status_code == 200
    lab.api.forget()
    (inspector,) = lab.product.status()["inspectors"]
    os.kill(inspector["pid"], signal.SIGSTOP)
    begun_s = time.monotonic()
    answer = get(lab, content=b"a text that has not been seen yet")
    assert (answer.status_code, time.monotonic() - begun_s < 5) == (503, True)
    assert "inspector_unavailable" in answer.headers["proxy-status"]
    assert lab.api.raw == b""
    eventually(lambda: get(lab, content=b"another new text").status_code == 200, "inspection again", 60)
    assert lab.product.status()["inspectors"][0]["pid"] != inspector["pid"]


# -- keys


@pytest.mark.parametrize("damage", ["key removed", "key of another", "certificate removed"])
def test_a_damaged_ca_is_refused_and_never_replaced_in_silence(lab_factory: Factory, damage: str) -> None:
    lab = lab_factory()
    lab.product.stop()
    files = sorted(lab.product.paths.ca_dir.iterdir())
    before = {file.name: file.read_bytes() for file in files if file.is_file()}
    keys = [file for file in files if b"PRIVATE" in file.read_bytes()]
    assert keys
    if damage == "key removed":
        keys[0].unlink()
    elif damage == "key of another":
        keys[0].write_bytes(before[keys[0].name].replace(b"A", b"B"))
    else:
        next(lab.product.paths.ca_dir.glob("*.crt")).unlink()
    left = {file.name: file.read_bytes() for file in lab.product.paths.ca_dir.iterdir()}
    said = refused_start(lab)
    assert "fix:" in said
    now = {file.name: file.read_bytes() for file in lab.product.paths.ca_dir.iterdir()}
    assert now == left, "nothing has been made anew"


@pytest.mark.parametrize("what", ["root key", "ca directory", "ca key"])
def test_keys_that_others_may_read_are_refused(lab_factory: Factory, what: str) -> None:
    lab = lab_factory()
    lab.product.stop()
    paths = lab.product.paths
    place = {
        "root key": paths.root_key,
        "ca directory": paths.ca_dir,
        "ca key": next(file for file in paths.ca_dir.iterdir() if b"PRIVATE" in file.read_bytes()),
    }[what]
    place.chmod(stat.S_IMODE(place.stat().st_mode) | 0o077)
    said = refused_start(lab)
    assert place.name in said or str(place) in said
    assert "fix:" in said


# -- configuration


def test_without_any_policy_everything_is_denied_and_readiness_says_why(lab_factory: Factory) -> None:
    """A first start with a store that hangs: no policy, no traffic, no readiness."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        lab = lab_factory(start=False, extra=("--store", f"redis://127.0.0.1:{port}"))
        lab.product.start(wait=False)
        process = lab.product.process
        assert process is not None

        def ended_or_not_ready() -> bool:
            if process.poll() is not None:
                return True
            with contextlib.suppress(OSError, ValueError, KeyError):
                lab.product.listen = json.loads(lab.product.paths.status_file.read_text())["listen"]
                return lab.product.page("/readyz")[0] == 503
            return False

        eventually(ended_or_not_ready, "a refusal", 60)
        assert process.poll() != 0
        assert lab.api.raw == b""


@pytest.mark.parametrize("fault", ["stopped", "killed"])
def test_a_store_that_is_away_costs_no_request_any_time(lab_factory: Factory, fault: str) -> None:
    lab = lab_factory()
    assert get(lab).status_code == 200
    store = store_pid(lab)
    os.kill(store, signal.SIGSTOP if fault == "stopped" else signal.SIGKILL)
    try:
        waits = []
        for number in range(20):
            begun_s = time.monotonic()
            assert get(lab, f"/{number}").status_code == 200
            waits.append(time.monotonic() - begun_s)
        assert sorted(waits)[10] < 1, "configuration is off the request's path"
    finally:
        if fault == "stopped":
            os.kill(store, signal.SIGCONT)


def store_pid(lab: Lab) -> int:
    """The embedded store's process: a child of the supervisor with the store's socket in its arguments."""
    wanted = str(lab.product.paths.state_dir).encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if entry.name.isdigit() and b"valkey" in (line := (entry / "cmdline").read_bytes()) and wanted in line:
                return int(entry.name)
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if entry.name.isdigit() and b"valkey" in (entry / "cmdline").read_bytes():
                status = (entry / "status").read_text()
                parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid"))
                if lab.product.process is not None and int(parent) == lab.product.process.pid:
                    return int(entry.name)
    raise LookupError("no store of this product")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
POISON: dict[str, Callable[[str], str]] = {
    "billion laughs": lambda _: BOMB,
    "3,000 levels": lambda text: text + "\nx: " + "{a: " * 3000 + "1" + "}" * 3000 + "\n",
    "scalar of 5 MB": lambda text: text.replace("lab@example.com", "a" * (5 << 20)),
    "torn": lambda text: text[: len(text) // 2],
    "duplicate key": lambda text: text.replace('"stage"', '"owner": "x", "stage"', 1),
    "unknown key": lambda text: text.replace('"stage"', '"stagee": 1, "stage"', 1),
    "python object": lambda text: text + "\nx: !!python/object/apply:os.system ['true']\n",
    "not UTF-8": lambda text: text.replace("lab@", "lab\udcff@"),
    "NUL": lambda text: text.replace("lab@", "lab\0@"),
    "list at the top": lambda _: "- a\n",
    "empty": lambda _: "",
}


@pytest.mark.parametrize("name", POISON)
def test_a_poisoned_policy_is_refused_whole_and_the_old_one_goes_on(lab: Lab, name: str) -> None:
    file = lab.policy.directory / "apps" / "alpha.yaml"
    good = file.read_bytes()
    revision = lab.product.status()["workers"][0]["revision"]
    try:
        file.write_bytes(POISON[name](good.decode()).encode("utf-8", "surrogateescape"))
        begun_s = time.monotonic()
        done = lab.product.cli("push", str(lab.policy.directory), "--yes", "--reason", "attack", check=False)
        assert done.returncode == 2, done.stdout
        assert time.monotonic() - begun_s < 15
        assert "Traceback" not in done.stderr
        assert "alpha.yaml" in done.stderr
    finally:
        file.write_bytes(good)
    assert lab.product.status()["workers"][0]["revision"] == revision
    assert get(lab).status_code == 200


# -- upstreams and DNS

ANSWERS: dict[str, tuple[tuple[Piece, ...], int | None]] = {
    "nothing at all": ((), 502),
    "half a head": ((b"HTTP/1.1 200 OK\r\nContent-Le",), 502),
    "no HTTP": ((b"SSH-2.0-server\r\n\r\n",), 502),
    "less than it says": ((b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",), None),
    "half a chunk": ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nshort",), None),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_upstream_that_breaks_off_is_an_error_for_the_client(lab: Lab, name: str) -> None:
    pieces, status = ANSWERS[name]
    lab.api.answer = raw(*pieces)
    begun_s = time.monotonic()
    if status is None:
        with pytest.raises(httpx.RemoteProtocolError):
            get(lab)
    else:
        assert get(lab).status_code == status
    assert time.monotonic() - begun_s < 5
    lab.api.answer = reply()
    assert get(lab).status_code == 200


def test_early_hints_and_the_final_answer_both_arrive(lab: Lab) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    lab.api.answer = raw(early + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfinal")
    assert get(lab).text == "final"


def test_a_name_that_does_not_exist_is_502_within_five_seconds(lab_factory: Factory) -> None:
    def setup(lab: Lab) -> None:
        lab.policy.app(
            "alpha", lab.policy.entry("api", lab.api), lab.policy.entry("gone", lab.api, host="gone.invalid")
        )
        del lab.policy.platform["resolve"]["gone.invalid"]

    lab = lab_factory(setup)
    begun_s = time.monotonic()
    with lab.product.httpx("alpha") as client:
        answer = client.get(f"https://gone.invalid:{lab.api.port}/")
    assert answer.status_code == 502
    assert "upstream_dns" in answer.headers["proxy-status"]
    assert time.monotonic() - begun_s < 8


# -- disk


def served(lab: Lab) -> bool:
    """False for a denial of ours, in the tunnel or before it."""
    try:
        return get(lab).status_code == 200
    except httpx.ProxyError:
        return False


def test_a_full_disk_denies_new_requests_and_heals(lab_factory: Factory) -> None:
    """AUD-08, FLT-11: the state directory's audit trail on a file system without room."""
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("mounting a tmpfs needs root")
    lab = lab_factory(start=False)
    audit = lab.product.paths.audit_dir
    audit.mkdir(mode=0o700)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "none", str(audit)], check=False)
    if mounted.returncode:
        pytest.skip("no mounts here")
    try:
        lab.product.start()
        assert get(lab).status_code == 200
        ballast = audit / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        eventually(lambda: not served(lab), "a denial", 40)
        sent = len(lab.api.requests)
        with lab.product.httpx("alpha") as client, pytest.raises(httpx.ProxyError, match="audit_unavailable"):
            client.get(lab.url)
        assert len(lab.api.requests) == sent
        ballast.unlink()
        eventually(lambda: served(lab), "service without a restart", 40)
        assert lab.product.cli("audit", "verify").returncode == 0
    finally:
        lab.product.stop()
        subprocess.run(["umount", "-l", str(audit)], check=False)


# -- clock


def faketime() -> str | None:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return str(found[0]) if found else None


@pytest.mark.skipif(faketime() is None, reason="libfaketime is not installed")
@pytest.mark.parametrize(("step", "expected"), [("+1y", {502, 503}), ("-1h", {200})])
def test_a_clock_that_jumps_makes_no_invalid_leaf(
    lab_factory: Factory, tmp_path: Path, step: str, expected: set[int]
) -> None:
    rc = tmp_path / "faketimerc"
    rc.write_text("+0\n")
    environment = {"LD_PRELOAD": str(faketime()), "FAKETIME_TIMESTAMP_FILE": str(rc), "FAKETIME_NO_CACHE": "1"}
    lab = lab_factory(environment=environment)
    assert get(lab).status_code == 200
    rc.write_text(f"{step}\n")
    with contextlib.suppress(httpx.HTTPError):
        assert get(lab).status_code in expected


# -- admin


def test_admin_and_metrics_cannot_be_reached_through_the_proxy(lab: Lab) -> None:
    port = lab.product.listen["metrics"].rpartition(":")[2]
    with lab.product.httpx("alpha") as client:
        answer = client.get(f"http://127.0.0.1:{port}/metrics")
        assert answer.status_code == 403
        assert "egress_" not in answer.text
    with lab.product.httpx("alpha") as client, pytest.raises(httpx.ProxyError, match="403"):
        client.get(f"https://127.0.0.1:{port}/metrics")


def test_an_allowed_name_that_leads_to_the_proxy_itself_is_no_way_in(lab_factory: Factory) -> None:
    """Even where the admin has named a host that resolves to this machine and the metrics port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    def setup(lab: Lab) -> None:
        own = lab.policy.entry("own", lab.plain, host="own.lab.test")
        own["ports"] = [port]
        lab.policy.app("alpha", lab.policy.entry("api", lab.api), own)

    lab = lab_factory(setup, extra=("--metrics", f"127.0.0.1:{port}"))
    with lab.product.httpx("alpha") as client:
        answer = client.get(f"http://own.lab.test:{port}/metrics")
    assert answer.status_code == 403
    assert "self_connection" in answer.headers["proxy-status"]


def test_not_ready_before_a_worker_serves(lab_factory: Factory) -> None:
    lab = lab_factory(start=False)
    lab.product.start(wait=False)
    seen: list[int] = []

    def ready() -> bool:
        with contextlib.suppress(OSError, ValueError, KeyError, httpx.HTTPError):
            lab.product.listen = json.loads(lab.product.paths.status_file.read_text())["listen"]
            seen.append(lab.product.page("/readyz")[0])
        return 200 in seen

    eventually(ready, "readiness", 60)
    assert set(seen[:-1]) <= {503}
    eventually(lambda: get(lab).status_code == 200, "service")


def test_two_workers_go_on_while_one_is_killed_again_and_again(lab_factory: Factory) -> None:
    lab = lab_factory(workers=2)
    for _ in range(5):
        os.kill(lab.product.status()["workers"][0]["pid"], signal.SIGKILL)
        for _ in range(5):
            # A connection that the dead worker had accepted may be reset; nothing may get by another way.
            with contextlib.suppress(httpx.HTTPError):
                assert get(lab).status_code == 200
        eventually(lambda: serving(lab) == 2, "both workers", 60)
    assert lab.product.cli("audit", "verify").returncode == 0


def serving(lab: Lab) -> int:
    return sum(worker["state"] == "serving" for worker in lab.product.status()["workers"])
