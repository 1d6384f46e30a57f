"""The keys that travel are the entry's: a pinned one, or one of the provider's own form; never another account's."""

import hmac
import re
from collections.abc import Iterator, Sequence
from typing import Final

from proxy.config.snapshot import CredentialPolicy, Entry, Snapshot
from proxy.rules.base import FROM_HEAD, Facts, Rule, Verdict, listed

# The forms of keys as their providers issue them; a host not listed here is known by the API it speaks, or not at all.
_FORMS: Final = {
    "anthropic": re.compile(rb"sk-ant-[A-Za-z0-9_-]+\Z"),
    "openrouter": re.compile(rb"sk-or-[A-Za-z0-9_-]+\Z"),
    "openai": re.compile(rb"sk-(?!ant-|or-)[A-Za-z0-9_-]+\Z"),
    "google": re.compile(rb"AIza[A-Za-z0-9_-]{35}\Z"),
    "groq": re.compile(rb"gsk_[A-Za-z0-9]+\Z"),
    "xai": re.compile(rb"xai-[A-Za-z0-9]+\Z"),
    "perplexity": re.compile(rb"pplx-[A-Za-z0-9]+\Z"),
    "huggingface": re.compile(rb"hf_[A-Za-z0-9]+\Z"),
    "replicate": re.compile(rb"r8_[A-Za-z0-9]+\Z"),
    "github": re.compile(rb"(?:gh[pousr]_|github_pat_)[A-Za-z0-9_]+\Z"),
    "slack": re.compile(rb"xox[abeoprs]-[A-Za-z0-9-]+\Z"),
    "stripe": re.compile(rb"[rs]k_(?:live|test)_[A-Za-z0-9]+\Z"),
    "aws": re.compile(rb"A(?:KIA|SIA)[A-Z0-9]{16}\Z"),
}
_HOSTS: Final = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "openrouter.ai": "openrouter",
    "generativelanguage.googleapis.com": "google",
    "api.groq.com": "groq",
    "api.x.ai": "xai",
    "api.perplexity.ai": "perplexity",
    "huggingface.co": "huggingface",
    "api.replicate.com": "replicate",
    "api.github.com": "github",
    "slack.com": "slack",
    "api.stripe.com": "stripe",
}
# `sk-` alone is the form of many gateways too, so that it says nothing about whose key it is.
_UNMISTAKABLE: Final = {
    **{name: form for name, form in _FORMS.items() if name != "openai"},
    "openai": re.compile(rb"sk-(?:proj-|svcacct-|admin-|[A-Za-z0-9]{20}T3BlbkFJ)[A-Za-z0-9_-]*\Z"),
}
# RFC 9110 section 11.4 (`credentials`): a scheme and one token, or parameters; RFC 6265 pairs for cookies. Not prose:
# where nobody knows the key's form, the field would otherwise carry any text past the inspector.
_TOKEN: Final = rb"[!-+\--:<-~]{1,4096}"
_PAIR: Final = rb"[A-Za-z0-9._-]{1,100}=" + _TOKEN + rb"(?:;[a-z0-9-]{1,60}){0,30}"
_KEY_SHAPE: Final = re.compile(
    rb"(?:[A-Za-z][A-Za-z0-9-]{0,40} )?(?:" + _TOKEN + rb"|" + _PAIR + rb"(?:[,;] ?" + _PAIR + rb"){0,20};?)"
)
_SCHEMES: Final = (b"bearer ", b"token ", b"basic ")


def _admits(entry: Entry, facts: Facts, snapshot: Snapshot) -> bool:
    del snapshot
    return entry.credentials is None or facts.head is None or _problem(entry.credentials, facts) is None


def _problem(policy: CredentialPolicy, facts: Facts) -> str | None:
    """What is wrong with the keys of the request, without the keys, or None."""
    for name, value in _sent(policy, facts):
        if policy.pins:
            if not _pinned(policy, facts, value):
                return f"the key in `{name}` is not one that the entry pins"
        elif _KEY_SHAPE.fullmatch(value) is None:
            return f"the field `{name}` holds no key, but text"
        elif (why := _foreign(facts, _bare(value))) is not None:
            return f"the key in `{name}` {why}"
    return None


def _sent(policy: CredentialPolicy, facts: Facts) -> Iterator[tuple[str, bytes]]:
    for name, value in facts.head.headers if facts.head is not None else ():
        lowered = name.lower().decode("latin-1")
        if lowered in policy.headers:
            yield lowered, value


def _bare(value: bytes) -> bytes:
    lowered = value[:8].lower()
    scheme = next((one for one in _SCHEMES if lowered.startswith(one)), b"")
    return value[len(scheme) :].strip()


def _pinned(policy: CredentialPolicy, facts: Facts, value: bytes) -> bool:
    """A pin may be of the whole field value or of the bare key. Compared in constant time."""
    if facts.credential_digest is None:
        return False
    digests = [facts.credential_digest(form) for form in {value, _bare(value)}]
    return any(hmac.compare_digest(digest, pin) for digest in digests for pin in policy.pins)


def _foreign(facts: Facts, key: bytes) -> str | None:
    provider = facts.provider or _HOSTS.get(facts.authority.host)
    if provider in _FORMS:
        own = _FORMS[provider]
        if own.match(key):
            return None
        other = next((name for name, form in _FORMS.items() if form.match(key)), None)
        return (
            f"has the form of a key of {other}, not of {provider}" if other else f"has not the form of a {provider} key"
        )
    other = next((name for name, form in _UNMISTAKABLE.items() if form.match(key)), None)
    # A gateway that speaks a provider's API is given keys of that provider's form.
    if other is None or provider == f"{other}_compatible":
        return None
    return f"has the form of a key of {other}, which is not known to serve {facts.authority.host}"


def _refuse(removed: Sequence[Entry], facts: Facts, snapshot: Snapshot) -> Verdict:
    del snapshot
    entry = next((one for one in removed if one.credentials is not None), removed[0])
    policy = entry.credentials or CredentialPolicy(frozenset())
    why = _problem(policy, facts) or "the key is not the entry's"
    way = (
        "Send the key that the entry pins"
        if policy.pins
        else f"Send a key of the provider's own in {listed(policy.headers)}"
    )
    return Verdict(
        "credential_denied",
        f"{why} ({entry.rule_id}, for {facts.authority.host})",
        entry.at,
        f"{way}, or ask the app's admin to add the key's digest to `credentials.pins:` in {entry.at}.",
    )


RULE = Rule("credentials", 120, FROM_HEAD, _admits, _refuse, "the key is the entry's")
