"""Wire cases: YAML in, runs out. The schema is in README.md beside this file.

Every expression of bytes is a string with `${NAME}` places, a list (joined), or one operator with its operand, such as
`{gzip: "text"}`. Nothing here does I/O but `load`, which reads the files.
"""

import base64
import copy
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_from_bytes

import brotli
import yaml
import zstandard

from tests import shared_data
from tests.attack import hello
from tests.attack.frames import frame

HERE: Final = Path(__file__).parent
MODES: Final = ("explicit", "connect", "connect-plain", "h2", "transparent", "transparent-tls", "transparent-h2")
_PLACE = re.compile(r"\$\{(\w+)\}")
SSN: Final = "123-45-6789"


class CaseError(ValueError):
    """A case file that cannot be understood: names file and case."""


@dataclass(frozen=True)
class Run:
    """One variant of a case in one mode, with everything but the world's own names decided."""

    case: str
    variant: str
    mode: str
    spec: Mapping[str, Any]
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.case}[{self.variant}] {self.mode}" if self.variant else f"{self.case} {self.mode}"

    @property
    def secure(self) -> bool:
        """True where the client speaks TLS."""
        return self.mode not in {"explicit", "connect-plain", "transparent"}

    @property
    def want(self) -> Mapping[str, Any]:
        wanted: Mapping[str, Any] = self.spec.get("want", {})
        return wanted


# ---------------------------------------------------------------- bytes


def _chunked(operand: Any, build: Callable[[Any], bytes]) -> bytes:
    if not isinstance(operand, dict):
        body = build(operand)
        return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    body, extension = build(operand.get("of", "")), build(operand.get("ext", ""))
    size = int(operand.get("size", 0)) or len(body) or 1
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    lines = b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts)
    return lines + b"0\r\n" + build(operand.get("trailers", "")) + b"\r\n"


def _json_escapes(data: bytes) -> bytes:
    return "".join(f"\\u{ord(char):04x}" for char in data.decode()).encode()


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


_CODECS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "deflate": zlib.compress,
    "raw_deflate": _raw_deflate,
    "br": brotli.compress,
    "zstd": _zstd,
    "base64": base64.b64encode,
    "base64url": base64.urlsafe_b64encode,
    "unbase64": lambda data: base64.b64decode(data),
    "hex": lambda data: data.hex().encode(),
    "unhex": lambda data: bytes.fromhex(data.decode()),
    "percent": lambda data: "".join(f"%{byte:02X}" for byte in data).encode(),
    "quote": lambda data: quote_from_bytes(data, safe="").encode(),
    "json_escapes": _json_escapes,
    "utf16le": lambda data: data.decode().encode("utf-16-le"),
    "utf16be": lambda data: data.decode().encode("utf-16-be"),
    "utf16bom": lambda data: data.decode().encode("utf-16"),
    "utf32le": lambda data: data.decode().encode("utf-32-le"),
    "utf32bom": lambda data: data.decode().encode("utf-32"),
    "utf7": lambda data: data.decode().encode("utf-7"),
    "ebcdic": lambda data: data.decode().encode("cp500"),
    "fullwidth": lambda data: data.decode().translate({n: n + 0xFEE0 for n in range(0x21, 0x7F)}).encode(),
}


