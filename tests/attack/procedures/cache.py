"""The cache of answers: whose they are, what may be kept, and what a look into the store gives away."""

import json
import re
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from tests.attack.llm import (
    CALLER,
    KEY,
    OTHER_CALLER,
    OTHER_KEY,
    Books,
    Model,
    ask,
    call_text,
    contents,
    is_hit,
    send,
    store,
    until_hit,
)  # fmt: skip
from tests.attack.procedures import Bench, procedure
from tests.attack.procedures.faults import children, status
from tests.attack.upstreams import Accepted, Script, chat, http_ok
from tests.attack.world import send_signal, wait_until

_JSON = b"Content-Type: application/json\r\n"


def _not_shared(bench: Bench, text: str, whose: str, **caller: Any) -> None:
    """A stored answer is given to its own caller again; the same call of another one goes upstream."""
    model = Model(bench)
    bench.check(until_hit(bench, text), "the caller's own repeat is never a hit: nothing is shown")
    before = len(model.requests)
    answer = ask(bench, text, **caller)
    bench.check(answer.status == 200, f"the call of {whose}: {answer.status}")
    if is_hit(answer) or len(model.requests) != before + 1:
        bench.leak(f"{whose} got the stored answer")


@procedure("CCH-01")
def other_app(bench: Bench) -> None:
    """An identical call of another app is a miss, and goes upstream."""
    _not_shared(bench, f"cross {bench.world.token()}", "another app", source=OTHER_CALLER)


@procedure("CCH-02")
def other_credential(bench: Bench) -> None:
    """Two API keys of one app have two entries."""
    text = f"credential {bench.world.token()}"
    _not_shared(bench, text, "another credential", key=OTHER_KEY)
    bench.check(until_hit(bench, text, key=OTHER_KEY), "the other key gets no entry of its own")
    bench.check(until_hit(bench, text), "the first key's entry is gone")


@procedure("CCH-03")
def unkeyed(bench: Bench) -> None:
    """A call with something odd, which the upstream repeats in its answer, then the plain call. Where the odd part
    reaches the upstream, the plain call goes there too; where both share one answer, nothing odd had reached it."""
    for name, shares, odd in (
        ("X-Forwarded-Host", True, {"fields": "X-Forwarded-Host: poison.test\r\n"}),
        ("X-Original-URL", True, {"fields": "X-Original-URL: /poison\r\n"}),
        ("Accept-Encoding", True, {"fields": "Accept-Encoding: gzip, poison\r\n"}),
        ("Host case", True, {"host": "LLM.test"}),
        ("query", False, {"target": "/v1/chat/completions?poison=1"}),
        ("Range", False, {"fields": "Range: bytes=0-3, poison\r\n"}),
        ("Accept-Language", False, {"fields": "Accept-Language: poison\r\n"}),
        ("Cookie", False, {"fields": "Cookie: tenant=poison\r\n"}),
        ("any field", False, {"fields": "X-Whatever: poison\r\n"}),
        ("HEAD", False, {"method": "HEAD"}),
        ("GET with a body", False, {"method": "GET"}),
    ):
        model, text = Model(bench, _repeats_the_request), f"unkeyed {bench.world.token()}"
        ask(bench, text, **odd)
        bench.check(not (shares and until_hit(bench, text, **odd)) or len(model.requests) == 1, f"{name}: asked twice")
        asked = len(model.requests)
        plain = ask(bench, text)
        bench.check(plain.status == 200, f"{name}: the plain call gets {plain.status}")
        if b"poison" in plain.body.lower() or b"LLM.test" in plain.body:
            bench.leak(f"{name}: the plain call got the odd one's answer")
        upstream = len(model.requests) - asked
        bench.check(upstream == (not shares), f"{name}: {upstream} plain calls went upstream, expected {not shares:d}")
        if shares:
            seen = model.requests[0].lower()
            bench.check(b"poison" not in seen and b"LLM.test" not in model.requests[0], f"{name}: went upstream")
        bench.check(until_hit(bench, text), f"{name}: the plain call is never stored")


