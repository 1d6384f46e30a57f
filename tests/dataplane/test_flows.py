"""Foreign mitmproxy addons on lane traffic: asked only when they listen, inspected after, never able to redirect."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.dataplane.flows import FlowHooks
from proxy.dataplane.master import build_master, own_addons
from proxy.errors import Denied
from proxy.model import Authority, RequestHead, ResponseHead

HEAD = RequestHead("POST", "/a?b=1", Authority("https", "a.test", 443), ((b"Host", b"a.test"), (b"X-A", b"1")))


class Addon:
    """Does `act` to each flow in hook `request`; hears everything."""

    def __init__(self, act: Callable[[Any], Any] = lambda flow: None) -> None:
        self.act = act
        self.heard: list[str] = []

    async def request(self, flow: Any) -> None:
        self.heard.append("request")
        self.act(flow)

    def response(self, flow: Any) -> None:
        self.heard.append(f"response {flow.response.status_code}")

    def error(self, flow: Any) -> None:
        self.heard.append(f"error {flow.error.msg}")
        raise ValueError


def run(test: Callable[[FlowHooks], Any], *addons: object) -> None:
    async def scenario() -> None:
        ours = own_addons()
        master = build_master([*addons, *ours], confdir=Path("/nonexistent"))
        await test(FlowHooks(master, ours))

    asyncio.run(scenario())


def test_nobody_listens_nothing_is_wanted() -> None:
    async def check(hooks: FlowHooks) -> None:
        assert not hooks.wanted

    run(check)


def test_a_listener_sees_the_request_and_its_answer() -> None:
    addon = Addon()

    async def check(hooks: FlowHooks) -> None:
        assert hooks.wanted
        flow, head, body = await hooks.request(HEAD, b"body", "10.0.0.1")
        assert (head, body) == (HEAD, b"body")
        assert flow.request.pretty_url == "https://a.test/a?b=1"
        assert flow.client_conn.peername == ("10.0.0.1", 0)
        await hooks.responded(flow, ResponseHead(201, "Created", ((b"X", b"y"),)))
        await hooks.failed(flow, "upstream_timeout")
        assert addon.heard == ["request", "response 201", "error upstream_timeout"]

    run(check, addon)


def test_what_an_addon_changes_is_what_is_inspected() -> None:
    def change(flow: Any) -> None:
        flow.request.headers["x-b"] = "2"
        flow.request.raw_content = b"changed"
        flow.request.path = "/c"

    async def check(hooks: FlowHooks) -> None:
        _, head, body = await hooks.request(HEAD, b"body", "10.0.0.1")
        assert (head.target, body, head.first(b"x-b")) == ("/c", b"changed", b"2")
        assert head.authority == HEAD.authority

    run(check, Addon(change))


def _host(flow: Any) -> None:
    flow.request.host = "evil.test"


def _host_header(flow: Any) -> None:
    flow.request.headers["host"] = "evil.test"


def _port(flow: Any) -> None:
    flow.request.port = 22


def _answer(flow: Any) -> None:
    from mitmproxy import http

    flow.response = http.Response.make(200)


def _kill(flow: Any) -> None:
    flow.kill()


def _raise(flow: Any) -> None:
    raise ValueError


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (_host, "target_mismatch"),
        (_host_header, "target_mismatch"),
        (_port, "target_mismatch"),
        (_answer, "internal"),
        (_kill, "internal"),
        (_raise, "internal"),
    ],
)
def test_an_addon_can_stop_a_request_but_not_redirect_or_wave_it_through(act: Callable[[Any], None], code: str) -> None:
    async def check(hooks: FlowHooks) -> None:
        with pytest.raises(Denied) as caught:
            await hooks.request(HEAD, b"body", "10.0.0.1")
        assert caught.value.code == code

    run(check, Addon(act))


@pytest.mark.parametrize(
    "act",
    [
        lambda flow: flow.request.headers.update({"X-A": "1\r\nHost: evil.test"}),
        lambda flow: flow.request.headers.update({"X A": "1"}),
        lambda flow: setattr(flow.request, "path", "/a HTTP/1.1\r\nX: y"),
        lambda flow: setattr(flow.request, "method", "BREW"),
    ],
)
def test_what_an_addon_makes_keeps_the_grammar(act: Callable[[Any], None]) -> None:
    async def check(hooks: FlowHooks) -> None:
        with pytest.raises(Denied):
            await hooks.request(HEAD, b"", "10.0.0.1")

    run(check, Addon(act))