def build(expression: Any, values: Mapping[str, Any]) -> bytes:  # noqa: C901 - one arm per operator
    """The bytes of an expression. `values`: what `${NAME}` stands for (text, bytes, or an expression)."""
    if isinstance(expression, bytes):
        return expression
    if isinstance(expression, int):
        return str(expression).encode()
    if isinstance(expression, str):
        return _text(expression, values)
    if isinstance(expression, list):
        return b"".join(build(part, values) for part in expression)
    if not isinstance(expression, dict) or len(expression) != 1:
        raise CaseError(f"not an expression: {expression!r}")
    [(operator, operand)] = expression.items()

    def inner(part: Any) -> bytes:
        return build(part, values)

    if operator in _CODECS:
        return _CODECS[operator](inner(operand))
    match operator:
        case "chunked":
            return _chunked(operand, inner)
        case "list":
            return inner(operand)
        case "repeat":
            return inner(operand[0]) * int(operand[1])
        case "message":
            body = inner(operand.get("body", ""))
            return build(operand["head"], {**values, "LEN": str(len(body))}) + body
        case "gzip_zeros":
            return gzip.compress(bytes(int(operand) << 20), mtime=0)
        case "br_zeros":
            return bytes(brotli.compress(bytes(int(operand) << 20)))
        case "zstd_zeros":
            return _zstd(bytes(int(operand) << 20))
        case "frame":
            payload = inner(operand.get("payload", ""))
            if operand.get("deflate"):
                packer = zlib.compressobj(wbits=-15)
                payload = (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
            flags = {name: operand[name] for name in ("fin", "rsv", "masked", "claim") if name in operand}
            return frame(int(operand.get("opcode", 1)), payload, **flags)
        case "hello":
            return hello.records(hello.hello(hello.server_names(inner(operand))))
        case "hello_records":
            return hello.records(hello.hello(hello.server_names(inner(operand[0]))), int(operand[1]))
        case "hello_names":
            return hello.records(hello.hello(hello.server_names(*(inner(name) for name in operand))))
        case "hello_twice":
            return hello.twice([inner(name) for name in operand])
        case "hello_padded":
            return hello.padded(inner(operand[0]), int(operand[1]))
        case "hello_ech":
            return hello.ech(inner(operand))
        case "slice":
            return inner(operand[0])[slice(*operand[1:])]
    raise CaseError(f"no operator {operator!r}")


def _text(text: str, values: Mapping[str, Any]) -> bytes:
    parts: list[bytes] = []
    at = 0
    for found in _PLACE.finditer(text):
        parts.append(_encode(text[at : found.start()]))
        if found[1] not in values:
            raise CaseError(f"nothing is called ${{{found[1]}}}")
        parts.append(build(values[found[1]], values))
        at = found.end()
    parts.append(_encode(text[at:]))
    return b"".join(parts)


def _encode(text: str) -> bytes:
    # "\xff" in a case is that octet; text beyond Latin-1 can only mean UTF-8.
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


# ---------------------------------------------------------------- cases

_SPEC_KEYS: Final = frozenset((
    "id", "title", "modes", "needs", "from", "to", "connect", "sni", "alpn", "tls", "early", "send", "steps", "answer",
    "dns", "want", "variants", "rows", "h2", "port", "values", "legal", "client_tls", "repeat",
))  # fmt: skip
_WANT_KEYS: Final = frozenset((
    "outcome", "status", "code", "dial", "queries", "sees", "not_sees", "upstream", "not_upstream", "records",
    "answers", "within_s", "token", "ssn", "closed", "inspected",
))  # fmt: skip


def load(files: list[Path]) -> list[dict[str, Any]]:
    """All cases of the files, checked. CaseError names what is wrong."""
    cases: list[dict[str, Any]] = []
    for file in files:
        loaded = yaml.safe_load(file.read_text())
        for case in loaded["cases"] if isinstance(loaded, dict) else loaded:
            unknown = set(case) - _SPEC_KEYS | set(case.get("want", {})) - _WANT_KEYS
            if unknown:
                raise CaseError(f"{file.name}: {case.get('id')}: unknown {', '.join(sorted(unknown))}")
            case["_dir"] = str(file.parent)
            cases.append(case)
    return cases


def runs(case: Mapping[str, Any]) -> Iterator[Run]:
    """Every variant of a case in every mode."""
    for name, overlay in _variants(case):
        spec = {key: value for key, value in case.items() if key not in {"variants", "rows", "_dir"}}
        values = dict(spec.pop("values", {}))
        for key, value in overlay.items():
            if key == "want":
                spec["want"] = {**spec.get("want", {}), **value}
            elif key in _SPEC_KEYS - {"id"}:
                spec[key] = value
            elif key != "name":
                values[key] = value
        for mode in spec.get("modes", ["explicit"]):
            if mode not in MODES:
                raise CaseError(f"{case['id']}: no mode {mode}")
            yield Run(case["id"], name, mode, copy.deepcopy(spec), values)


def absent(case: Mapping[str, Any]) -> str:
    """The file of the case's rows where that is not on this machine, else ""."""
    return "" if case.get("rows") is None or _row_files(case) else str(case["rows"]["file"])


def _row_files(case: Mapping[str, Any]) -> list[Path]:
    """Beside the file of the case, else among the development data."""
    name = case["rows"]["file"]
    own = sorted(Path(case.get("_dir", HERE)).glob(name))
    return own or sorted((shared_data.ROOT / "security").glob(name))


def _rows(case: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Objects of JSON lines, or each `line` of other text; of several files each whole: `name`, `kind` (first letter),
    `raw`."""
    files = _row_files(case)
    if "*" in case["rows"]["file"]:
        for file in files:
            yield {"name": file.name, "kind": file.name[0], "raw_b64": base64.b64encode(file.read_bytes()).decode()}
        return
    for file in files:
        lines = file.read_text().splitlines()
        yield from (json.loads(line) if file.suffix == ".jsonl" else {"line": line} for line in lines if line.strip())


def _variants(case: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    rows = case.get("rows")
    if rows is None:
        for index, variant in enumerate(case.get("variants") or [{}]):
            label = str(variant.get("name", index)) if case.get("variants") else ""
            yield label, variant
        return
    skip = set(rows.get("skip", ()))
    only = set(rows.get("only", ()))
    for index, row in enumerate(_rows(case)):
        name = str(row.get(rows.get("name", "name"), index))
        if index % int(rows.get("every", 1)) or name in skip or (only and name not in only):
            continue
        values: dict[str, Any] = {}
        for key, value in row.items():
            if key.endswith("_b64"):
                values[key.removesuffix("_b64")] = base64.b64decode(value).replace(b"%T", b"$T$")
            elif isinstance(value, str):
                values[key] = value
        for key, value in list(values.items()):
            if isinstance(value, bytes) and b"$T$" in value:
                before, *rest = value.split(b"$T$")
                values[key] = [before, *(part for tail in rest for part in ("${T}", tail))]
        overlay: dict[str, Any] = dict(values)
        for rule in rows.get("by", ()):
            if re.fullmatch(str(rule["match"]), str(row.get(rule["field"], "")), re.DOTALL):
                overlay.update({key: value for key, value in rule.items() if key not in {"match", "field"}})
                break
        yield name, {"name": name, **overlay}
