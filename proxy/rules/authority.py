"""One authority: CONNECT or original destination, SNI, Host and request line name the same host and port."""

from proxy.config.snapshot import AppPolicy, Snapshot
from proxy.model import Authority, RequestHead
from proxy.net.names import canonical_host, is_ip_literal, split_authority
from proxy.rules.base import FROM_CONNECT, Facts, Gate, Verdict, printable


def _judge(facts: Facts, app: AppPolicy, snapshot: Snapshot) -> Verdict | None:
    del app, snapshot
    authority = facts.authority
    if facts.sni is not None:
        if (why := _other_name(facts.sni, authority.host)) is not None:
            return _mismatch(f"TLS asks for {printable(facts.sni)} but the request goes to {authority}{why}")
    elif facts.stage == "hello" and not is_ip_literal(authority.host):
        return _mismatch(f"TLS to {authority} names no server (no SNI)")
    if facts.head is None:
        return None
    if facts.head.authority.host != authority.host or facts.head.authority.port != authority.port:
        return _mismatch(f"the request line names {facts.head.authority} but the connection goes to {authority}")
    return _judge_host_field(facts.head, authority)


def _judge_host_field(head: RequestHead, authority: Authority) -> Verdict | None:
    seen = 0
    for name, value in head.headers:
        if len(name) == 4 and name.lower() == b"host":
            seen += 1
            why = _other_authority(value, authority)
            if why is not None:
                return _mismatch(
                    f"Host is {printable(value.decode('latin-1'))} but the request goes to {authority}{why}"
                )
    return _mismatch(f"the request to {authority} has {seen} Host fields") if seen > 1 else None


def _other_name(text: str, host: str) -> str | None:
    if text == host:
        return None
    try:
        return None if canonical_host(text) == host else ""
    except ValueError as error:
        return f" ({error})"


def _other_authority(value: bytes, authority: Authority) -> str | None:
    default = 443 if authority.scheme == "https" else 80
    text = value.decode("latin-1")
    if text == authority.host and authority.port == default:
        return None
    try:
        return None if split_authority(text, default) == (authority.host, authority.port) else ""
    except ValueError as error:
        return f" ({error})"


def _mismatch(detail: str) -> Verdict:
    return Verdict("target_mismatch", detail)


RULE = Gate("authority", 40, FROM_CONNECT, _judge, "all names of the request are one")
