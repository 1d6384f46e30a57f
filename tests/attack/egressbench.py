"""`make attack-bench`: cases in the form of agent-egress-bench against the running product, on loopback.

One configuration (`policy`) for every case; its reasons stand in docs/how-to/attack-bench.md. Prints a table and ends
with one JSON line. Every URL keeps its host; only the port becomes that of the upstream here.
"""

import argparse
import json
import os
import shutil
import ssl
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Final, Self

from proxy.dataplane.websocket import Close, Endpoint, Message, Ping, Violation
from tests.attack.egresscases import (
    FAULTS,
    Case,
    Frame,
    Inexpressible,
    Outcome,
    Row,
    Saying,
    counts,
    express,
    listed,
    load,
    summary,
    usable,
)
from tests.attack.frames import frame
from tests.attack.upstreams import accept_key
from tests.lab.ca import LabCA
from tests.lab.policy import PolicyDirectory
from tests.lab.product import ROOT, Product, eventually, read_all, read_head
from tests.lab.upstream import Connection, Piece, Received, Upstream, reply

DEADLINE_S: Final = 20.0
DATA: Final = Path(os.environ.get("EGRESS_SHARED_DATA", ROOT.parent / "shared/data")) / "egress-bench"
ALL, DENY, WILDCARD = "every-host", "default-deny", "below-wildcard"
KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
# What must never leave for a host nobody knows; names, e-mail and places are ordinary words of ordinary calls.
CLASSES: Final = {
    "secret": ["SECRET", "POSSIBLE_SECRET", "PRIVATE_KEY", "SEED_PHRASE", "CRYPTO"],
    "financial": ["CREDIT_CARD", "IBAN_CODE", "ABA_ROUTING_NUMBER", "US_BANK_NUMBER"],
    "government": [
        "US_SSN",
        "US_ITIN",
        "US_PASSPORT",
        "UK_NHS",
        "UK_NINO",
        "CA_SIN",
        "DE_TAX_ID",
        "FR_NIR",
        "IN_AADHAAR",
    ],
}
DLP: Final = {
    "profile": "balanced",
    "rules": [{"classes": sorted(CLASSES), "action": "block"}],
    "otherwise": "allow",
    "uninspectable": {"image": "allow"},
}
_CLOSE: Final = 8
_NORMAL: Final = 1000
_VERDICTS: Final = frozenset({1002, 1003, 1007, 1008, 1009})
_LIMITS: Final = {"requests_per_minute": 1_000_000}


@dataclass(frozen=True)
class Told:
    """A case and its words, or why there are none."""

    case: Case
    saying: Saying | None
    why: str = ""


def tell(cases: Iterable[Case]) -> list[Told]:
    """The words of every case."""
    told = []
    for case in cases:
        try:
            told.append(Told(case, express(case)))
        except (Inexpressible, ValueError) as error:
            told.append(Told(case, None, str(error)))
    return told


def hosts(told: Iterable[Told]) -> list[str]:
    """Hosts that the configuration names, each once."""
    return sorted({one.saying.host for one in told if one.saying and listed(one.case, one.saying.host)})


def below_wildcard(told: Iterable[Told]) -> list[Told]:
    """Cases whose host is a name that the configuration leaves out: the name itself is the message."""
    return [
        one for one in told
        if one.saying and usable(one.saying.host) and "." in one.saying.host and not listed(one.case, one.saying.host)
    ]  # fmt: skip


