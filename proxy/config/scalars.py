"""The scalar types of the policy files: each a parser of text, an example that works, and its JSON Schema."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final

from proxy.config.errors import nearest, shown
from proxy.config.snapshot import HostPattern
from proxy.config.types import BadValue, Leaf
from proxy.net.names import canonical_host, canonical_path, is_ip_literal

_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}:\d{2}(?:Z|[+-]\d{2}:\d{2}))?\Z")
_SIZE = re.compile(r"(\d{1,9})(B|KiB|MiB|GiB)\Z")
_DURATION = re.compile(r"(\d{1,9})([smhd])\Z")
_USD = re.compile(r"\d{1,9}(?:\.\d{1,9})?\Z")
_RATE = re.compile(r"\d{1,6}(?:\.\d{1,6})?\Z")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110 section 5.6.2
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_SEGMENT_WILDCARDS: Final = ("*", "**")
_UNITS_BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_BODY_BYTES: Final = 64 << 20  # half of a worker's body budget (128 MiB), so that one request cannot starve all
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def enum(what: str, *words: str) -> Leaf:
    """One of a few words."""

    def parse(text: str) -> tuple[str, str]:
        if text not in words:
            near = nearest(text, words)
            fix = f"did you mean {near}?" if near else f"one of: {', '.join(words)}"
            raise BadValue(f"{shown(text)} is not {what}", fix)
        return text, text

    return Leaf(what, parse, words[0], {"enum": list(words)})


def pattern(what: str, expression: str, example: str, hint: str = "") -> Leaf:
    """A text of a given form."""
    compiled = re.compile(rf"(?:{expression})\Z")

    def parse(text: str) -> tuple[str, str]:
        if not compiled.match(text):
            raise BadValue(f"{shown(text)} is not {what}", f"{hint}for example {example}")
        return text, text

    return Leaf(what, parse, example, {"type": "string", "pattern": f"^(?:{expression})$"})


def integer(what: str, least: int, most: int, example: int) -> Leaf:
    """A decimal number without sign, leading zeros, exponent or separators."""

    def parse(text: str) -> tuple[int, int]:
        if not re.fullmatch(r"0|[1-9][0-9]{0,17}", text):
            raise BadValue(f"{shown(text)} is not {what}", f"a whole number in plain digits, for example {example}")
        if not least <= int(text) <= most:
            raise BadValue(f"{text} is outside {least} to {most}", f"for example {example}")
        return int(text), int(text)

    return Leaf(what, parse, str(example), {"type": "integer", "minimum": least, "maximum": most})


def _boolean(text: str) -> tuple[bool, bool]:
    if text not in ("true", "false"):
        raise BadValue(f"{shown(text)} is neither true nor false", "true, or false")
    return text == "true", text == "true"


def _instant(text: str) -> tuple[float, str]:
    if not _INSTANT.match(text):
        raise BadValue(f"{shown(text)} is not a date or an instant", "2027-03-31 (00:00 UTC) or 2027-03-31T18:00:00Z")
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadValue(f"there is no such date or time: {shown(text)}", "for example 2027-03-31") from error
    return moment.timestamp(), moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _size(text: str) -> tuple[int, str]:
    found = _SIZE.match(text)
    if not found:
        raise BadValue(f"{shown(text)} is not a size", "a whole number with B, KiB or MiB, for example 4MiB")
    size = int(found[1]) * _UNITS_BYTES[found[2]]
    if not 1 <= size <= MAX_BODY_BYTES:
        raise BadValue(f"{text} is outside 1B to {MAX_BODY_BYTES >> 20}MiB", "for example 4MiB")
    return size, _largest_unit(size, _UNITS_BYTES)


def _largest_unit(amount: int, units: dict[str, int]) -> str:
    name, factor = max(((name, one) for name, one in units.items() if amount % one == 0), key=lambda unit: unit[1])
    return f"{amount // factor}{name}"


def _duration(text: str) -> tuple[int, str]:
    found = _DURATION.match(text)
    if not found or not int(found[1]):
        raise BadValue(f"{shown(text)} is not a duration", "a whole number with s, m, h or d, for example 10m")
    seconds = int(found[1]) * _UNITS_S[found[2]]
    if seconds > 30 * 86400:
        raise BadValue(f"{text} is longer than 30d", "for example 10m")
    return seconds, _largest_unit(seconds, _UNITS_S)


def _usd(text: str) -> tuple[int, str]:
    if not _USD.match(text):
        raise BadValue(f"{shown(text)} is not an amount of dollars", "plain digits, for example 20 or 0.50")
    amount = Decimal(text)
    return int(amount * 10**9), _decimal(amount)


def _rate(text: str) -> tuple[int, str]:
    """USD per million tokens -> pico-dollars per token, exactly (hence at most six decimals)."""
    if not _RATE.match(text):
        raise BadValue(
            f"{shown(text)} is not a price in USD per million tokens", "at most six decimals, for example 0.30"
        )
    amount = Decimal(text)
    return int(amount * 10**6), _decimal(amount)


def _decimal(amount: Decimal) -> str:
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _port(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or int(text) > 65535:
        raise BadValue(f"{shown(text)} is not a port", "a number from 1 to 65535, for example 443")
    return int(text), int(text)


def _host_of(text: str) -> str:
    if "://" in text:
        bare = text.partition("://")[2].partition("/")[0].rpartition("@")[2].partition(":")[0]
        raise BadValue(
            f"{shown(text)} is a URL, not a host", f"host: {bare or 'api.example.com'} (path and port apart)"
        )
    try:
        host = canonical_host(text)
    except ValueError as error:
        hint = str(error).rpartition(": ")[2] if "A-labels: " in str(error) else _host_hint(text)
        raise BadValue(f"{shown(text)} is not a host: {error}", hint) from error
    if host != text:
        raise BadValue(f"{shown(text)} is not the canonical spelling of the host", f"write {host}")
    return host


def _host_hint(text: str) -> str:
    name = text.strip().partition("/")[0].partition(":")[0].strip(".")
    try:
        return f"write {canonical_host(name)} (port and path have keys of their own)"
    except ValueError:
        return "for example api.example.com"


def _exact_host(text: str) -> tuple[str, str]:
    if "*" in text:
        raise BadValue(f"{shown(text)}: no wildcard may stand here", "for example api.example.com")
    host = _host_of(text)
    return host, host


def _host_pattern(text: str, *, least_labels: int) -> tuple[HostPattern, str]:
    if "*" not in text:
        return HostPattern(_host_of(text), wildcard=False), text
    suffix = text.removeprefix("*.")
    clean = suffix.strip("*.")
    if "*" in suffix or not text.startswith("*.") or not suffix:
        good = f"*.{clean}" if clean.count(".") >= 1 and "*" not in clean else "*.example.com"
        raise BadValue(f"{shown(text)}: a wildcard is `*.` before a whole host name", f"for example {good}")
    host = _host_of(suffix)
    if is_ip_literal(host):
        raise BadValue(f"{shown(text)}: no name lies below an address", f"write {host}")
    if host.count(".") + 1 < least_labels:
        raise BadValue(f"{shown(text)} covers a whole top-level domain", f"for example *.example.{host}")
    return HostPattern(host, wildcard=True), text


def _network(text: str) -> tuple[IPv4Network | IPv6Network, str]:
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise BadValue(f"{shown(text)} is not a network", "for example 10.20.30.0/24 or fd00::/8") from error
    if str(network) != text and f"{text}/{network.max_prefixlen}" != str(network):
        raise BadValue(f"{shown(text)} is not the canonical spelling of the network", f"write {network}")
    return network, str(network)


def _ip(text: str) -> tuple[str, str]:
    try:
        address = str(ip_address(text))
    except ValueError as error:
        raise BadValue(f"{shown(text)} is not an IP address", "for example 127.0.0.1") from error
    if address != text:
        raise BadValue(f"{shown(text)} is not the canonical spelling of the address", f"write {address}")
    return address, address


def _listen(text: str) -> tuple[str, str]:
    host, _, port = text.rpartition(":")
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        raise BadValue(f"{shown(text)} is not an address to listen on", 'for example "0.0.0.0:8080"') from error
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or (":" in host) != host.startswith("["):
        raise BadValue(f"{shown(text)} is not an address to listen on", 'for example "0.0.0.0:8080" or "[::]:8080"')
    return text, text


def _path(text: str) -> tuple[str, str]:
    if "?" in text:
        raise BadValue(f"{shown(text)}: a path rule holds no query", f"write {text.partition('?')[0] or '/'}")
    literal = "/".join("x" if segment in _SEGMENT_WILDCARDS else segment for segment in text.split("/"))
    if "*" in literal:
        raise BadValue(
            f"{shown(text)}: a wildcard is a whole segment", "`*` (one segment) or `**` (any), as in /v1/files/*"
        )
    try:
        canonical = canonical_path(literal)
    except ValueError as error:
        fix = f"write /{text}" if _plain_word(text) else "for example /v1/chat/completions"
        raise BadValue(f"{shown(text)} is not a path: {error}", fix) from error
    if canonical != literal:
        raise BadValue(
            f"{shown(text)} is not the canonical spelling of the path",
            f"write {_ESCAPE.sub(lambda one: one[0].upper(), text)}",
        )
    return text, text


def _plain_word(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z0-9._~*-]+(?:/[A-Za-z0-9._~*-]+)*", text))


def _method(text: str) -> tuple[str, str]:
    if text.upper() in METHODS and text not in METHODS:
        raise BadValue(f"{shown(text)}: methods are written in capitals", f"write {text.upper()}")
    if text not in METHODS:
        near = nearest(text, METHODS)
        fix = f"did you mean {near}?" if near else f"one of: {', '.join(METHODS)}"
        raise BadValue(f"{shown(text)} is not a method that the proxy carries", fix)
    return text, text


def _header(text: str) -> tuple[str, str]:
    if not _TOKEN.match(text):
        raise BadValue(f"{shown(text)} is not a header name", "for example authorization")
    return text.lower(), text.lower()


def _time_zone(text: str) -> tuple[str, str]:
    from zoneinfo import ZoneInfo

    if text == "UTC":  # needs no time zone data, which small containers lack
        return text, text
    try:
        ZoneInfo(text)
    except (ValueError, OSError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise BadValue(f"{shown(text)} is not a time zone", "UTC, or a name such as Europe/Berlin") from error
    return text, text


def _text(text: str) -> tuple[str, str]:
    if len(text) > 500 or any(ord(char) < 0x20 or ord(char) == 0x7F for char in text):
        raise BadValue("the text is longer than 500 characters or holds control characters", "one short line")
    if not text.strip():
        raise BadValue("the text is empty", "write one short line, or remove the key")
    return text, text


def _regex(text: str) -> tuple[str, str]:
    from proxy.customdata.patterns import MAX_REGEX_CHARS, BadPattern, compiled

    if len(text) > MAX_REGEX_CHARS:
        raise BadValue(f"the expression has more than {MAX_REGEX_CHARS} characters", "a list of words is a dictionary")
    try:
        compiled(text)
    except BadPattern as bad:
        fix = "the syntax of RE2 (no look-around, no backreferences), for example 'ACME-[0-9]{6}'"
        raise BadValue(f"{shown(text)} cannot be searched for: {bad}", fix) from bad
    return text, text


def _word(text: str) -> tuple[str, str]:
    from proxy.config.data_files import check_word

    _text(text)
    check_word(text)
    return text, text


def _leaf(what: str, parse: Any, example: str, schema: dict[str, Any] | None = None) -> Leaf:
    return Leaf(what, parse, example, schema or {"type": "string"})


BOOLEAN: Final = _leaf("true or false", _boolean, "true", {"type": "boolean"})
INSTANT: Final = _leaf("a date or an instant", _instant, "2027-03-31")
SIZE: Final = _leaf("a size", _size, "4MiB", {"type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$"})
DURATION: Final = _leaf("a duration", _duration, "10m", {"type": "string", "pattern": "^[0-9]+[smhd]$"})
USD: Final = _leaf("an amount of dollars", _usd, "20", {"type": ["number", "string"], "minimum": 0})
RATE: Final = _leaf("USD per million tokens", _rate, "0.30", {"type": ["number", "string"], "minimum": 0})
PORT: Final = _leaf("a port", _port, "443", {"type": "integer", "minimum": 1, "maximum": 65535})
HOST: Final = _leaf("a host", _exact_host, "api.example.com")
HOST_PATTERN: Final = _leaf("a host", lambda text: _host_pattern(text, least_labels=2), "api.example.com")
DENY_PATTERN: Final = _leaf("a host", lambda text: _host_pattern(text, least_labels=1), '"*.ngrok.io"')
NETWORK: Final = _leaf("a network", _network, "10.20.30.0/24")
IP: Final = _leaf("an IP address", _ip, "127.0.0.1")
LISTEN: Final = _leaf("an address to listen on", _listen, '"0.0.0.0:8080"')
PATH: Final = _leaf("a path", _path, "/v1/chat/completions", {"type": "string", "pattern": "^/[^?]*$"})
METHOD: Final = _leaf("a method", _method, "POST", {"enum": list(METHODS)})
HEADER: Final = _leaf("a header name", _header, "authorization")
TIME_ZONE: Final = _leaf("a time zone", _time_zone, "UTC")
REGEX: Final = _leaf("a regular expression", _regex, "'ACME-[0-9]{6}'")
PHRASE: Final = _leaf("a word or phrase", _word, "Bluebird")
TEXT: Final = _leaf("a text", _text, '"receipt triage"')
NAME: Final = pattern(
    "a name", r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", "expense-triage", "lower-case letters, digits and '-', "
)
RULE_ID: Final = pattern(
    "an id", r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", "openai", "lower-case letters, digits, '.', '_' and '-', "
)
WORD: Final = pattern("a word", r"[A-Za-z0-9](?:[A-Za-z0-9._:/@+-]{0,126}[A-Za-z0-9])?", "gpt-4o-mini")
ENTITY: Final = pattern("an entity", r"[A-Z][A-Z0-9_]{1,62}", "EMAIL_ADDRESS", "capitals, ")
PIN: Final = pattern("a pin", r"hmac-sha256:[0-9a-f]{64}", f"hmac-sha256:{'9f2c' * 16}")
PUBLISHER: Final = pattern("a public key", r"ed25519:(?:[0-9a-f]{64}|[A-Za-z0-9+/_-]{43}=?)", f"ed25519:{'0' * 64}")
JSON_PATH: Final = pattern("a JSON path", r"\$(?:\.[A-Za-z0-9_-]+|\[[0-9]+\]|\[\*\])+", "$.metadata.request_id")
CONNECTOR: Final = pattern(
    "a connector", r"connectors/[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", "connectors/slack-webhook"
)
