"""DNS inside HTTPS only where an entry names the path: a resolver of the app's own choice hears and says anything."""

import base64
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote

from proxy.config.snapshot import Entry, Snapshot
from proxy.net.dns_message import BadQuery, NotAQuery, parse_query
from proxy.rules.base import FROM_HEAD, Facts, Rule, Verdict

# RFC 8484 section 6 and RFC 9230 section 8; the JSON form is Google's and Cloudflare's.
_MEDIA_TYPES: Final = (b"application/dns-message", b"application/oblivious-dns-message", b"application/dns-json")
_FIELDS: Final = frozenset({b"content-type", b"accept"})
_PATH: Final = "/dns-query"
_JSON_PATH: Final = "/resolve"  # dns.google's JSON API, with the host in `name=`


def _is_dns(facts: Facts) -> bool:
    head = facts.head
    if head is None:
        return False
    for name, value in head.headers:
        if name.lower() in _FIELDS and any(kind in value.lower() for kind in _MEDIA_TYPES):
            return True
    path, _, query = head.target.partition("?")
    lowered = path.lower()
    if lowered == _PATH or lowered.endswith(_PATH) or f"{_PATH}/" in lowered:
        return True
    fields = query.split("&")
    if lowered == _JSON_PATH and any(field.startswith("name=") for field in fields):
        return True
    return any(field.startswith("dns=") and _is_query(field[4:]) for field in fields)


def _is_query(text: str) -> bool:
    """A whole DNS query in base64url (RFC 8484 section 4.1)."""
    try:
        parse_query(base64.urlsafe_b64decode(unquote(text) + "=="))
    except (NotAQuery, BadQuery, ValueError):
        return False
    return True


def _admits(entry: Entry, facts: Facts, snapshot: Snapshot) -> bool:
    del snapshot
    return not _is_dns(facts) or _named(entry, facts)


def _named(entry: Entry, facts: Facts) -> bool:
    """Word for word: a pattern such as `/**` was not written with DNS in mind."""
    try:
        return facts.path in (entry.paths or ())
    except ValueError:
        return False


def _refuse(removed: Sequence[Entry], facts: Facts, snapshot: Snapshot) -> Verdict:
    del snapshot
    entry = removed[0]
    return Verdict(
        "proto_denied",
        f"this is DNS over HTTPS to {facts.authority.host}, which {entry.rule_id} does not name",
        entry.at,
        f"Use the system's resolver, or ask the app's admin to write the exact path under `paths:` in {entry.at}.",
    )


RULE = Rule("dns_over_https", 115, FROM_HEAD, _admits, _refuse, "DNS over HTTPS only where the path is named")