class Bench:
    """The product, its policy and two upstreams that answer for every host. A context manager."""

    def __init__(self, told: Sequence[Told]) -> None:
        self._told = told
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="egb-", dir="/tmp"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            ca = LabCA(folder)
            names = sorted({one.saying.host for one in self._told if one.saying and usable(one.saying.host)})
            self.secure = stack.enter_context(Upstream(ca, *(names or ["nobody.test"])))
            self.plain = stack.enter_context(Upstream(None))
            directory = self._policy(PolicyDirectory(folder / "allowlists", ca), names)
            state = folder / "state"
            state.mkdir(mode=0o700)
            self.product = stack.enter_context(Product(state, directory))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _policy(self, policy: PolicyDirectory, names: Sequence[str]) -> Path:
        policy.platform["classes"] = CLASSES
        policy.platform["resolve"] = dict.fromkeys(names, "127.0.0.1")
        harmless = hosts(one for one in self._told if not one.case.malicious)
        domains = {".".join(one.saying.host.split(".")[-2:]) for one in below_wildcard(self._told) if one.saying}
        for app, allowed in (
            (ALL, hosts(self._told)), (DENY, harmless), (WILDCARD, [f"*.{domain}" for domain in sorted(domains)]),
        ):  # fmt: skip
            entries = [entry for host in allowed for entry in self._entries(policy, host)]
            policy.app(app, *entries, dlp=DLP, limits=_LIMITS)
        return policy.write()

    def _entries(self, policy: PolicyDirectory, host: str) -> Iterator[dict[str, Any]]:
        for upstream, kind in ((self.secure, "s"), (self.plain, "p")):
            name = host.replace("*", "any").replace(".", "-").lower()[:50].strip("-")
            entry = policy.entry(f"{name}-{kind}", upstream, host=host, protocols=["http1", "websocket"])
            if host.startswith("*"):
                del policy.platform["resolve"][host]
            yield entry

    # -- one case

    def run(self, app: str, told: Sequence[Told]) -> list[Row]:
        """Says every case to the product as `app`."""
        return [Row(one.case, self._outcome(app, one)) for one in told]

    def _outcome(self, app: str, one: Told) -> Outcome:
        saying = one.saying
        if saying is None:
            return Outcome(False, False, f"cannot be said: {one.why}")
        upstream = self.secure if saying.tls else self.plain
        for each in (self.secure, self.plain):
            each.drop_connections()
            each.forget()
        upstream.answer = _answer(one.case.answer or b"ok")
        talk = Talk(self.product, app, upstream, saying)
        try:
            return talk.frames() if saying.frames else talk.request(one.case.answer or b"ok")
        except (OSError, ssl.SSLError, HTTPException, UnicodeError, ValueError) as error:
            return Outcome(False, False, f"{type(error).__name__}: {error}")


def _answer(body: bytes) -> Any:
    def answer(received: Received) -> Iterable[Piece]:
        key = received.header("sec-websocket-key")
        if key is None:
            return reply(body, headers=[("Content-Type", "text/plain; charset=utf-8")])(received)
        accepted = accept_key(f"Sec-WebSocket-Key: {key}\r\n".encode())
        return [
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accepted + b"\r\n\r\n"
        ]

    return answer


class Talk:
    """One case said through the explicit listener."""

    def __init__(self, product: Product, app: str, upstream: Upstream, saying: Saying) -> None:
        self._product = product
        self._app = app
        self._upstream = upstream
        self._saying = saying
        self._authority = f"{saying.host}:{upstream.port}"

    def request(self, expected: bytes) -> Outcome:
        """Sends it, reads the answer, and compares both with what arrived."""
        stream, refused = self._open(self._head([("Connection", "close")]) + self._saying.body)
        if refused:
            return self._refused(refused)
        with stream:
            response = HTTPResponse(stream, method=self._saying.method)
            response.begin()
            body = response.read()
        if status := response.headers.get("Proxy-Status"):
            return self._refused(status)
        got = self._upstream.requests[-1] if self._upstream.requests else None
        whole = got is not None and self._same(got) and (body == expected or self._saying.method == "HEAD")
        return Outcome(False, whole, f"{response.status}, {'as sent' if whole else 'changed on the way'}")

    def frames(self) -> Outcome:
        """Opens a WebSocket, sends the frames and a Close, and reads until the end."""
        upgrade = [
            ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ]  # fmt: skip
        stream, refused = self._open(self._head(upgrade))
        if refused:
            return self._refused(refused)
        with stream:
            head = read_head(stream).decode("latin-1")
            if " 101 " not in head.split("\r\n", 1)[0]:
                return self._refused(head)
            closing = Frame(_CLOSE, b"\x03\xe8", True, 0)
            stream.sendall(b"".join(_wire(each) for each in (*self._saying.frames, closing)))
            connection = self._upstream.connections[-1]
            # The Close is the last thing that the proxy writes, the case's own or one with a verdict.
            eventually(lambda: connection.closed.is_set() or _is_closed(connection), "no Close upstream")
            self._upstream.drop_connections()
            code = _close_code(read_all(stream))
        return judged(self._saying.frames, _events(connection), code)

    def _open(self, words: bytes) -> tuple[Any, str]:
        """(stream after `words` were sent, "") or (None, the head of a refusal)."""
        if not self._saying.tls:
            stream = self._product.dial()
        else:
            bare, head = self._product.connect(self._app, self._authority)
            if b" 200 " not in head.split(b"\r\n", 1)[0]:
                bare.close()
                return None, head.decode("latin-1")
            stream = self._product.trust.wrap_socket(bare, server_hostname=self._saying.host.strip("[]"))
        stream.settimeout(DEADLINE_S)
        stream.sendall(words)
        return stream, ""

    def _head(self, more: Sequence[tuple[str, str]]) -> bytes:
        saying = self._saying
        fields = [("Host", self._authority), *saying.headers, *more]
        target = saying.target
        if not saying.tls:
            target = f"http://{self._authority}{target}"
            fields.append(("Proxy-Authorization", f"Bearer {self._product.token(self._app)}"))
        if saying.body or saying.method in {"POST", "PUT", "PATCH"}:
            fields.append(("Content-Length", str(len(saying.body))))
        rows = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"{saying.method} {target} HTTP/1.1\r\n{rows}\r\n".encode()

    def _refused(self, head: str) -> Outcome:
        code = head.partition('details="')[2].partition('"')[0] or "no reason given"
        leaked = any(request.body or request.target for request in self._upstream.requests) or self._upstream.raw
        stopped = code not in FAULTS and code != "no reason given"
        return Outcome(stopped and not leaked, False, f"{code}{', but bytes arrived' if leaked else ''}")

    def _same(self, got: Received) -> bool:
        sent = self._saying
        kept = all((got.header(name) or "") == value for name, value in dict(sent.headers).items())
        return (got.method, got.target, got.body) == (sent.method, sent.target, sent.body) and kept


