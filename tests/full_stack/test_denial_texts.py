"""Issue bullet 11: what the client's own words say when it is denied."""

import anthropic
import httpx
import openai
import pytest
import requests

from tests.full_stack.kit import CARD, House, say

CALL = {"model": "claude-haiku-4-5", "max_tokens": 20, "messages": [{"role": "user", "content": f"card {CARD}"}]}


def test_the_openai_sdk_shows_reason_place_and_remedy(house: House) -> None:
    with pytest.raises(openai.PermissionDeniedError) as denied:
        house.openai("strict").chat.completions.create(**say(f"card {CARD}"))
    text = str(denied.value)
    for part in ("CREDIT_CARD", "pii", "apps/strict.yaml:", "ask the admin", "$.messages[0].content"):
        assert part in text, text
    assert CARD not in text
    assert denied.value.response.headers["content-type"].startswith("application/problem+json")
    assert "egress" in denied.value.response.headers["proxy-status"]


def test_the_openai_sdk_shows_it_for_a_stream_too(house: House) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="CREDIT_CARD"):
        house.openai("strict").chat.completions.create(**say(f"card {CARD}"), stream=True)


def test_the_anthropic_sdk_shows_it(house: House) -> None:
    with pytest.raises(anthropic.PermissionDeniedError) as denied:
        house.anthropic("strict").messages.create(**CALL)  # type: ignore[call-overload]
    text = str(denied.value)
    for part in ("CREDIT_CARD", "apps/strict.yaml:", "ask the admin"):
        assert part in text, text
    assert CARD not in text


@pytest.mark.parametrize("client", ["httpx", "requests", "curl"])
def test_a_denied_connect_is_told_in_the_reason_phrase(house: House, client: str) -> None:
    url = "https://evil.example/"
    if client == "httpx":
        with house.product.httpx("open") as session, pytest.raises(httpx.ProxyError) as refused:
            session.get(url)
        text = str(refused.value)
    elif client == "requests":
        with house.product.requests("open") as session, pytest.raises(requests.exceptions.ProxyError) as failed:
            session.get(url, timeout=20)
        text = str(failed.value)
    else:
        done = house.product.curl("open", "-v", url)
        assert done.returncode != 0
        text = done.stderr
    for part in ("host_denied", "evil.example", "apps/open.yaml:", "Ask the app's admin"):
        assert part in text, text


@pytest.mark.parametrize("client", ["httpx", "requests", "curl"])
def test_inside_the_tunnel_the_body_tells(house: House, client: str) -> None:
    url = house.url() + "/v1/elsewhere"
    if client == "httpx":
        with house.product.httpx("narrow") as session:
            text = session.get(url).text
    elif client == "requests":
        with house.product.requests("narrow") as session:
            text = session.get(url, timeout=20).text
    else:
        text = house.product.curl("narrow", url).stdout
    for part in ("path_denied", "/v1/files/*", "apps/narrow.yaml:", "remedy"):
        assert part in text, text


def test_a_missing_credential_asks_for_one(house: House) -> None:
    done = house.product.curl(None, "-v", house.url())
    assert "407" in done.stderr
    assert "proxy-authenticate: basic" in done.stderr.lower()
    assert "egress token issue" in done.stderr