def _repeats_the_request(accepted: Accepted, request: bytes, stream: socket.socket) -> None:
    """An upstream whose answer holds the head: what an unkeyed input could poison."""
    lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    head = "\n".join(line for line in lines if not line.lower().startswith("authorization:"))
    choice = {"index": 0, "message": {"role": "assistant", "content": head}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini", "choices": [choice]}
    stream.sendall(http_ok(json.dumps({**body, "usage": usage}).encode(), _JSON))


def _changed(change: Callable[[bytes], bytes]) -> Script:
    """The whole answer of the look-alike, changed; the connection ends then."""

    def script(accepted: Accepted, request: bytes, stream: socket.socket) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            chat()(accepted, request, ours)
            ours.shutdown(socket.SHUT_WR)
            whole = b"".join(iter(lambda: theirs.recv(1 << 16), b""))
        stream.sendall(change(whole))
        raise ConnectionAbortedError("as the script says")

    return script


def _with(field: bytes) -> Callable[[bytes], bytes]:
    return lambda whole: whole.replace(b"\r\n", b"\r\n" + field + b"\r\n", 1)


def _calls_a_tool(accepted: Accepted, request: bytes, stream: socket.socket) -> None:
    function = {"name": "pay", "arguments": "{}"}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "t", "type": "function", "function": function}],
    }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini", "choices": [choice]}
    stream.sendall(http_ok(json.dumps({**body, "usage": usage}).encode(), _JSON))


_UNFIT: dict[str, tuple[Script, dict[str, Any]]] = {
    "truncated": (_changed(lambda whole: whole[:-20]), {}),
    "5xx": (_changed(lambda whole: whole.replace(b"200 OK", b"500 Oops", 1)), {}),
    "206": (_changed(lambda whole: whole.replace(b"200 OK", b"206 Partial Content", 1)), {}),
    "set-cookie": (_changed(_with(b"Set-Cookie: session=1")), {}),
    "no-store": (_changed(_with(b"Cache-Control: no-store")), {}),
    "no-store of the call": (chat(), {"fields": "Cache-Control: no-store\r\n"}),
    "aborted stream": (_changed(lambda whole: whole[: whole.index(b"[DONE]") - 10]), {"stream": True}),
    "tool call": (_calls_a_tool, {}),
    "temperature": (chat(), {"temperature": 1}),
}


@procedure("CCH-04")
def unfit(bench: Bench) -> None:
    """What must not be kept is asked for upstream each time. A fit call that is sent last and becomes a hit shows that
    whatever was to be stored before it had its time."""
    for app in ("caller", "other-caller"):
        bench.world.apps[app]["cache"] = {"ttl": "10m", "only_deterministic": True}
    bench.world.push()
    asked = {}
    for name, (script, call) in _UNFIT.items():
        Model(bench, script)
        asked[name] = f"unfit {bench.world.token()}"
        ask(bench, asked[name], **call)
    Model(bench)
    bench.check(until_hit(bench, f"fit {bench.world.token()}"), "a fit call is never a hit: nothing is shown")
    for name, (_, call) in _UNFIT.items():
        model = Model(bench)
        answer = ask(bench, asked[name], **{**call, "fields": ""})
        bench.check(answer.status == 200, f"{name}: the repeat gets {answer.status}")
        bench.check(not is_hit(answer) and len(model.requests) == 1, f"{name}: was stored")
    for app in ("caller", "other-caller"):
        bench.world.apps[app]["cache"] = {"ttl": "10m"}
    bench.world.push()


def _new_worker(bench: Bench) -> None:
    """A worker that has to ask the store, since its memory holds no answer yet."""
    for pid in children(bench, "proxy.dataplane.worker"):
        send_signal(pid, signal.SIGKILL)
    bench.check(wait_until(lambda: status(bench) == 200, 15), "no new worker")


def _forged(bench: Bench) -> int:
    found = re.findall(r"^egress_cache_forged_total\{[^}]*\} ([0-9.e+]+)$", bench.world.page("/metrics"), re.MULTILINE)
    return sum(int(float(one)) for one in found)


def _reads_the_store(bench: Bench, stored: list[str]) -> bool:
    """Whether the worker knows what the store holds: a call that it has never answered is a hit."""
    for text in stored:
        if is_hit(ask(bench, text)):
            return True
        time.sleep(0.3)
    return False