def _wire(each: Frame) -> bytes:
    return frame(each.opcode, each.payload, fin=each.fin, rsv=each.rsv)


def _read(data: bytes, side: Any) -> list[object]:
    events: list[object] = []
    try:
        events.extend(Endpoint(side, 1 << 30).receive(data))
    except Violation as violation:
        events.append(violation)
    return events


def judged(frames: Sequence[Frame], events: Sequence[object], code: int) -> Outcome:
    """`events`: what the upstream read; `code`: of the Close that came back, 1000 being what the case's own asks for.

    A ping or pong whose payload did not arrive is contained without a denial: the proxy answers these itself.
    """
    sent, arrived = _messages(frames), [event.payload for event in events if isinstance(event, Message)]
    hidden = [each.payload for each in frames if each.opcode > _CLOSE and each.payload]
    passed = [event.payload for event in events if isinstance(event, Ping) and event.payload]
    contained = arrived != sent if code in _VERDICTS else bool(hidden) and not passed
    whole = arrived == sent and code == _NORMAL
    return Outcome(contained, whole, f"close {code}, {len(arrived)} of {len(sent)} message(s) arrived")


def _messages(frames: Iterable[Frame]) -> list[bytes]:
    """Payloads of the data messages that a lenient reader would put together."""
    messages: list[bytes] = []
    for each in frames:
        if each.opcode in {1, 2}:
            messages.append(each.payload)
        elif each.opcode == 0 and messages:
            messages[-1] += each.payload
    return messages


def _events(connection: Connection) -> list[object]:
    return _read(bytes(connection.raw).partition(b"\r\n\r\n")[2], "client")


def _is_closed(connection: Connection) -> bool:
    return any(isinstance(event, Close) for event in _events(connection))


def _close_code(data: bytes) -> int:
    closes = [event.code for event in _read(data, "upstream") if isinstance(event, Close)]
    return closes[-1] if closes else 1006


# -- the whole


def measure(cases: Sequence[Case]) -> tuple[list[Row], dict[str, Any]]:
    """Starts the product, says every case under each configuration: the rows of the first, and the JSON line."""
    told = tell(cases)
    with Bench(told) as bench:
        rows = bench.run(ALL, told)
        deny = bench.run(DENY, told)
        wildcard = bench.run(WILDCARD, below_wildcard(told))
    return rows, summary(rows, deny, wildcard)


def table(rows: Sequence[Row]) -> str:
    """A line for each category, then one for each case that went wrong or is not counted."""
    lines = [f"{'category':<24}{'contained':>12}{'false positives':>18}{'not counted':>14}"]
    for name in sorted({row.case.category for row in rows}):
        n = counts(row for row in rows if row.case.category == name)
        contained, wrong = f"{n['contained']}/{n['of_malicious']}", f"{n['false_positives']}/{n['of_benign']}"
        lines.append(f"{name:<24}{contained:>12}{wrong:>18}{n['out_of_scope']:>14}")
    for row in rows:
        word = "missed" if row.missed else "false positive" if row.false_positive else ""
        word = word or ("not counted" if row.case.out_of_scope else "")
        if word:
            lines.append(f"{word}: {row.case.id}: {row.outcome.seen}")
    return "\n".join(lines)


def main() -> int:
    """0 when it ran, or there is nothing to run; the figures are for the reader to judge."""
    parser = argparse.ArgumentParser(prog="make attack-bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of cases, one JSON file each")
    parser.add_argument("--verbose", action="store_true", help="what came of every case")
    arguments = parser.parse_args()
    cases = load(arguments.data) if arguments.data.is_dir() else []
    if not cases:
        print(
            f"skipped: no cases of agent-egress-bench in {arguments.data}; name a folder of them with DATA=",
            file=sys.stderr,
        )
        return 0
    rows, line = measure(cases)
    if arguments.verbose:
        print("\n".join(f"{row.case.id}: {row.outcome.seen}" for row in rows))
    print(table(rows))
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
