"""`apps/*.test.yaml`: requests in, and what policy, upstream and app must then see. Parsed here, run elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from proxy.config.errors import Problems
from proxy.config.scalars import BOOLEAN, ENTITY, HEADER, INSTANT, METHOD, NAME, TEXT, USD, enum, integer, pattern
from proxy.config.schema import VERSION
from proxy.config.tree import Map, Node, Scalar, Seq, parse_yaml
from proxy.config.types import BadValue, Field, Leaf, ListOf, MapOf, Obj, Reader, Rec, Val
from proxy.errors import REASONS


@dataclass(frozen=True, slots=True)
class CaseRequest:
    """What the app sends. `body` is ready for the wire; `content_type` goes with it unless a header says otherwise."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class CaseAnswer:
    """What the upstream answers. `echo`: it sends the request's body back, so that restoring shows."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    content_type: str = ""
    echo: bool = False


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must come of it; None or empty: not looked at. `upstream_*`: texts that what left must (not) hold;
    `answer_*`: texts that the app's answer must (not) hold. `reached` False: nothing may have left."""

    decision: str
    code: str | None = None
    rule: str | None = None
    reached: bool | None = None
    status: int | None = None
    entities: tuple[str, ...] = ()
    upstream_contains: tuple[str, ...] = ()
    upstream_lacks: tuple[str, ...] = ()
    answer_contains: tuple[str, ...] = ()
    answer_lacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyCase:
    """One test. `at` is its `file:line:col`; `now_s` None: the present; `spent_*`: money spent before, nano-dollars."""

    name: str
    app: str
    request: CaseRequest
    answer: CaseAnswer
    expect: Expectation
    at: str
    now_s: float | None = None
    spent_today_usd_nanos: int = 0
    spent_this_month_usd_nanos: int = 0


class _FreeJson:
    """Any YAML as JSON: plain true, false, null and JSON numbers are that, everything else is text."""

    example = '{messages: [{role: user, content: "hello"}]}'

    def read(self, node: Node, reader: Reader) -> Val | None:
        del reader
        value = self._value(node)
        return Val(value, value, node.mark)

    def _value(self, node: Node) -> Any:
        if isinstance(node, Map):
            return {key: self._value(child) for key, (_, child) in node.pairs.items()}
        if isinstance(node, Seq):
            return [self._value(child) for child in node.items]
        return self._scalar(node)

    def _scalar(self, node: Scalar) -> Any:
        if not node.plain:
            return node.text
        try:
            value = orjson.loads(node.text)
        except orjson.JSONDecodeError:
            return node.text
        return value if value is None or isinstance(value, bool | int | float) else node.text

    def json_schema(self) -> dict[str, Any]:
        return {}


def _url(text: str) -> tuple[str, str]:
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http", "wss", "ws") or not parts.hostname or any(ord(c) <= 0x20 for c in text):
        raise BadValue(f"{text[:80]!r} is not a URL", "for example https://api.openai.com/v1/chat/completions")
    return text, text


def _any_text(text: str) -> tuple[str, str]:
    return text, text


URL: Final = Leaf("a URL", _url, "https://api.openai.com/v1/chat/completions")
BODY_TEXT: Final = Leaf("a text", _any_text, '"name,amount"')
HEADERS: Final = MapOf(HEADER, BODY_TEXT)
JSON: Final = _FreeJson()
STATUS: Final = integer("an HTTP status", 100, 599, 200)
CONTENT_TYPE: Final = pattern("a content type", r"[!-~]+/[ -~]+", "text/csv")
TEXTS: Final = ListOf(BODY_TEXT)
_MESSAGE: Final = (
    Field("headers", HEADERS, "Header fields."),
    Field("json", JSON, "A JSON body."),
    Field("text", BODY_TEXT, "A text body."),
    Field("content_type", CONTENT_TYPE, "Of a text body; default text/plain."),
)

CASE: Final = Obj("a test", [
    Field("name", TEXT, "What must hold, as a sentence.", True),
    Field("request", Obj("a request", [
        Field("method", METHOD, "Default POST with a body, else GET."),
        Field("url", URL, "Where to.", True),
        *_MESSAGE,
    ]), "What the app sends.", True),
    Field("given", Obj("what is given", [
        Field("now", INSTANT, "The time of the request; default: the present."),
        Field("spent_today_usd", USD, "Money that the app has spent today."),
        Field("spent_this_month_usd", USD, "Money that the app has spent this month."),
    ]), "The state before."),
    Field("answer", Obj("an answer", [
        Field("status", STATUS, "Default 200."),
        Field("echo", BOOLEAN, "true: the upstream sends back the text that it got, as its API would."),
        *_MESSAGE,
    ]), "What the upstream answers; default: echo."),
    Field("expect", Obj("what is expected", [
        Field("decision", enum("a decision", "allow", "redact", "deny", "reply"), "What the proxy does.", True),
        Field("code", enum("a reason code", *REASONS), "Of a denial."),
        Field("rule", pattern("a rule", r"[a-z0-9._/-]+", "openai"), "The entry that allowed or the rule that denied."),
        Field("status", STATUS, "That the app gets."),
        Field("reached", BOOLEAN, "Whether anything reached the upstream; a denial must say nothing or false."),
        Field("entities", ListOf(ENTITY), "Entities that must be found."),
        Field("upstream", Obj("what the upstream saw", [
            Field("contains", TEXTS, "Texts that left."),
            Field("lacks", TEXTS, "Texts that did not leave."),
        ]), "What left."),
        Field("answer", Obj("what the app got", [
            Field("contains", TEXTS, "Texts in the app's answer."),
            Field("lacks", TEXTS, "Texts not in the app's answer."),
        ]), "What came back."),
    ]), "What must come of it.", True),
])  # fmt: skip

