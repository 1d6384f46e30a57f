"""The look-alikes over real TLS, with the real SDKs."""

import json
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from proxy.demo import certificates
from proxy.demo.server import Running, start


async def with_demo(state_dir: Path, session: Callable[[Running], Any]) -> Any:
    running = await start(state_dir, port=0)
    try:
        return await session(running)
    finally:
        await running.aclose()


def run(state_dir: Path, session: Callable[[Running], Any]) -> Any:
    import asyncio

    return asyncio.run(with_demo(state_dir, session))


def http_client(running: Running) -> httpx.AsyncClient:
    return httpx.AsyncClient(verify=ssl.create_default_context(cafile=str(running.ca)), trust_env=False)


def openai_client(running: Running) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        api_key="sk-demo",
        base_url=f"https://localhost:{running.port}/v1",
        http_client=http_client(running),
        max_retries=0,
    )


def anthropic_client(running: Running) -> anthropic.AsyncAnthropic:
    context = ssl.create_default_context(cafile=str(running.ca))
    return anthropic.AsyncAnthropic(
        api_key="sk-demo",
        base_url=f"https://localhost:{running.port}",
        http_client=httpx2.AsyncClient(verify=context, trust_env=False),
        max_retries=0,
    )


ASK: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "I am <PERSON_abcd2345>, Zoë"}]
TOOL: Any = [{"type": "function", "function": {"name": "save", "parameters": {"type": "object"}}}]