@procedure("CCH-05", fresh=True)
def tampered(bench: Bench) -> None:
    """A flipped bit, or another entry's value, is a miss: the call goes upstream again, and a metric tells."""
    model, client = Model(bench), store(bench)
    texts = [f"tampered {bench.world.token()} {at}" for at in range(2)]
    for text in texts:
        bench.check(until_hit(bench, text), "never a hit: nothing is shown")
    keys: list[bytes] = []

    def stored() -> bool:
        strings = (key for key in client.scan_iter() if client.type(key) == b"string")
        keys[:] = [key for key in strings if b"egc1" in (client.get(key) or b"")[:16]]
        return len(keys) == 2

    # A worker serves a hit from its memory before the store has the answer.
    if not wait_until(stored, 5):
        bench.check(False, f"{len(keys)} entries in the store, expected 2")
        return
    good: list[bytes] = [client.get(key) or b"" for key in keys]
    flipped = [value[:-3] + bytes([value[-3] ^ 1]) + value[-2:] for value in good]
    for name, values in (("flipped", flipped), ("swapped", good[::-1])):
        for key, value in zip(keys, values, strict=True):
            client.set(key, value, keepttl=True)
        whole = [f"whole {name} {at} {bench.world.token()}" for at in range(15)]
        for text in whole:
            bench.check(until_hit(bench, text), "a call is never a hit: nothing is shown")
        _new_worker(bench)
        bench.check(_reads_the_store(bench, whole), "a new worker finds nothing in the store: nothing is shown")
        before, forged = len(model.requests), _forged(bench)
        for text in texts:
            answer = ask(bench, text)
            bench.check(text.encode() in answer.body, f"{name}: the call gets another answer")
            if is_hit(answer):
                bench.leak(f"{name}: served from the cache")
        bench.check(len(model.requests) == before + 2, f"{name}: {len(model.requests) - before} calls went upstream")
        told = wait_until(lambda forged=forged: _forged(bench) == forged + 2, 5)
        bench.check(told, f"{name}: the metric counts {_forged(bench) - forged} forged values, expected 2")
        for text in texts:
            bench.check(until_hit(bench, text), f"{name}: never stored again")


@procedure("CCH-06")
def nothing_readable(bench: Bench) -> None:
    """The PII of a redacted prompt, the prompt and the credential stand nowhere in the store."""
    bench.world.apps["caller"]["dlp"] = {"rules": [{"entities": ["US_SSN"], "action": "redact"}]}
    bench.world.push()
    model, word = Model(bench), f"quaint{bench.world.token()}"
    text = f"My SSN is 123-45-6789, {word}"
    bench.check(until_hit(bench, text), "never a hit: nothing is shown")
    bench.check(all(b"123-45-6789" not in one for one in model.requests), "the SSN went upstream")
    for piece in contents(bench):
        for secret in (b"123-45-6789", KEY.encode()):
            if secret in piece:
                bench.leak(f"the store holds {secret[:4]!r}… in {piece[:40]!r}")
    keys = [key for key in store(bench).scan_iter() if word.encode() in key]
    bench.check(not keys, f"a key holds the prompt: {keys[:1]}")


@procedure("CCH-07")
def booked(bench: Bench) -> None:
    """A hit has its record, costs nothing, and its tokens count as saved."""
    model, books, text = Model(bench), Books(bench), f"booked {bench.world.token()}"
    ask(bench, text)
    hit = wait_until(lambda: is_hit(ask(bench, text)), 5)
    bench.check(hit, "never a hit: nothing is shown")
    upstream = len(model.requests)
    records = books.records(upstream + 1)
    hits = [one for one in records if one.get("cache") == "hit"]
    bench.check(len(hits) == 1 and len(records) == upstream + 1, f"{len(records)} records, {len(hits)} of hits")
    for one in hits:
        bench.check(not one.get("cost_usd_nanos"), f"the hit costs {one.get('cost_usd_nanos')}")
        saved = one.get("saved_input_tokens"), one.get("saved_output_tokens")
        bench.check(saved == (10, 5), f"the record says saved {saved}, the upstream said (10, 5)")
        bench.check(one.get("saved_usd_nanos", 0) > 0, "no saved money in the record")
    grown = books.booked(upstream + 1)
    bench.check(grown["cache_hits"] == 1, f"usage counts {grown['cache_hits']} hits")
    bench.check(grown["input_tokens"] == 10 * upstream, f"usage counts {grown['input_tokens']} tokens in")
    bench.check(grown["saved_usd_nanos"] * upstream == grown["cost_usd_nanos"], f"saved and spent do not fit: {grown}")


@procedure("CCH-08", fresh=True)
def policy_changes(bench: Bench) -> None:
    """After inspection was tightened a repeat is inspected anew: denied here, and no stored answer."""
    bench.world.apps["caller"]["dlp"] = {"rules": [{"entities": ["US_SSN"], "action": "redact"}]}
    bench.world.push()
    model, text = Model(bench), f"My SSN is 123-45-6789, {bench.world.token()}"
    plain = f"policy {bench.world.token()}"
    for one in (text, plain):
        bench.check(until_hit(bench, one), "never a hit: nothing is shown")
    bench.world.apps["caller"]["dlp"] = {"rules": [{"entities": ["US_SSN"], "action": "block"}]}
    bench.world.push()
    before = len(model.requests)
    answer = send(bench, call_text(text), source=CALLER)
    bench.check(answer.status == 403, f"the repeat gets {answer.status} after the change")
    answer = ask(bench, plain)
    bench.check(answer.status == 200 and not is_hit(answer), "a stored answer outlives the change of inspection")
    bench.check(len(model.requests) == before + 1, f"{len(model.requests) - before} calls went upstream, expected 1")