TEST_FILE: Final = Obj("a test file", [
    VERSION,
    Field("app", NAME, "The app under test.", True),
    Field("tests", ListOf(CASE), "The tests.", True),
])  # fmt: skip


def parse_tests(data: bytes, file: str) -> tuple[PolicyCase, ...]:
    """The tests of one `.test.yaml`. Raises ConfigErrors with all mistakes at once. Pure."""
    problems = Problems()
    node = parse_yaml(data, file, problems)
    reader = Reader(problems, lambda name: name)
    found = TEST_FILE.read(node, reader) if node is not None else None
    cases = [_case(item, found.value.get("app", ""), problems) for item in found.value.items("tests")] if found else []
    problems.raise_if_any()
    return tuple(case for case in cases if case is not None)


def _case(item: Val, app: str, problems: Problems) -> PolicyCase | None:
    rec: Rec = item.value
    request, expect = rec.rec("request"), rec.rec("expect")
    given, answer = rec.rec("given"), rec.rec("answer")
    for message in (request, answer):
        if message is not None and "json" in message and "text" in message:
            problems.add(message.at("text"), "`json:` and `text:` together", "keep one of the two")
    if request is None or expect is None:
        return None
    _check_expectation(expect, problems)
    return PolicyCase(
        name=rec.get("name", ""),
        app=app,
        request=_request(request),
        answer=_answer(answer),
        expect=_expectation(expect),
        at=str(item.mark),
        now_s=given.get("now") if given else None,
        spent_today_usd_nanos=given.get("spent_today_usd", 0) if given else 0,
        spent_this_month_usd_nanos=given.get("spent_this_month_usd", 0) if given else 0,
    )


def _check_expectation(expect: Rec, problems: Problems) -> None:
    denied = expect.get("decision") == "deny"
    if denied and "code" not in expect:
        problems.add(expect.at("decision"), "a denial needs its reason", "add for example `code: pii`")
    if not denied and "code" in expect:
        problems.add(expect.at("code"), "a code belongs to a denial", "remove it, or expect `decision: deny`")
    if denied and expect.get("reached") is True:
        problems.add(expect.at("reached"), "a denial lets nothing out", "reached: false")


def _body(rec: Rec) -> tuple[bytes, str]:
    if "json" in rec.fields:
        return orjson.dumps(rec.get("json")), "application/json"
    text: str | None = rec.get("text")
    return (b"", "") if text is None else (text.encode(), rec.get("content_type", "text/plain; charset=utf-8"))


def _headers(rec: Rec) -> tuple[tuple[str, str], ...]:
    headers = rec.rec("headers")
    return tuple((name, value.value) for name, value in _pairs(headers).items())


def _pairs(rec: Rec | None) -> Mapping[str, Val]:
    return rec.fields if rec else {}


def _request(rec: Rec) -> CaseRequest:
    body, content_type = _body(rec)
    method = rec.get("method") or ("POST" if body else "GET")
    return CaseRequest(method, rec.get("url", ""), _headers(rec), body, content_type)


def _answer(rec: Rec | None) -> CaseAnswer:
    if rec is None:
        return CaseAnswer(echo=True)
    body, content_type = _body(rec)
    return CaseAnswer(rec.get("status", 200), _headers(rec), body, content_type, echo=rec.get("echo", not body))


def _expectation(rec: Rec) -> Expectation:
    upstream, answer = rec.rec("upstream"), rec.rec("answer")
    return Expectation(
        decision=rec.get("decision", "deny"),
        code=rec.get("code"),
        rule=rec.get("rule"),
        reached=rec.get("reached"),
        status=rec.get("status"),
        entities=rec.plain("entities"),
        upstream_contains=upstream.plain("contains") if upstream else (),
        upstream_lacks=upstream.plain("lacks") if upstream else (),
        answer_contains=answer.plain("contains") if answer else (),
        answer_lacks=answer.plain("lacks") if answer else (),
    )