def test_openai_chat_plain_streamed_and_tools(state_dir: Path) -> None:
    """The openai SDK reads plain answers, streams with usage, and tool calls."""

    async def session(running: Running) -> None:
        async with openai_client(running) as client:
            plain = await client.chat.completions.create(model="gpt-4o-mini", messages=ASK)
            assert plain.choices[0].message.content == "You said: I am <PERSON_abcd2345>, Zoë"
            assert plain.choices[0].finish_reason == "stop"
            assert plain.usage is not None
            assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens > 10
            stream = await client.chat.completions.create(
                model="gpt-4o-mini", messages=ASK, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
            assert "".join(texts) == plain.choices[0].message.content
            assert "<PERSON_abcd2345>" not in texts
            assert chunks[-1].usage == plain.usage
            tool = await client.chat.completions.create(
                model="gpt-4o-mini", messages=ASK, tools=TOOL, tool_choice="required"
            )
            call: Any = (tool.choices[0].message.tool_calls or [])[0]
            assert json.loads(call.function.arguments)["text"] == plain.choices[0].message.content
            short = await client.chat.completions.create(model="gpt-4o-mini", messages=ASK, max_tokens=2, n=2)
            assert [choice.finish_reason for choice in short.choices] == ["length", "length"]

    run(state_dir, session)


def test_openai_other_routes(state_dir: Path) -> None:
    """Embeddings depend on the text alone; models are listed; mistakes are told as OpenAI tells them."""

    async def session(running: Running) -> None:
        async with openai_client(running) as client:
            first = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
            again = await client.embeddings.create(model="text-embedding-3-small", input="b")
            assert first.data[1].embedding == again.data[0].embedding != first.data[0].embedding
            assert first.usage.prompt_tokens == 2
            assert "gpt-4o-mini" in [model.id async for model in client.models.list()]
            with pytest.raises(openai.BadRequestError, match="messages"):
                await client.chat.completions.create(model="gpt-4o-mini", messages=[])

    run(state_dir, session)


def test_anthropic_plain_streamed_and_tools(state_dir: Path) -> None:
    """The anthropic SDK reads plain answers, streams and tool uses."""

    async def session(running: Running) -> None:
        async with anthropic_client(running) as client:
            ask: Any = {"model": "claude-opus-4-6", "max_tokens": 100, "messages": ASK[1:]}
            plain = await client.messages.create(**ask)
            assert plain.content[0].text == "You said: I am <PERSON_abcd2345>, Zoë"
            assert plain.stop_reason == "end_turn"
            async with client.messages.stream(**ask) as stream:
                texts = [text async for text in stream.text_stream]
                final = await stream.get_final_message()
            assert "".join(texts) == plain.content[0].text
            assert final.usage.output_tokens == plain.usage.output_tokens == len(texts)
            tools: Any = [{"name": "save", "input_schema": {"type": "object"}}]
            async with client.messages.stream(**ask, tools=tools, tool_choice={"type": "any"}) as stream:
                final = await stream.get_final_message()
            assert final.content[0].input == {"text": plain.content[0].text}
            with pytest.raises(anthropic.BadRequestError, match="at least one message"):
                await client.messages.create(**{**ask, "messages": []})

    run(state_dir, session)


def test_seen_shows_the_last_request_as_received(state_dir: Path) -> None:
    """`/_seen` is byte for byte what came, and asking for it leaves no trace."""

    async def session(running: Running) -> None:
        async with http_client(running) as client:
            base = f"https://localhost:{running.port}"
            answer = await client.post(f"{base}/upload?x=1", content=b'{"a": 1}', headers={"X-Own": "v"})
            assert answer.json()["text"] == '{"a": 1}'
            for _ in range(2):
                seen = (await client.get(f"{base}/_seen")).content
                assert seen == running.demo.seen
                assert seen.startswith(b"POST /upload?x=1 HTTP/1.1\r\n")
                assert b"X-Own: v\r\n" in seen
                assert seen.endswith(b'\r\n\r\n{"a": 1}')

    run(state_dir, session)


def exchange(running: Running, request: bytes) -> bytes:
    context = ssl.create_default_context(cafile=str(running.ca))
    with (
        socket.create_connection(("127.0.0.1", running.port), 5) as plain,
        context.wrap_socket(plain, server_hostname="openai.demo.test") as client,
    ):
        client.sendall(request)
        received = b""
        while part := client.recv(65536):
            received += part
        return received


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.0\r\nHost: x\r\n\r\n",
        b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_malformed_requests_are_refused(state_dir: Path, request_bytes: bytes) -> None:
    """What is not HTTP/1.1 gets 400 and the connection ends."""
    import asyncio

    async def session(running: Running) -> None:
        answer = await asyncio.to_thread(exchange, running, request_bytes)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert running.demo.seen == b""

    run(state_dir, session)


def test_chunked_requests_keep_alive(state_dir: Path) -> None:
    """Two requests on one connection, one of them chunked with an extension and a trailer."""
    import asyncio

    two = (
        b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n"
        b"GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )

    async def session(running: Running) -> None:
        answer = await asyncio.to_thread(exchange, running, two)
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert b'"text": "abc"' in answer

    run(state_dir, session)


def test_the_ca_stays_and_is_strict(state_dir: Path) -> None:
    """A second start keeps the root, its key is private, and a strict verifier accepts all demo hosts."""
    certificates.server_context(state_dir)
    root = certificates.ca_path(state_dir).read_bytes()
    certificates.server_context(state_dir)
    assert certificates.ca_path(state_dir).read_bytes() == root
    assert stat.S_IMODE((state_dir / "demo" / "ca.key").stat().st_mode) == 0o600

    (state_dir / "demo" / "ca.key").write_bytes(b"damaged")
    certificates.server_context(state_dir)
    assert certificates.ca_path(state_dir).read_bytes() != root


def test_the_command_announces_itself(state_dir: Path) -> None:
    """`python -m proxy.demo` prints where it listens and what to trust, and ends cleanly on SIGTERM."""
    command = [sys.executable, "-m", "proxy.demo", "--state", str(state_dir), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        answer = httpx.get(f"{facts['url']}/v1/models", verify=ssl.create_default_context(cafile=facts["ca"]))
        process.terminate()
        assert process.wait(10) == 0
    assert answer.status_code == 200


def test_a_taken_port_is_explained(state_dir: Path) -> None:
    """The three lines name the address and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "proxy.demo", "--state", str(state_dir), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert port in done.stderr
    assert "choose another port" in done.stderr
