"""Vendor tokens: keys that their issuers mark by a prefix or a fixed form. One row per form.

Rows are tried only where their literal occurs, so the cost does not grow with the number of rows. Every quantifier is
bounded or followed by nothing, so matching is linear.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from ahocorasick_rs import AhoCorasick

from proxy.model import Finding
from proxy.recognizers._hints import occurrences
from proxy.recognizers.base import SURE, WITH_CONTEXT_ONLY, Recognizer

_B: Final = r"[A-Za-z0-9_\-]"
_ROWS: Final[tuple[tuple[str, str, str], ...]] = (
    # vendor, literal that starts the token, the rest of it
    ("1password", "ops_eyJ", rf"{_B}{{80,}}={{0,3}}"),
    ("airtable", "pat", r"[A-Za-z0-9]{14}\.[a-f0-9]{64}"),
    ("anthropic", "sk-ant-", rf"[a-z]{{2,10}}[0-9]{{2}}-{_B}{{60,120}}"),
    ("artifactory", "AKCp", r"[A-Za-z0-9]{60,90}"),
    ("artifactory", "cmVmdGtuOj", r"[A-Za-z0-9+/]{40,100}={0,2}"),
    ("atlassian", "ATATT3x", rf"{_B}{{50,200}}(?:=[A-F0-9]{{8}})?"),
    ("atlassian", "ATCTT3x", rf"{_B}{{50,200}}(?:=[A-F0-9]{{8}})?"),
    ("atlassian", "ATBB", r"[A-Za-z0-9]{32}"),
    ("aws", "AKIA", r"[A-Z0-9]{16}"),
    ("aws", "ASIA", r"[A-Z0-9]{16}"),
    ("aws", "ABIA", r"[A-Z0-9]{16}"),
    ("aws", "ACCA", r"[A-Z0-9]{16}"),
    ("aws", "AROA", r"[A-Z0-9]{16}"),
    ("aws", "AIDA", r"[A-Z0-9]{16}"),
    ("aws", "AGPA", r"[A-Z0-9]{16}"),
    ("aws", "A3T", r"[A-Z0-9]{17}"),
    ("aws-bedrock", "ABSKQmVkcm9ja0FQSUtleS", r"[A-Za-z0-9+/]{80,150}={0,2}"),
    ("brevo", "xkeysib-", r"[a-f0-9]{64}-[A-Za-z0-9]{16}"),
    ("brevo", "xsmtpsib-", r"[a-f0-9]{64}-[A-Za-z0-9]{16}"),
    ("cerebras", "csk-", r"[a-z0-9]{40,60}"),
    ("clojars", "CLOJARS_", r"[A-Fa-f0-9]{60}"),
    ("databricks", "dapi", r"[a-f0-9]{32}(?:-[0-9])?"),
    ("defined", "dnkey-", r"[A-Z0-9]{26}-[A-Z0-9]{52}"),
    ("digitalocean", "dop_v1_", r"[a-f0-9]{64}"),
    ("digitalocean", "doo_v1_", r"[a-f0-9]{64}"),
    ("digitalocean", "dor_v1_", r"[a-f0-9]{64}"),
    ("docker", "dckr_pat_", rf"{_B}{{24,40}}"),
    ("docker", "dckr_oat_", rf"{_B}{{24,40}}"),
    ("doppler", "dp.", r"(?:pt|st|ct|sa|scim|audit)\.(?:[a-z0-9_\-]{2,35}\.)?[A-Za-z0-9]{40,44}"),
    ("duffel", "duffel_", rf"(?:test|live)_{_B}{{40,60}}"),
    ("dynatrace", "dt0c01.", r"[A-Z0-9]{24}\.[A-Z0-9]{64}"),
    ("dynatrace", "dt0s0", r"[0-9]\.[A-Z0-9]{8,24}\.[A-Z0-9]{64}"),
    ("easypost", "EZAK", r"[A-Za-z0-9]{54}"),
    ("easypost", "EZTK", r"[A-Za-z0-9]{54}"),
    ("facebook", "EAACEdEose0cBA", r"[A-Za-z0-9]{20,}"),
    ("facebook", "EAA", r"[A-Za-z0-9]{100,250}"),
    ("facebook", "EAACEb00Kse0BA", r"[A-Za-z0-9]{20,}"),
    ("figma", "figd_", rf"{_B}{{38,44}}"),
    ("flutterwave", "FLWSECK", r"(?:_TEST)?-[a-h0-9]{12,32}(?:-X)?"),
    ("fly", "fo1_", rf"{_B}{{43}}"),
    ("fly", "fm2_", r"[A-Za-z0-9+/]{100,500}={0,3}"),
    ("github", "ghp_", r"[A-Za-z0-9]{36,251}"),
    ("github", "gho_", r"[A-Za-z0-9]{36,251}"),
    ("github", "ghu_", r"[A-Za-z0-9]{36,251}"),
    ("github", "ghs_", r"(?:[0-9]{6,12}_eyJ[A-Za-z0-9_\-.]{36,1000}|[A-Za-z0-9]{36,251})"),
    ("github", "ghr_", r"[A-Za-z0-9]{36,251}"),
    ("github", "github_pat_", r"[A-Za-z0-9_]{36,244}"),
    ("gitlab", "glpat-", rf"{_B}{{20,64}}(?:\.{_B}{{2,20}}){{0,2}}"),
    ("gitlab", "gldt-", rf"{_B}{{20,64}}"),
    ("gitlab", "glrt-", rf"{_B}{{20,64}}"),
    ("gitlab", "glptt-", r"[a-f0-9]{40}"),
    ("gitlab", "glcbt-", rf"{_B}{{20,64}}"),
    ("gitlab", "glimt-", rf"{_B}{{20,64}}"),
    ("gitlab", "glagent-", rf"{_B}{{50,64}}"),
    ("gitlab", "gloas-", rf"{_B}{{64}}"),
    ("gitlab", "GR1348941", rf"{_B}{{20,64}}"),
    ("google", "AIza", rf"{_B}{{35}}"),
    ("google", "GOCSPX-", rf"{_B}{{28}}"),
    ("google", "ya29.", rf"(?:[a-z]\.)?{_B}{{30,500}}"),
    ("google", "1//0", rf"{_B}{{40,150}}"),
    ("grafana", "glc_", r"[A-Za-z0-9+/]{32,400}={0,3}"),
    ("grafana", "glsa_", r"[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}"),
    ("groq", "gsk_", r"[A-Za-z0-9]{48,56}"),
    ("hashicorp", "hvs.", rf"{_B}{{24,200}}"),
    ("hashicorp", "hvb.", rf"{_B}{{100,400}}"),
    ("heroku", "HRKU-", rf"{_B}{{36,64}}"),
    ("huggingface", "hf_", r"[A-Za-z]{34,40}"),
    ("huggingface", "api_org_", r"[A-Za-z]{34}"),
    ("infisical", "st.", r"[a-f0-9]{24}\.[a-f0-9]{32}\.[a-f0-9]{32}"),
    ("instagram", "IGQV", rf"{_B}{{80,300}}"),
    ("langsmith", "lsv2_", r"(?:pt|sk)_[a-f0-9]{32}_[a-f0-9]{10}"),
    ("linear", "lin_api_", r"[A-Za-z0-9]{40}"),
    ("llamacloud", "llx-", rf"{_B}{{40,60}}"),
    ("lob", "live_", r"[a-f0-9]{35}"),
    ("mailgun", "key-", r"[a-f0-9]{32}"),
    ("mapbox", "sk.eyJ", rf"{_B}{{40,200}}\.{_B}{{20,40}}"),
    ("mercadopago", "APP_USR-", r"[0-9]{10,20}-[0-9]{6}-[a-f0-9]{32}-[0-9]{5,12}"),
    ("netlify", "nfp_", r"[A-Za-z0-9]{36,44}"),
    ("newrelic", "NRAK-", r"[A-Z0-9]{27}"),
    ("newrelic", "NRJS-", r"[a-f0-9]{19}"),
    ("newrelic", "NRII-", rf"{_B}{{32}}"),
    ("notion", "ntn_", r"[A-Za-z0-9]{43,50}"),
    ("notion", "secret_", r"[A-Za-z0-9]{43}"),
    ("npm", "npm_", r"[A-Za-z0-9]{36}"),
    ("nuget", "oy2", r"[a-z0-9]{43}"),
    ("nvidia", "nvapi-", rf"{_B}{{60,70}}"),
    ("openai", "sk-proj-", rf"{_B}{{40,180}}"),
    ("openai", "sk-svcacct-", rf"{_B}{{40,180}}"),
    ("openai", "sk-admin-", rf"{_B}{{40,180}}"),
    ("openai", "sk-None-", rf"{_B}{{40,180}}"),
    ("openrouter", "sk-or-v1-", r"[a-f0-9]{64}"),
    ("openai", "sk-", r"[A-Za-z0-9]{20,60}"),
    # Many makers copy Stripe's prefix, with dashes.
    ("any", "sk-live-", r"[A-Za-z0-9]{16,247}"),
    ("any", "sk-test-", r"[A-Za-z0-9]{16,247}"),
    ("paypal", "access_token$", r"(?:production|sandbox)\$[a-z0-9]{16}\$[a-f0-9]{32}"),
    ("perplexity", "pplx-", r"[A-Za-z0-9]{48}"),
    ("pinecone", "pcsk_", r"[A-Za-z0-9]{5,8}_[A-Za-z0-9]{55,70}"),
    ("planetscale", "pscale_", r"(?:tkn|pw|oauth)_[A-Za-z0-9_\-.=]{32,64}"),
    ("posthog", "phc_", r"[A-Za-z0-9]{38,60}"),
    ("posthog", "phx_", r"[A-Za-z0-9]{38,60}"),
    ("posthog", "phs_", r"[A-Za-z0-9]{38,60}"),
    ("posthog", "pha_", r"[A-Za-z0-9]{38,60}"),
    ("posthog", "phr_", r"[A-Za-z0-9]{38,60}"),
    ("postman", "PMAK-", r"[a-f0-9]{24}-[a-f0-9]{34}"),
    ("prefect", "pnu_", r"[A-Za-z0-9]{36}"),
    ("pulumi", "pul-", r"[a-f0-9]{40}"),
    ("pypi", "pypi-AgE", rf"{_B}{{50,250}}"),
    ("readme", "rdme_", r"[a-z0-9]{70}"),
    ("replicate", "r8_", r"[A-Za-z0-9]{37}"),
    ("rubygems", "rubygems_", r"[a-f0-9]{48}"),
    ("sendgrid", "SG.", rf"{_B}{{16,32}}\.{_B}{{16,64}}"),
    ("sentry", "sntrys_", r"eyJ[A-Za-z0-9+/]{40,500}={0,2}_[A-Za-z0-9+/_\-]{30,60}={0,2}"),
    ("sentry", "sntryu_", r"[a-f0-9]{64}"),
    ("shippo", "shippo_", r"(?:live|test)_[a-f0-9]{40}"),
    ("shopify", "shpat_", r"[A-Fa-f0-9]{32}"),
    ("shopify", "shpca_", r"[A-Fa-f0-9]{32}"),
    ("shopify", "shppa_", r"[A-Fa-f0-9]{32}"),
    ("shopify", "shpss_", r"[A-Fa-f0-9]{32}"),
    ("slack", "xoxb-", r"[0-9A-Za-z\-]{20,250}"),
    ("slack", "xoxp-", r"[0-9A-Za-z\-]{20,250}"),
    ("slack", "xoxa-", r"[0-9A-Za-z\-]{20,250}"),
    ("slack", "xoxr-", r"[0-9A-Za-z\-]{20,250}"),
    ("slack", "xoxs-", r"[0-9A-Za-z\-]{20,250}"),
    ("slack", "xoxc-", r"[0-9A-Za-z\-]{20,250}"),
    ("slack", "xoxd-", r"[0-9A-Za-z%\-]{40,250}"),
    ("slack", "xoxe-", r"[0-9A-Za-z\-]{40,250}"),
    ("slack", "xoxe.xox", r"[bp]-[0-9A-Za-z\-]{40,250}"),
    ("slack", "xapp-", r"[0-9]-[A-Z0-9]{8,13}-[0-9]{10,14}-[a-f0-9]{64}"),
    ("slack", "hooks.slack.com/", r"(?:services|workflows|triggers)/[A-Za-z0-9_/+\-]{30,90}"),
    ("sourcegraph", "sgp_", r"(?:[a-f0-9]{16}_|local_)?[a-f0-9]{40}"),
    ("square", "sq0atp-", rf"{_B}{{22}}"),
    ("square", "sq0csp-", rf"{_B}{{40,44}}"),
    ("square", "sq0idp-", rf"{_B}{{22}}"),
    ("square", "EAAAE", rf"{_B}{{55,80}}"),
    ("stripe", "sk_live_", r"[A-Za-z0-9]{16,247}"),
    ("stripe", "sk_test_", r"[A-Za-z0-9]{16,247}"),
    ("stripe", "rk_live_", r"[A-Za-z0-9]{16,247}"),
    ("stripe", "rk_test_", r"[A-Za-z0-9]{16,247}"),
    ("stripe", "whsec_", r"[A-Za-z0-9+/]{32,64}={0,2}"),
    ("supabase", "sbp_", r"(?:v0_)?[a-f0-9]{40}"),
    ("supabase", "sb_secret_", rf"{_B}{{22,44}}"),
    ("tailscale", "tskey-", r"[a-z]{3,10}-[A-Za-z0-9]{6,20}-[A-Za-z0-9]{20,40}"),
    ("tavily", "tvly-", r"(?:dev-|prod-)?[A-Za-z0-9]{32}"),
    ("teams", ".webhook.office.com/", r"webhookb2/[A-Za-z0-9@\-]{36,90}/IncomingWebhook/[a-z0-9]{32}/[a-z0-9\-]{36}"),
    ("discord", "discord.com/api/webhooks/", rf"[0-9]{{17,20}}/{_B}{{60,75}}"),
    ("discord", "discordapp.com/api/webhooks/", rf"[0-9]{{17,20}}/{_B}{{60,75}}"),
    ("terraform", ".atlasv1.", rf"{_B}{{60,70}}"),
    ("together", "tgp_v1_", rf"{_B}{{43}}"),
    ("twilio", "SK", r"(?:[a-f0-9]{32}|[A-F0-9]{32})"),
    ("vercel", "vcp_", r"[A-Za-z0-9]{56}"),
    ("voyage", "pa-", rf"{_B}{{43}}"),
    ("wundergraph", "cosmo_", r"[a-f0-9]{32}"),
    ("xai", "xai-", r"[A-Za-z0-9]{80}"),
    ("zapier", "hooks.zapier.com/hooks/catch/", r"[0-9]{4,12}/[a-z0-9]{6,12}"),
)  # fmt: skip


class _Form:
    """A token form without a starting literal: `literal` must occur in the text, `pattern` finds it."""

    def __init__(self, literal: str, pattern: str) -> None:
        self.literal = literal
        self.pattern = re.compile(pattern)


_E: Final = r"(?![A-Za-z0-9_\-])"
_FORMS: Final = (
    # JSON web tokens (RFC 7519), Grafana keys, Entra secrets, Azure AI, storage and bus keys, shared access signatures
    _Form("eyJ", rf"(?<![A-Za-z0-9_\-.])eyJ{_B}{{10,4096}}\.eyJ{_B}{{10,8192}}\.{_B}{{10,1024}}{_E}"),
    _Form("eyJrIjoi", r"(?<![A-Za-z0-9])eyJrIjoi[A-Za-z0-9+/]{40,400}={0,2}"),
    _Form("Q~", r"(?<![A-Za-z0-9_~.\-])[A-Za-z0-9_~.\-]{3}[0-9]Q~[A-Za-z0-9_~.\-]{31,34}(?![A-Za-z0-9_~.\-])"),
    _Form("JQQJ99", r"(?<![A-Za-z0-9])[A-Za-z0-9]{40,60}JQQJ99[A-Za-z0-9]{20,40}={0,2}"),
    _Form("AccountKey=", r"(?<=AccountKey=)[A-Za-z0-9+/]{86}=="),
    _Form("SharedAccessKey=", r"(?<=SharedAccessKey=)[A-Za-z0-9+/]{43}="),
    _Form("sig=", r"(?<=[?&]sig=)[A-Za-z0-9%+/]{43,60}(?:=|%3[Dd])?"),
    # Mailchimp, Telegram, Discord, Facebook app, Mailgun, OpenAI (its marker is base64 of "OpenAI")
    _Form("-us", r"(?<![A-Za-z0-9])[A-Za-z0-9]{32}-us[0-9]{1,2}(?![A-Za-z0-9])"),
    _Form(":AA", rf"(?<![A-Za-z0-9])[0-9]{{8,10}}:AA{_B}{{33}}{_E}"),
    _Form(".", rf"(?<![A-Za-z0-9_\-.])[MNO][A-Za-z0-9]{{23,25}}\.[A-Za-z0-9_\-]{{6}}\.{_B}{{27,38}}{_E}"),
    _Form("|", rf"(?<![0-9])[0-9]{{13,17}}\|{_B}{{26,30}}{_E}"),
    _Form("-", r"(?<![A-Za-z0-9\-])[a-f0-9]{32}-[a-f0-9]{8}-[a-f0-9]{8}(?![A-Za-z0-9\-])"),
    _Form("T3BlbkFJ", rf"(?<![A-Za-z0-9])sk-{_B}{{10,120}}T3BlbkFJ{_B}{{10,120}}"),
)  # fmt: skip

_LONG_RUN: Final = re.compile(r"[A-Za-z0-9_~.%+/=|:\-]{24}")
"""Every form holds one."""

_EXAMPLE: Final = re.compile(
    r"example|(?:x{8}|X{8}|0{12}|\*{4}|\.{3})|(?:1234567890){2}|abcdefghijklmnop|changeme|your[_-]?|<|placeholder",
    re.IGNORECASE,
)
_BY_LITERAL: Final[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}
for _vendor, _literal, _rest in _ROWS:
    _compiled = re.compile(rf"{re.escape(_literal)}(?:{_rest})(?![A-Za-z0-9_])")
    _BY_LITERAL.setdefault(_literal, []).append((_vendor, _compiled))
_LITERALS: Final = tuple(_BY_LITERAL)


@cache
def _automaton() -> AhoCorasick:
    """One pass over the text for all literals at once."""
    return AhoCorasick(list(_LITERALS))


_WORD: Final = re.compile(r"[A-Za-z0-9_\-]")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]{0,5}m\Z")


def documentation(value: str) -> bool:
    """Values that documentation uses on purpose (`AKIAIOSFODNN7EXAMPLE`, `xxxxxxxx`)."""
    return _EXAMPLE.search(value) is not None


def _score(value: str) -> float:
    return WITH_CONTEXT_ONLY / 2 if documentation(value) else SURE


def _find(text: str) -> Iterator[Finding]:
    taken = 0
    for which, start, _ in sorted(occurrences(_automaton(), text), key=_longest_first):
        literal = _LITERALS[which]
        host_like = literal[0] == "." or "." in literal[1:-2]
        if start < taken or (not host_like and _inside_word(text, start)):
            continue
        for _, pattern in _BY_LITERAL[literal]:
            match = pattern.match(text, start)
            if match is not None:
                begin = _token_start(text, start) if literal == ".atlasv1." else start
                yield Finding("SECRET", begin, match.end(), _score(match[0]), "secret_token")
                taken = match.end()
                break
    for form in _FORMS if _LONG_RUN.search(text) else ():
        if form.literal in text:
            for match in form.pattern.finditer(text):
                yield Finding("SECRET", match.start(), match.end(), _score(match[0]), "secret_token")


def _longest_first(hit: tuple[int, int, int]) -> tuple[int, int]:
    """`sk-ant-` before `sk-`."""
    _, start, end = hit
    return start, -end


def _inside_word(text: str, position: int) -> bool:
    """A letter or digit before: part of another word, unless it ends a terminal's colour code (`ESC[31m`)."""
    if position == 0 or not _WORD.match(text, position - 1):
        return False
    return not _COLOUR.search(text, max(0, position - 8), position)


def _token_start(text: str, position: int) -> int:
    least = max(0, position - 14)
    while position > least and text[position - 1].isalnum():
        position -= 1
    return position


def _trigger(text: str) -> bool:
    return len(text) >= _MIN_CHARS


_MIN_CHARS: Final = 19

RECOGNIZER: Final = Recognizer(
    name="secret_token",
    entities=frozenset({"SECRET"}),
    layer="checksum",
    find=_find,
    trigger=_trigger,
)
