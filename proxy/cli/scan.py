"""`egress scan`: runs the detection engine over a file, a request body, or many texts (`--jsonl`)."""

import argparse
import base64
import binascii
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxy.cli import EXIT_CLEAN, EXIT_FINDINGS, CliError, Verb
from proxy.cli._out import show, table
from proxy.model import Finding, Headers, InspectJob

if TYPE_CHECKING:
    from proxy.recognizers.engine import Engine

_PROFILES: Final = ("strict", "balanced", "paranoid")
_BATCH_LINES: Final = 256
_PROGRESS_EVERY: Final = 1024


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="what to look at; - for standard input")
    parser.add_argument(
        "--content-type", metavar="TYPE", help="treat it as a request body of this type, e.g. application/json"
    )
    parser.add_argument("--content-encoding", metavar="CODING", help="the body's coding, e.g. gzip")
    parser.add_argument(
        "--profile", choices=_PROFILES, default="balanced", help="how much to doubt (default: balanced)"
    )
    parser.add_argument(
        "--jsonl", action="store_true", help="one JSON object a line in (id and text, or id and body_b64), one out"
    )
    parser.add_argument("--show-text", action="store_true", help="print the found text too")


def _run(args: argparse.Namespace) -> int:
    data = _read(args.file)
    scanner = Scanner(args.profile, show_text=args.show_text)
    if args.jsonl:
        return _scan_lines(data, scanner)
    if args.content_type or args.content_encoding:
        result = scanner.body(data, args.content_type or "", args.content_encoding or "")
        text = ""
    else:
        text = _text(data, args.file)
        result = {"findings": scanner.texts([text])[0]}
    show(args, {"file": args.file, "profile": args.profile, **result}, _report(result, text, show_text=args.show_text))
    return EXIT_FINDINGS if result["findings"] or "error" in result else EXIT_CLEAN


def _read(name: str) -> bytes:
    return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CliError(
            f"this is no UTF-8 text (byte {error.start})", name,
            "say what it is with `--content-type` (and `--content-encoding`), as the request would",
        ) from None  # fmt: skip


