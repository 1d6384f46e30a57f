"""The texts of a message outside its body: path, query, header fields, trailers.

A field is left out only when its whole value has the field's own plain form, which has no room for data.
"""

import base64
import binascii
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from proxy.bodies import form
from proxy.bodies.layers import FixedText, TextLayer, TextRoot
from proxy.bodies.limits import Limits
from proxy.model import Headers

_TAME: Final = re.compile(r"(?!(?:\D*\d){9})(?!.*\d{5})[\w*/+;,=.:()\"'? -]{0,256}")
"""Words and small numbers: fewer than nine digits in all (a US SSN), no five in a row."""

_LISTS: Final = re.compile(
    r"(?!(?:\D*\d){9})(?!.*\d{5})(?=.{0,256}\Z)[\w*/+.\"'()-]+(?:(?: ?[,;=] ?)[\w*/+.\"'()-]+)*[,;]? ?|"
)
"""Members and parameters (RFC 9110 section 5.6): never two words side by side, so no sentence."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9_]{20}")
"""No word of a plain value is as long as the shortest keys of vendors, which may hold few digits or none."""

_FORMS: Final[dict[str, re.Pattern[str]]] = {
    "host": re.compile(r"[A-Za-z0-9._:\[\]-]{1,260}"),  # equal to the allowed authority, or the lane refuses
    "content-length": re.compile(r"\d{1,9}"),
    "transfer-encoding": re.compile(r"chunked", re.IGNORECASE),
    "content-encoding": re.compile(r"[a-z, -]{1,40}", re.IGNORECASE),
    "expect": re.compile(r"100-continue", re.IGNORECASE),
    "connection": re.compile(r"[A-Za-z, -]{1,60}"),
    "upgrade": re.compile(r"websocket", re.IGNORECASE),
    "sec-websocket-key": re.compile(r"[A-Za-z0-9+/]{22}=="),
    **dict.fromkeys(
        (
            "accept", "accept-encoding", "accept-language", "accept-charset", "cache-control", "pragma", "te",
            "keep-alive", "content-type", "sec-fetch-mode", "sec-fetch-site", "sec-fetch-dest", "dnt",
            "sec-websocket-version", "sec-websocket-extensions", "anthropic-version", "priority", "trailer",
        ),
        _LISTS,
    ),
    "user-agent": _TAME,
}  # fmt: skip
_CHECKED_ELSEWHERE: Final = frozenset(("host", "sec-websocket-key"))
"""The one equals the allowed authority; the other is sixteen bytes by its definition (RFC 6455 section 4.1)."""

_SDK_PREFIX: Final = "x-stainless-"
_STRIPPED: Final = frozenset(("proxy-authorization",))
"""Consumed by the proxy, never sent on."""

_FIXED: Final = frozenset(("content-type", "content-encoding", "transfer-encoding", "content-length", "connection"))
"""Rewriting these would change how the message is read."""

_BROWSER: Final = re.compile(
    r"(?:Chrome|CriOS|Edg|OPR|HeadlessChrome)/\d{1,3}\.0\.\d{1,4}\.\d{1,3}|Mozilla/5\.0|AppleWebKit/537\.36"
    r"|Safari/537\.36|Gecko/20100101|(?:Firefox|rv:)/?\d{1,3}\.0|Intel Mac OS X 10_15_7|Windows NT 10\.0; Win64; x64"
)
_GROUPED_DIGITS: Final = re.compile(r"\d+(?:[ -]\d+)+")
_PLAIN_NAME: Final = re.compile(r"(?!(?:\D*\d){5})[A-Za-z0-9_-]{1,64}")


class MachineText(TextRoot):
    """A header value: written by programs, so a lone word in it is no person's name."""

    __slots__ = ("index",)

    def __init__(self, text: str, name: str, index: int) -> None:
        super().__init__(text, "header", name)
        self.index = index


class JoinedText(FixedText):
    """Values of several fields on end, for numbers that were split over them.

    `counts` tells those from the noise that joining makes: they lie over a seam and are digits with separators. Bare
    digits of two ids can pass a checksum, and two URLs on end are a URL.
    """

    __slots__ = ("_seams",)

    def __init__(self, values: Sequence[str]) -> None:
        super().__init__("".join(values), "headers, joined")
        self._seams = list(accumulate(len(value) for value in values))[:-1]

    def counts(self, start: int, end: int) -> bool:
        """True when `start:end` may be believed."""
        at = bisect_right(self._seams, start)
        over_a_seam = at < len(self._seams) and self._seams[at] < end
        return over_a_seam and _GROUPED_DIGITS.fullmatch(self.text, start, end) is not None


def target_texts(target: str, limits: Limits) -> tuple[TextRoot, list[TextLayer]]:
    """The target as a root that edits end in, and its leaves: the path, query names (both fixed) and query values."""
    root = TextRoot(target, "")
    path, mark, _ = target.partition("?")
    leaves: list[TextLayer] = [form.FixedPercentLayer(root, 0, len(path), plus=False, label="path")]
    if mark:
        leaves += form.fields(root, len(path) + 1, len(target), limits, label="query", fixed_names=True)
    return root, leaves


def header_texts(headers: Headers, skip: frozenset[str]) -> list[TextLayer]:
    """Leaves of all fields but those in `skip` (lower case) and those in their plain form."""
    leaves: list[TextLayer] = []
    taken: set[str] = set()
    for index, (raw_name, raw_value) in enumerate(headers):
        name, value = _text(raw_name), _text(raw_value)
        lower = name.lower()
        if not _PLAIN_NAME.fullmatch(name) or _TOKEN.search(name):
            # `X-` and the like would hide where a token begins.
            leaves += [FixedText(text, "header name") for text in (name, name.partition("-")[2]) if text]
        if lower in skip or lower in _STRIPPED:
            continue
        # A second field of one name is looked at: repetition would make room for data in the plainest form.
        if lower not in taken and _is_plain(lower, value):
            taken.add(lower)
            continue
        if lower in _FIXED:
            leaves.append(FixedText(value, "header", name))
        else:
            leaves.append(MachineText(value, name, index))
        leaves += [FixedText(text, "header", name) for text in _basic_credentials(lower, value)]
    pieces = [leaf.text for leaf in leaves if isinstance(leaf, MachineText)]
    return [*leaves, JoinedText(pieces)] if len(pieces) > 1 else leaves


def trailer_texts(trailers: Headers) -> list[TextLayer]:
    """Leaves of all trailer fields, names and values; they are never rewritten."""
    texts: Iterable[tuple[str, str]] = ((_text(name), _text(value)) for name, value in trailers)
    return [layer for name, value in texts for layer in (FixedText(name, "trailer name"), FixedText(value, "trailer"))]


def field_bytes(text: str) -> bytes:
    """The wire form of an edited value."""
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _is_plain(name: str, value: str) -> bool:
    pattern = _TAME if name.startswith(_SDK_PREFIX) else _FORMS.get(name)
    if name == "user-agent":
        value = _BROWSER.sub("", value)
    if pattern is None or pattern.fullmatch(value) is None:
        return False
    return name in _CHECKED_ELSEWHERE or _TOKEN.search(value) is None


def _basic_credentials(name: str, value: str) -> list[str]:
    """`user:password` of Basic authentication (RFC 7617), whatever the field is called."""
    scheme, _, coded = value.partition(" ")
    if scheme.lower() != "basic" or name in _STRIPPED:
        return []
    try:
        return [base64.b64decode(coded.strip() + "=" * (-len(coded.strip()) % 4)).decode("utf-8", "replace")]
    except (binascii.Error, ValueError):
        return []
