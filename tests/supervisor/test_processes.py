"""The processes of `egress run` under life's accidents: crashes, restarts, drains, kills."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.lab.fixtures import Lab, build_lab
from tests.lab.product import Product, eventually, read_all, read_head
from tests.lab.upstream import chunked, reply

type Factory = Callable[..., Lab]


@pytest.fixture(scope="module")
def _sturdy() -> Iterator[Lab]:
    with ExitStack() as stack:
        lab = build_lab(stack)
        stack.enter_context(lab.product)
        yield lab


@pytest.fixture
def sturdy(_sturdy: Lab) -> Lab:
    """A product of this module that survives what its tests do to it; each finds it well again."""
    _sturdy.api.forget()
    _sturdy.api.answer = reply()
    eventually(lambda: _sturdy.product.status()["ready"], "the product is well again")
    return _sturdy


def _get(lab: Lab, path: str = "/") -> httpx.Response:
    with lab.product.httpx("alpha") as client:
        return client.get(lab.url + path)


def test_an_allowed_request_reaches_the_upstream_and_is_recorded(lab: Lab) -> None:
    lab.api.answer = reply(b"hello")
    answer = _get(lab, "/v1/things")
    assert (answer.status_code, answer.content) == (200, b"hello")
    (seen,) = lab.api.requests
    assert (seen.method, seen.target) == ("GET", "/v1/things")
    assert seen.header("proxy-authorization") is None
    assert lab.product.wait_for_records(kind="terminal", app="alpha", outcome="allowed")


def test_a_denied_host_costs_no_byte_upstream(lab: Lab) -> None:
    with lab.product.httpx("alpha") as client, pytest.raises(httpx.ProxyError, match="403"):
        client.get("https://evil.example/")
    assert lab.api.raw == b""


def test_ready_and_healthy_pages_and_metrics(lab: Lab) -> None:
    assert lab.product.page("/healthz")[0] == 200
    assert lab.product.page("/readyz")[0] == 200
    assert lab.product.page("/nothing")[0] == 404
    before = lab.product.metric("requests_total", app="alpha", outcome="allowed")
    _get(lab)
    eventually(lambda: lab.product.metric("requests_total", app="alpha", outcome="allowed") > before, "the counter")


def test_state_and_sockets_are_private(lab: Lab) -> None:
    paths = lab.product.paths
    for path in (paths.admin_socket, paths.store_socket, paths.root_key):
        assert path.stat().st_mode & 0o077 == 0, path
    for path in (paths.state_dir, paths.socket_dir, paths.ca_dir, paths.audit_dir):
        assert path.stat().st_mode & 0o077 == 0, path


def test_no_process_leaves_core_dumps(lab: Lab) -> None:
    pids = [worker["pid"] for worker in lab.product.status()["workers"]]
    pids += [inspector["pid"] for inspector in lab.product.status()["inspectors"]]
    for pid in pids:
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        (line,) = [line for line in limits if line.startswith("Max core file size")]
        assert line.split()[4:6] == ["0", "0"]


def test_a_killed_worker_is_back_within_two_seconds_and_its_books_are_closed(sturdy: Lab) -> None:
    lab = sturdy
    product = lab.product
    assert _get(lab).status_code == 200
    (worker,) = product.status()["workers"]
    before = product.metric("worker_restarts_total", kind="worker")
    os.kill(worker["pid"], signal.SIGKILL)
    # The socket stays open in the supervisor: the request waits in its queue instead of being refused.
    assert _get(lab).status_code == 200
    (successor,) = product.status()["workers"]
    assert successor["id"] != worker["id"]
    ended = product.wait_for_records(event="writer_end", subject=worker["id"])
    assert ended[0]["subject_seq"] > 0
    eventually(lambda: not (product.paths.living_dir / worker["id"]).exists(), "closed books")
    assert product.metric("worker_restarts_total", kind="worker") == before + 1
    assert product.cli("audit", "verify").returncode == 0


def test_an_exchange_that_a_crash_cut_still_has_one_terminal_record(sturdy: Lab) -> None:
    lab = sturdy
    release = threading.Event()
    lab.api.answer = chunked([b"first", lambda: release.wait(20)])
    with lab.product.httpx("alpha") as client, client.stream("GET", lab.url) as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b"first"
        (worker,) = lab.product.status()["workers"]
        os.kill(worker["pid"], signal.SIGKILL)
        with pytest.raises(httpx.HTTPError):
            next(chunks)
    release.set()
    (record,) = lab.product.wait_for_records(kind="terminal", app="alpha", writer=worker["id"], outcome="aborted")
    assert record["fault"] == "ProcessDied"
    assert lab.product.records(kind="terminal", id=record["id"]) == [record]
    assert lab.product.cli("audit", "verify").returncode == 0


def test_a_killed_inspector_denies_and_comes_back(sturdy: Lab) -> None:
    lab = sturdy
    (inspector,) = lab.product.status()["inspectors"]
    os.kill(inspector["pid"], signal.SIGSTOP)
    os.kill(inspector["pid"], signal.SIGKILL)

    def served() -> bool:
        with lab.product.httpx("alpha") as client:
            answer = client.post(lab.url, content=b"some text")
        assert answer.status_code in {200, 503}
        return answer.status_code == 200

    eventually(served, "inspection again", 40)
    assert lab.product.status()["inspectors"][0]["restarts"] > inspector["restarts"]


def test_hot_restart_loses_no_connection_and_lets_streams_end(lab_factory: Factory) -> None:
    lab = lab_factory(workers=2, drain_s=30)
    product = lab.product
    before = {worker["id"] for worker in product.status()["workers"]}
    release = threading.Event()
    failures: list[object] = []
    stop = threading.Event()

    def answer(received):  # type: ignore[no-untyped-def]
        if received.target == "/stream":
            yield from chunked([b"first", release.wait, b"last"])(received)
        else:
            yield from reply()(received)

    lab.api.answer = answer

    def hammer() -> None:
        while not stop.is_set():
            try:
                status = _get(lab, "/quick").status_code
            except httpx.HTTPError as error:
                failures.append(error)
            else:
                if status != 200:
                    failures.append(status)

    with product.httpx("alpha") as client, client.stream("GET", lab.url + "/stream") as streamed:
        chunks = streamed.iter_raw()
        assert next(chunks) == b"first"
        clients = [threading.Thread(target=hammer) for _ in range(2)]
        for thread in clients:
            thread.start()
        os.kill(product.process.pid, signal.SIGHUP)  # type: ignore[union-attr]

        def replaced() -> bool:
            serving = {worker["id"] for worker in product.status()["workers"] if worker["state"] == "serving"}
            return len(serving) == 2 and not serving & before

        eventually(replaced, "new workers", 60)
        stop.set()
        for thread in clients:
            thread.join()
        release.set()
        assert b"".join(chunks) == b"last"
    assert failures == []


def test_sigterm_refuses_new_clients_lets_open_exchanges_end_and_exits_0(lab_factory: Factory) -> None:
    lab = lab_factory(drain_s=20)
    release = threading.Event()
    lab.api.answer = chunked([b"first", release.wait, b"last"])
    with lab.product.httpx("alpha") as client, client.stream("GET", lab.url) as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b"first"
        lab.product.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]

        def refused() -> bool:
            try:
                lab.product.dial().close()
            except ConnectionRefusedError:
                return True
            return False

        eventually(refused, "closed listeners")
        release.set()
        assert b"".join(chunks) == b"last"
    assert lab.product.stop() == 0
    assert lab.product.records(event="writer_end")


def test_when_the_supervisor_dies_no_child_stays(lab_factory: Factory) -> None:
    lab = lab_factory()
    status = lab.product.status()
    pids = [row["pid"] for row in (*status["workers"], *status["inspectors"])]
    lab.product.kill()
    eventually(lambda: not any(_alive(pid) for pid in pids), "children ended")
    # The next one closes the books of the dead and serves again.
    again = Product(lab.product.paths.state_dir, lab.policy.directory)
    with again:
        (dead,) = status["workers"]
        assert again.wait_for_records(event="writer_end", subject=dead["id"])
        assert again.status()["ready"]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_kill_switch_bites_within_a_second_and_survives_a_worker(sturdy: Lab) -> None:
    lab = sturdy
    product = lab.product
    assert _get(lab).status_code == 200
    product.admin("kill", app="alpha", reason="incident 7")

    def stopped() -> bool:
        try:
            return _get(lab).status_code == 403
        except httpx.ProxyError as error:
            return "killed" in str(error)

    eventually(stopped, "kill", 1.0)
    os.kill(product.status()["workers"][0]["pid"], signal.SIGKILL)
    assert stopped()
    assert set(product.status()["kills"]) == {"alpha"}
    product.admin("unkill", app="alpha")
    eventually(lambda: not product.status()["kills"], "released")
    eventually(lambda: not stopped(), "traffic again", 2.0)


def test_a_start_without_the_store_works_from_the_last_good_policy(lab_factory: Factory) -> None:
    lab = lab_factory()
    state = lab.product.paths.state_dir
    assert lab.product.stop() == 0
    away = f"unix://{state}/nobody.sock"
    with Product(state, lab.policy.directory, extra=["--store", away]) as product:
        with product.httpx("alpha") as client:
            assert client.get(lab.url).status_code == 200
        assert product.status()["store"]["fault"]


def test_a_first_start_without_the_store_is_refused_and_says_what_to_do(lab_factory: Factory) -> None:
    lab = lab_factory(start=False, extra=["--store", "unix:///nonexistent/egress.sock"])
    lab.product.start(wait=False)
    assert lab.product.process is not None
    assert lab.product.process.wait(40) == 2
    assert "there is no valid policy" in lab.product.log()
    assert "egress push" in lab.product.log()


def test_a_killed_store_comes_back_and_traffic_never_stops(sturdy: Lab) -> None:
    lab = sturdy
    product = lab.product
    children = Path(f"/proc/{product.process.pid}/task/{product.process.pid}/children")  # type: ignore[union-attr]
    (store,) = [pid for pid in children.read_text().split() if "valkey" in Path(f"/proc/{pid}/comm").read_text()]
    os.kill(int(store), signal.SIGKILL)
    assert _get(lab).status_code == 200
    assert product.status()["ready"]

    # What it knew is still there, and it takes a new policy.
    before = product.status()["policy"]["seq"]
    lab.policy.apps["alpha"]["allow"][0]["paths"] = ["/only"]
    lab.policy.write()
    command = ("push", str(lab.policy.directory), "--yes")
    eventually(lambda: product.cli(*command, check=False).returncode == 0, "the store again")
    eventually(lambda: product.status()["policy"]["seq"] == before + 1, "the new policy")
    assert _get(lab, "/only").status_code == 200
    assert _get(lab, "/else").status_code == 403
    del lab.policy.apps["alpha"]["allow"][0]["paths"]
    lab.push()


def test_open_connections_are_counted(lab: Lab) -> None:
    with lab.product.dial():
        eventually(lambda: lab.product.status()["workers"][0]["connections"] >= 1, "the connection")
        eventually(lambda: lab.product.metric("connections_open") >= 1, "the gauge")
    eventually(lambda: lab.product.metric("connections_open") == 0, "its end")


def test_a_second_supervisor_of_the_same_state_is_refused(lab: Lab) -> None:
    done = lab.product.cli("run", "--explicit", "127.0.0.1:0", "--metrics", "off", check=False)
    assert done.returncode == 2
    what, where, fix = done.stderr.strip().splitlines()[-3:]
    assert "another supervisor" in what
    assert str(lab.product.paths.state_dir) in where
    assert "--state" in fix


def test_a_taken_port_is_said_with_its_address(lab: Lab, lab_factory: Factory) -> None:
    taken = lab.product.listen["explicit"]
    other = lab_factory(start=False, extra=["--explicit", taken])
    other.product.start(wait=False)
    assert other.product.process is not None
    assert other.product.process.wait(30) == 2
    assert f"cannot listen on {taken}: another process listens there" in other.product.log()


def test_bytes_that_are_no_http_get_nothing_upstream(lab: Lab) -> None:
    with lab.product.dial() as bare:
        bare.sendall(b"\x00\x01\x02 SSH-2.0-x\r\n\r\n")
        read_all(bare)
    bare, head = lab.product.connect(None, f"api.lab.test:{lab.api.port}")
    bare.close()
    assert head.startswith(b"HTTP/1.1 407 ")
    assert read_head(bare) == b"" if bare.fileno() >= 0 else True
    assert lab.api.raw == b""
