"""The HTTP/2 path of the whole product: the same exchange as the lane, driven by the addon in real workers."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import pytest

from tests.addons.h2_upstream import H2Upstream
from tests.dataplane.h2_kit import Peer, Seen
from tests.lab.fixtures import Lab, build_lab

CARD = "4111 1111 1111 1111"


@dataclass
class H2Lab:
    lab: Lab
    upstream: H2Upstream
    old: H2Upstream

    @property
    def url(self) -> str:
        return f"https://h2.lab.test:{self.upstream.port}"

    def client(self, app: str | None = "alpha") -> httpx.Client:
        return self.lab.product.httpx(app, http2=True)


@pytest.fixture(scope="module")
def h2() -> Iterator[H2Lab]:
    with ExitStack() as stack:
        made: list[H2Upstream] = []

        def setup(lab: Lab) -> None:
            for name, alpn in (("h2.lab.test", ("h2",)), ("old.lab.test", ("http/1.1",))):
                made.append(stack.enter_context(H2Upstream(lab.ca, name, alpn=alpn)))
            rules = [
                {"entities": ["CREDIT_CARD"], "action": "block"},
                {"entities": ["EMAIL_ADDRESS"], "action": "tokenize"},
            ]
            fields = {"protocols": ["h2", "http1"], "methods": ["POST", "GET"], "paths": ["/ok/**", "/v1/**"]}
            entries = [lab.policy.entry(f"e{n}", each, **fields) for n, each in enumerate(made)]  # type: ignore[arg-type]
            lab.policy.app("alpha", *entries, dlp={"rules": rules, "otherwise": "allow"})

        lab = build_lab(stack, setup)
        stack.enter_context(lab.product)
        yield H2Lab(lab, made[0], made[1])


@pytest.fixture(autouse=True)
def _fresh(h2: H2Lab) -> None:
    h2.upstream.forget()
    h2.old.forget()


def test_both_sides_speak_http_2_and_one_record_is_left(h2: H2Lab) -> None:
    before = len(h2.lab.product.records(kind="terminal"))
    with h2.client() as client:
        answer = client.post(f"{h2.url}/ok/1", json={"n": 1})
        assert (answer.status_code, answer.json(), answer.http_version) == (200, {"n": 1}, "HTTP/2")
    assert bytes(h2.upstream.arrived[0].body) == answer.content
    records = h2.lab.product.wait_for_records(before + 1, kind="terminal")
    assert len(records) == before + 1
    assert records[-1]["outcome"] == "allowed"


def test_identity_and_hop_fields_do_not_travel(h2: H2Lab) -> None:
    with h2.client() as client:
        client.get(f"{h2.url}/ok/1", headers={"x-forwarded-for": "1.2.3.4", "x-app-id": "other", "x-mine": "1"})
    names = {name for name, _ in h2.upstream.arrived[0].headers}
    assert b"x-mine" in names
    assert not names & {b"x-forwarded-for", b"x-app-id", b"proxy-authorization", b"host"}


def test_tokenized_values_come_back_in_the_answer(h2: H2Lab) -> None:
    with h2.client() as client:
        answer = client.post(f"{h2.url}/ok/1", json={"to": "jane.doe@example.com"})
    assert answer.json() == {"to": "jane.doe@example.com"}
    assert b"jane.doe" not in bytes(h2.upstream.arrived[0].body)
    assert b"<EMAIL_ADDRESS_" in bytes(h2.upstream.arrived[0].body)


@pytest.mark.parametrize("where", ["body", "query", "header"])
def test_blocked_data_never_reaches_the_upstream(h2: H2Lab, where: str) -> None:
    with h2.client() as client:
        answer = client.post(
            f"{h2.url}/ok/1",
            params={"q": CARD} if where == "query" else None,
            headers={"x-note": CARD} if where == "header" else None,
            json={"card": CARD} if where == "body" else {"n": 1},
        )
    assert answer.status_code == 403
    assert answer.json()["code"] == "pii"
    assert answer.json()["remedy"]
    assert "proxy-status" in answer.headers
    assert h2.upstream.arrived == []


@pytest.mark.parametrize(("path", "method", "code"), [("/no", "GET", "path_denied"), ("/ok/1", "PUT", "method_denied")])
def test_policy_judges_each_stream(h2: H2Lab, path: str, method: str, code: str) -> None:
    with h2.client() as client:
        refused = client.request(method, h2.url + path)
        assert (refused.status_code, refused.json()["code"]) == (403, code)
        assert client.get(f"{h2.url}/ok/1").status_code == 200
    assert len(h2.upstream.arrived) == 1


def test_a_stream_for_another_authority_is_misdirected(h2: H2Lab) -> None:
    with h2.client() as client:
        answer = client.get(f"{h2.url}/ok/1", headers={"host": "evil.test"})
    assert (answer.status_code, answer.json()["code"]) == (421, "target_mismatch")
    assert h2.upstream.arrived == []


def test_an_upstream_without_http_2_is_refused_and_never_translated(h2: H2Lab) -> None:
    with h2.client() as client:
        answer = client.post(f"https://old.lab.test:{h2.old.port}/ok/1", json={"n": 1})
    assert (answer.status_code, answer.json()["code"]) == (502, "proto_denied")
    assert h2.old.arrived == []


def test_a_client_without_http_2_uses_the_lane(h2: H2Lab) -> None:
    with h2.lab.product.httpx("alpha") as client:
        answer = client.get(f"{h2.url}/ok/1")
    # This upstream speaks HTTP/2 only, and the lane does not.
    assert (answer.status_code, answer.http_version) == (502, "HTTP/1.1")
    assert h2.upstream.arrived == []


def test_streams_in_one_connection_share_one_upstream_connection(h2: H2Lab) -> None:
    with h2.client() as client:
        for number in range(5):
            assert client.post(f"{h2.url}/ok/{number}", json={"n": number}).json() == {"n": number}
    assert h2.upstream.connections == 1


def test_server_sent_events_arrive_piece_by_piece(h2: H2Lab) -> None:
    go = threading.Event()

    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.done()
        peer.send(stream_id, [(b":status", b"200"), (b"content-type", b"text/event-stream")], b"data: 1\n\n")
        await asyncio.to_thread(go.wait, 10)
        peer.send(stream_id, None, b"data: 2\n\n", end=True)

    h2.upstream.serve = serve
    with h2.client() as client, client.stream("GET", f"{h2.url}/ok/1") as answer:
        pieces = answer.iter_bytes()
        assert next(pieces) == b"data: 1\n\n"
        go.set()
        assert b"".join(pieces) == b"data: 2\n\n"
