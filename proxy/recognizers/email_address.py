"""E-mail addresses (RFC 5321 sizes), found from each `@` outwards so that no input makes the search slow."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from proxy.model import Finding
from proxy.recognizers.base import POSSIBLE, SURE, ModelUnavailable, Recognizer

_MAX_LOCAL_CHARS: Final = 64  # RFC 5321 section 4.5.3.1.1
_LOCAL: Final = re.compile(r"""(?:[^\W]|[!#$%&'*+/=?^`{|}~.\-])+\Z""")
_DOMAIN: Final = re.compile(
    r"(?:[^\W_](?:[\w\-]{0,61}[^\W_])?\.){1,8}([^\W\d_]{2,24}|xn--[a-z0-9\-]{2,59})(?![\w\-])", re.IGNORECASE
)
_AT: Final = re.compile(r"[*_`~]{0,2}@[*_`~]{0,2}(?:\r?\n)?|\uff20|[\[({]\s?(?:at|AT|At)\s?[\])}]")
_BRACKET_DOT: Final = re.compile(r"\s?[\[({]\s?(?:dot|DOT|Dot)\s?[\])}]\s?")
_MAX_DOMAIN_CHARS: Final = 255


@cache
def _top_level_domains() -> frozenset[str]:
    """The public-suffix list that tldextract ships; never fetched."""
    import tldextract

    domains = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None).tlds
    labels = frozenset(domain.rpartition(".")[2] for domain in domains)
    if "com" not in labels:
        raise ModelUnavailable("the public-suffix list of tldextract is empty", "reinstall tldextract")
    return labels


def _known(label: str) -> bool:
    lower = label.lower()
    if lower.startswith("xn--"):
        return True
    return lower in _top_level_domains()


def _local_start(text: str, at: int) -> int:
    """Where the local part that ends at `at` begins (== `at` when there is none)."""
    end = at
    if text[at - 1 : at] == " " and text[at : at + 1] in "[({":
        end = at - 1
    window = max(0, end - _MAX_LOCAL_CHARS)
    match = _LOCAL.search(text, window, end)
    if match is None:
        return at
    # Punctuation in front belongs to the sentence or the quoting, not to the address.
    start = match.start()
    while start < end and text[start] in "!#$%&'*+/=?^`{|}~.-":
        start += 1
    for cut in ("=", "/", "'", "|", "?", "&", "`", "{"):
        position = text.rfind(cut, start, end)
        start = position + 1 if position >= 0 else start
    return start if start < end else at


def _find(text: str) -> Iterator[Finding]:
    for at in _AT.finditer(text):
        start = _local_start(text, at.start())
        if start == at.start():
            continue
        begin = at.end() + (text[at.end() : at.end() + 1] == " " and at[0][0] in "[({")
        domain = text[begin : begin + _MAX_DOMAIN_CHARS]
        match = _DOMAIN.match(domain)
        if match is not None:
            end = begin + match.end()
            # `git@host:path` is how a repository is written, not a mailbox.
            if _known(match[1]) and not (text[start : at.start()] == "git" and text[end : end + 1] in {":", "/"}):
                yield Finding("EMAIL_ADDRESS", start, end, SURE, "email_address")
        elif at[0][0] in "[({" or _BRACKET_DOT.search(domain[:80]):
            yield from _spelled(start, begin, domain)


def _spelled(start: int, begin: int, domain: str) -> Iterator[Finding]:
    """`name [at] host [dot] com`: only with brackets; a bare " at " is everywhere in stack traces."""
    labels = re.match(
        r"[\w\-]{1,63}(?:\s?[\[({]\s?(?:dot|DOT|Dot)\s?[\])}]\s?[\w\-]{1,63}|\.[\w\-]{1,63}){1,8}", domain
    )
    if labels is None:
        return
    last = re.search(r"[^\W\d_]{2,24}\Z", labels[0])
    if last is not None and _known(last[0]):
        yield Finding("EMAIL_ADDRESS", start, begin + labels.end(), POSSIBLE, "email_address")


def _trigger(text: str) -> bool:
    return _AT.search(text) is not None


def _load() -> None:
    _top_level_domains()


RECOGNIZER: Final = Recognizer(
    name="email_address",
    entities=frozenset({"EMAIL_ADDRESS"}),
    layer="pattern",
    find=_find,
    trigger=_trigger,
    load=_load,
    context=frozenset({"email", "e-mail", "mail", "contact"}),
)