class _Recorder:
    """Passes texts on to the engine and keeps them with their findings, so that `--show-text` can quote."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self.seen: list[tuple[str, Finding]] = []

    def detect(
        self, texts: Sequence[str], profile: str = "balanced", entities: frozenset[str] | None = None
    ) -> list[list[Finding]]:
        found = self._engine.detect(texts, profile, entities)
        self.seen += [(text, finding) for text, findings in zip(texts, found, strict=True) for finding in findings]
        return found

    def quote(self, wanted: Finding) -> str | None:
        for text, finding in self.seen:
            if (finding.entity, finding.start, finding.end) == (wanted.entity, wanted.start, wanted.end):
                return text[finding.start : finding.end]
        return None


class Scanner:
    """The engine, loaded on first use; results as JSON values."""

    def __init__(self, profile: str, *, show_text: bool) -> None:
        self._profile = profile
        self._show_text = show_text
        self._loaded: Engine | None = None

    @property
    def _engine(self) -> "Engine":
        if self._loaded is None:
            from proxy.recognizers.base import ModelUnavailable
            from proxy.recognizers.engine import Engine

            try:
                self._loaded = Engine.load()
            except ModelUnavailable as missing:
                raise CliError(missing.what, "detection engine", missing.fix) from None
        return self._loaded

    def texts(self, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        """Findings of each text; offsets in its characters."""
        found = self._engine.detect(texts, self._profile)
        return [
            [self._fields(finding, text[finding.start : finding.end]) for finding in findings]
            for text, findings in zip(texts, found, strict=True)
        ]

    def body(self, data: bytes, content_type: str, content_encoding: str) -> dict[str, Any]:
        """Findings of a request body, as the proxy sees it: `view` names the part, offsets are in its decoded text.

        `error` holds the code and detail when the proxy would refuse the body as such.
        """
        from proxy.config.snapshot import DlpPolicy
        from proxy.errors import Denied
        from proxy.inspection import inspect

        fields = ((b"content-type", content_type), (b"content-encoding", content_encoding))
        headers: Headers = tuple((name, value.encode("latin-1", "replace")) for name, value in fields if value)
        policy = DlpPolicy(self._profile, (), "redact")  # type: ignore[arg-type]
        job = InspectJob("scan", policy, "POST", "/", headers, data, bytes(32))
        recorder = _Recorder(self._engine)
        try:
            verdict = inspect(job, recorder, now_s=0.0)
        except Denied as denied:
            return {"findings": [], "error": {"code": denied.code, "detail": denied.detail}}
        findings = [
            {"view": finding.location, **self._fields(finding, recorder.quote(finding))} for finding in verdict.findings
        ]
        if verdict.action == "block":
            return {"findings": findings, "error": {"code": verdict.code, "detail": verdict.detail}}
        return {"findings": findings}

    def _fields(self, finding: Finding, text: str | None) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "entity": finding.entity, "start": finding.start, "end": finding.end, "score": round(finding.score, 4),
            "recognizer": finding.recognizer,
        }  # fmt: skip
        return fields | {"text": text} if self._show_text and text is not None else fields


def _scan_lines(data: bytes, scanner: Scanner) -> int:
    rows = _rows(data)
    found = False
    done = 0
    while batch := list(islice(rows, _BATCH_LINES)):
        for result in _scan_batch(batch, scanner):
            found = found or bool(result["findings"]) or "error" in result
            sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
        done += len(batch)
        if sys.stderr.isatty() and done % _PROGRESS_EVERY == 0:
            sys.stderr.write(f"\r{done} lines")
    return EXIT_FINDINGS if found else EXIT_CLEAN


def _rows(data: bytes) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or "id" not in row or not _has_content(row):
            raise CliError(
                "not a JSON object with `id` and `text` (or `body_b64`)", f"line {number}",
                'write one object a line, such as {"id": 1, "text": "…"}',
            )  # fmt: skip
        yield row


def _has_content(row: Mapping[str, Any]) -> bool:
    if isinstance(row.get("text"), str):
        return True
    try:
        base64.b64decode(row["body_b64"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        return False
    return True


def _scan_batch(batch: Sequence[Mapping[str, Any]], scanner: Scanner) -> Iterator[dict[str, Any]]:
    texts = iter(scanner.texts([row["text"] for row in batch if isinstance(row.get("text"), str)]))
    for row in batch:
        if isinstance(row.get("text"), str):
            yield {"id": row["id"], "findings": next(texts)}
        else:
            body = base64.b64decode(row["body_b64"])
            kind, coding = str(row.get("content_type") or ""), str(row.get("content_encoding") or "")
            yield {"id": row["id"], **scanner.body(body, kind, coding)}


def _report(result: Mapping[str, Any], text: str, *, show_text: bool) -> str:
    findings = result["findings"]
    lines = []
    if "error" in result:
        lines.append(f"the proxy would refuse this body: {result['error']['code']}: {result['error']['detail']}")
    if not findings:
        return "\n".join(lines or ["nothing found"])
    header = ["entity", "where", "score", "recognizer", *(["text"] if show_text else [])]
    rows = [
        [item["entity"], _place(item, text), item["score"], item["recognizer"], *([_quoted(item)] if show_text else [])]
        for item in findings
    ]
    return "\n".join([*lines, table(header, rows), f"{len(findings)} finding{'s' * (len(findings) != 1)}"])


def _quoted(item: Mapping[str, Any]) -> str:
    """One line, without control characters that would act on the terminal."""
    return json.dumps(item.get("text", ""), ensure_ascii=False)


def _place(item: Mapping[str, Any], text: str) -> str:
    if "view" in item:
        return f"{item['view']} {item['start']}-{item['end']}"
    line = text.count("\n", 0, item["start"]) + 1
    column = item["start"] - (text.rfind("\n", 0, item["start"]) + 1) + 1
    return f"{line}:{column}"


VERB: Final = Verb("scan", "look for personal data and secrets in a file, a body or many texts", _configure, _run)
