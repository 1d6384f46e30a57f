"""One run in a world: prepare, attack, look everywhere, and say what is wrong. The five global assertions live here."""

import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.attack import upstreams as servers
from tests.attack.client import Observed, attack
from tests.attack.net import DNS4
from tests.attack.upstreams import Accepted
from tests.attack.wire import Run, build
from tests.attack.world import IP, NetWorld, World, wait_until

_LEGAL: Final = Run(
    "legal", "", "explicit", {"send": "GET http://${A}/legal HTTP/1.1\r\nHost: ${A}\r\nConnection: close\r\n\r\n"}
)
_RECORD_WAIT_S: Final = 2.0
_METRIC_WAIT_S: Final = 2.5


@dataclass
class Verdict:
    """`problems`: what was wrong, in words. `leaked`: a forbidden server saw the token or the SSN, or bytes got out."""

    label: str
    problems: list[str] = field(default_factory=list)
    leaked: bool = False
    slow_only: bool = False
    seen: str = ""
    codes: Counter[str] = field(default_factory=Counter)


class Judge:
    """Runs wire cases in one world, one after the other."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._saved: dict[str, dict[str, Any]] = {}

    def run(self, run: Run, *, again: bool = True) -> Verdict:
        """The verdict on one run; a run that was only slow gets a second chance (machines stutter)."""
        verdict = self._once(run)
        if verdict.problems and verdict.slow_only and again:
            return self.run(run, again=False)
        return verdict

    def _once(self, run: Run) -> Verdict:
        world = self.world
        token = world.token()
        form = {"BASE": "http://${A}" if run.mode == "explicit" else "", "AUTH": "${AS}" if run.secure else "${A}"}
        run = Run(run.case, run.variant, run.mode, run.spec, {"T": token, **form, **run.values})
        values = {**world.values, **run.values}
        if world.trail:
            world.trail.more()
        world.upstreams.mark()
        self._prepare(run, values)
        if world.wires:
            world.wires.packets.clear()
        if world.resolver:
            world.resolver.queries.clear()
        observed = attack(run, world.gate(run), lambda step: self._world_step(step, values))
        verdict = Verdict(run.label, seen=_summary(observed))
        self._judge_bytes(run, values, token, observed, verdict)
        self._judge_dial(run, token, verdict)
        world.upstreams.plain()
        self._judge_legal(run, verdict)
        if world.baseline:
            _served_instead(run, observed, verdict)
        else:
            self._judge_answers(run, observed, values, verdict)
            self._judge_records(run, self._records(run), verdict)
        if run.spec.get("dns") and world.resolver:
            world.resolver.standing()
        return verdict

    # -- before and during

    def _prepare(self, run: Run, values: Mapping[str, Any]) -> None:  # noqa: C901 - one arm per kind
        ups = self.world.upstreams
        ups.plain()
        if self.world.resolver and run.spec.get("dns"):
            self.world.resolver.set(_built(run.spec["dns"], values))
        answer = run.spec.get("answer")
        if answer is None:
            return
        if isinstance(answer, str):
            answer = {answer: True}
        [(kind, operand)] = answer.items()
        match kind:
            case "echo":
                ups.script = servers.echo
            case "websocket":
                ups.script = servers.websocket
            case "websocket_extra":
                extra = build(operand, values)
                ups.script = lambda a, r, s: servers.websocket(a, r, s, extra=extra)
            case "upgrade":
                ups.script = servers.upgrade(build(operand, values))
            case "big":
                ups.script = servers.big(int(operand))
            case "bytes" | "bytes_close":
                parts = operand if isinstance(operand, list) else [operand]
                pieces = [float(p["pause_s"]) if _is_pause(p) else build(p, values) for p in parts]
                ups.script = servers.reply(pieces, close=kind == "bytes_close")
            case "greeting":
                ups.greeting = build(operand, values)
            case "chat":
                ups.script = servers.chat()
            case "h2":
                ups.h2_headers = [(str(n), str(v)) for n, v in operand.get("headers", [])]
                ups.h2_trailers = [(str(n), str(v)) for n, v in operand.get("trailers", [])]
                ups.h2_body = build(operand["body"], values) if "body" in operand else None
            case _:
                raise ValueError(f"no answer {kind!r}")

    def _world_step(self, step: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        [(verb, operand)] = step.items()
        if verb == "dns" and self.world.resolver:
            self.world.resolver.set(_built(operand, values))
        elif verb == "drop_upstreams":
            self.world.upstreams.drop()
        elif verb in {"revoke", "restore"} and isinstance(self.world, NetWorld):
            self._revoke(str(operand), back=verb == "restore")
        else:
            raise ValueError(f"no step {verb!r}")

    def _revoke(self, app: str, *, back: bool) -> None:
        """Publishes the app's policy without (or again with) the allowed host."""
        world = self.world
        if not isinstance(world, NetWorld):
            return
        if back:
            world.apps[app] = self._saved[app]
        else:
            whole = self._saved[app] = world.apps[app]
            left = [entry for entry in whole["allow"] if entry["host"] != "allowed.test"]
            world.apps[app] = {**whole, "allow": left}
        world.push()

    # -- after

    def _records(self, run: Run) -> list[tuple[dict[str, Any], str]]:
        """The run's terminal records: all until the legal request's own (a chain is in order), and late ones."""
        trail = self.world.trail
        if trail is None:
            return []
        wanted = run.want.get("records", _expected_records(run))
        least = wanted if isinstance(wanted, int) else 0
        ours: list[tuple[dict[str, Any], str]] = []
        legal = run.spec.get("legal") is False

        def enough() -> bool:
            nonlocal legal
            for one, line in trail.more():
                if one["kind"] == "terminal" and one.get("path") == "/legal" and one.get("outcome") == "allowed":
                    legal = True
                elif one["kind"] == "terminal":
                    ours.append((one, line))
            return legal and len(ours) >= least

        wait_until(enough, _RECORD_WAIT_S)
        return ours

    def _judge_bytes(
        self, run: Run, values: Mapping[str, Any], token: str, observed: Observed, verdict: Verdict
    ) -> None:
        want, world = run.want, self.world
        served = want.get("outcome", "denied") in {"served", "either"}
        if served:
            wait_until(lambda: any(token.encode() in one.all for one in world.upstreams.accepted), 0.3)
        allowed = set(want.get("dial", ["allowed"]) if isinstance(want.get("dial"), list) else ["allowed"])
        places = {IP.get(name, name) for name in allowed} | {"127.0.0.1"} if world.name == "loopback" else {
            build(IP.get(str(name), str(name)), values).decode() for name in allowed
        }  # fmt: skip
        may = want.get("token", "allowed" if served else "none")
        for one in world.upstreams.accepted:
            seen = one.all
            if token.encode() in seen and may != "any" and (may == "none" or _plain_ip(one.ip) not in places):
                verdict.problems.append(f"the token reached {one.ip}:{one.port}")
                verdict.leaked = True
            if values["SSN"].encode() in seen and want.get("ssn", "none") == "none":
                verdict.problems.append(f"the SSN reached {one.ip}:{one.port}")
                verdict.leaked = True
            if _strange(one) and want.get("ssn") != "any" and may == "none" and seen:
                verdict.problems.append(f"raw bytes reached {one.ip}:{one.port}: {seen[:40]!r}")
                verdict.leaked = True
        joined = b"\n".join(one.all for one in world.upstreams.accepted)
        for expression in _list(want.get("upstream")):
            if build(expression, values) not in joined:
                verdict.problems.append(f"no upstream saw {build(expression, values)[:80]!r}; seen {joined[:300]!r}")
        for expression in _list(want.get("not_upstream")):
            if build(expression, values).lower() in joined.lower():
                verdict.problems.append(f"an upstream saw {build(expression, values)[:80]!r}")
                verdict.leaked = True
        if values["SSN"].encode() in bytes(observed.received) and want.get("ssn", "none") == "none":
            verdict.problems.append("the answer repeats the SSN")

    def _judge_dial(self, run: Run, token: str, verdict: Verdict) -> None:
        world, want = self.world, run.want
        if world.wires is None or world.resolver is None:
            return
        dial = want.get("dial", ["allowed"])
        values = {**world.values, **run.values}
        may = None if dial == "any" else set() if dial == "none" else {
            build(IP.get(str(name), str(name)), values).decode() for name in dial
        }  # fmt: skip
        if may is not None:
            for packet in world.wires.packets:
                if packet.kind == "syn" and packet.ip not in may and (packet.ip, packet.port) != (DNS4, 53):
                    verdict.problems.append(f"SYN to {packet.ip}:{packet.port}")
                    verdict.leaked |= packet.ip != IP["allowed"]
                if packet.kind == "udp" and packet.ip != DNS4 and packet.port != 53:
                    verdict.problems.append(f"datagram to {packet.ip}:{packet.port}")
        asked = [query.name for query in world.resolver.queries]
        if want.get("queries") == "none" and asked:
            verdict.problems.append(f"DNS was asked for {', '.join(asked[:3])}")
            verdict.leaked = True
        if want.get("outcome", "denied") == "denied" and want.get("queries") != "any":
            carried = [name for name in asked if token in name]
            if carried:
                verdict.problems.append(f"the token left in a DNS query: {carried[0]}")
                verdict.leaked = True

    def _judge_answers(  # noqa: C901 - a list of independent checks
        self, run: Run, observed: Observed, values: Mapping[str, Any], verdict: Verdict
    ) -> None:
        want = run.want
        outcome = want.get("outcome", "denied")
        if "answers" in want:
            wanted = [_statuses(one) for one in want["answers"]]
        elif "status" in want:
            wanted = [_statuses(want["status"])]
        else:
            wanted = [{200}] if outcome == "served" else [set(range(400, 600)) | {0}] if outcome == "denied" else []
        got = [answer.status for answer in observed.answers]
        if len(got) < len(wanted):
            got += [-2] * (len(wanted) - len(got))
        for index, (status, allowed) in enumerate(zip(got, wanted, strict=False)):
            if status not in allowed:
                shown = "/".join(_word(one) for one in sorted(allowed)) if len(allowed) < 9 else "a denial"
                verdict.problems.append(f"answer {index + 1}: {_word(status)}, expected {shown}")
        if len(got) > len(wanted) and wanted:
            verdict.problems.append(f"{len(got)} answers, expected {len(wanted)}: {got}")
        bytes_problems = len(verdict.problems)
        limit = float(want.get("within_s", 1.0))
        for index, answer in enumerate(observed.answers[: len(wanted) or 1]):
            if answer.at_s > limit:
                verdict.problems.append(f"answer {index + 1} after {answer.at_s:.2f} s, limit {limit:g} s")
        verdict.slow_only = bytes_problems == 0 and bool(verdict.problems)
        joined = bytes(observed.received)
        for expression in _list(want.get("sees")):
            if build(expression, values) not in joined:
                verdict.problems.append(f"the client did not see {build(expression, values)[:80]!r}")
                verdict.slow_only = False
        for expression in _list(want.get("not_sees")):
            if build(expression, values).lower() in joined.lower():
                verdict.problems.append(f"the client saw {build(expression, values)[:80]!r}")
                verdict.slow_only = False
        # Inside TLS the lane lingers for a second, so that the client reads the denial before the end.
        if want.get("closed") and not run.secure and not observed.closed:
            verdict.problems.append("the connection stayed open")

    def _judge_records(self, run: Run, records: list[tuple[dict[str, Any], str]], verdict: Verdict) -> None:
        want = run.want
        outcome = want.get("outcome", "denied")
        for one, line in records:
            if one.get("code") and one.get("outcome") == "denied":
                verdict.codes[str(one["code"])] += 1
            if run.values.get("SSN", self.world.values["SSN"]) in line:
                verdict.problems.append("an audit record holds the SSN")
        wanted = want.get("records", _expected_records(run))
        if isinstance(wanted, int) and len(records) != wanted:
            brief = [(one.get("outcome"), one.get("code")) for one, _ in records]
            verdict.problems.append(f"{len(records)} audit records, expected {wanted}: {brief}")
        codes = _list(want.get("code"))
        denials = [one for one, _ in records if one.get("outcome") != "allowed"]
        if codes and outcome == "denied":
            got = {str(one.get("code")) for one in denials}
            if not got & set(map(str, codes)) or got - set(map(str, codes)):
                details = [(one.get("code"), one.get("detail")) for one in denials]
                verdict.problems.append(f"reason {details}, expected {'/'.join(map(str, codes))}")
        if outcome == "denied" and wanted != 0 and isinstance(wanted, int) and not denials:
            verdict.problems.append("no record says denied")
        if outcome == "served" and denials and not codes:
            verdict.problems.append(f"denied: {[(one.get('code'), one.get('detail')) for one in denials]}")
        if "inspected" in want and not any(str(one.get("inspected", "")) == want["inspected"] for one, _ in records):
            verdict.problems.append(f"inspected={[one.get('inspected') for one, _ in records]}")

    def _judge_legal(self, run: Run, verdict: Verdict) -> None:
        if run.spec.get("legal") is False:
            return
        for attempt in range(2):
            observed = attack(_LEGAL, self.world.gate(_LEGAL), lambda _: None)
            if observed.answers and observed.answers[0].status == 200:
                return
            if self.world.baseline:
                return
            if attempt == 0:
                time.sleep(0.2)
        verdict.problems.append(f"a legal request right after fails: {_summary(observed)}")

    def check_metrics(self, before: Counter[str], codes: Counter[str]) -> list[str]:
        """Assertion 4 over a whole case: the metric grew by exactly the denials that were recorded."""
        if self.world.baseline:
            return []
        grown: Counter[str] = Counter()

        def equal() -> bool:
            grown.clear()
            grown.update({code: n - before[code] for code, n in self.world.metrics().items() if n != before[code]})
            return grown == codes

        if wait_until(equal, _METRIC_WAIT_S):
            return []
        return [f"egress_denied_total grew by {dict(grown)}, the trail says {dict(codes)}"]


def _served_instead(run: Run, observed: Observed, verdict: Verdict) -> None:
    """For a baseline: 200 (or a tunnel) where a denial must stand, or a certificate for a name that must have none."""
    first = observed.answers[0].status if observed.answers else 0
    signed = run.secure and run.want.get("status") == ["close"] and first > 0
    if run.want.get("outcome", "denied") == "denied" and (first in {101, 200} or signed):
        verdict.problems.append(f"answered {first}" if first in {101, 200} else "a certificate was signed")
        verdict.leaked = True


def _strange(one: Accepted) -> bool:
    return one.requests == 0 and bool(one.raw) and not re.match(rb"(?:[A-Z]+ [!-~]+ HTTP/1|PRI \*)", bytes(one.raw))


def _expected_records(run: Run) -> int:
    if "answers" in run.want:
        return len(run.want["answers"])
    return 1


def _is_pause(part: Any) -> bool:
    return isinstance(part, dict) and "pause_s" in part


def _plain_ip(ip: str) -> str:
    return ip.removeprefix("::ffff:")


def _statuses(one: Any) -> set[int]:
    words = {"close": 0, "nothing": -2}
    listed = one if isinstance(one, list) else [one]
    return {words[status] if status in words else int(status) for status in listed}


def _word(status: int) -> str:
    return {0: "close", -2: "nothing", -1: "not HTTP"}.get(status, str(status))


def _list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _built(names: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {build(name, values).decode(): [_place(one, values) for one in answers] for name, answers in names.items()}


def _place(answer: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(answer, list):
        return [build(str(one), values).decode() for one in answer]
    if isinstance(answer, dict) and "cname" in answer:
        return {"cname": build(answer["cname"], values).decode()}
    return answer


def _summary(observed: Observed) -> str:
    answers = ",".join(_word(one.status) for one in observed.answers) or "nothing"
    extra = observed.error or observed.tls_error
    return f"{answers}{' closed' if observed.closed else ''}{f' ({extra[:80]})' if extra else ''}"
