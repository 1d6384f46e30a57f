"""What every provider module shares: the call as read from a request, and the running tally of its answer."""

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, TypedDict

from proxy.errors import Denied
from proxy.model import RequestHead, ResponseHead
from proxy.values import dataclass

if TYPE_CHECKING:
    from proxy.providers._base import Provider

type JsonPath = tuple[str | int, ...]
type Group = tuple[str | int, ...]

# Token counts beyond this are nonsense, not usage (the largest context windows hold some ten million tokens).
_MAX_TOKENS = 1 << 32
# The most answers that OpenAI gives to one request. Each is billed up to the output cap.
MAX_CHOICES = 128
# A token of any current tokenizer covers two bytes of JSON text or more on all but contrived input (English prose: 4,
# code and CJK in UTF-8: 3, base64 and digits: 2 to 3); the settlement corrects the rest.
INPUT_BYTES_PER_TOKEN = 2
# Text that was seen, but not billed in a usage object: prose and code in every vendor's tokenizer are above this.
OUTPUT_BYTES_PER_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Call:
    """One inference call as its request asks for it.

    `output_cap`: the request's own limit of output tokens per choice, None without one. `input_tokens`: an upper
    estimate (see INPUT_BYTES_PER_TOKEN). `deterministic`: asks for temperature 0. `structured`: asks for JSON text, so
    what is put back into the answer's text must be escaped once more. `no_store` and `no_cache` are the request's
    Cache-Control, both set for calls that depend on state at the provider. `cap_field` names the request member that
    takes a written cap ("" = none); `can_ask_usage`: the API understands `stream_options`.
    """

    provider: "Provider"
    model: str
    stream: bool
    output_cap: int | None
    input_tokens: int
    deterministic: bool
    wants_usage: bool
    no_store: bool
    no_cache: bool
    choices: int = 1
    structured: bool = False
    cap_field: str = ""
    can_ask_usage: bool = False


class CallFacts(TypedDict, total=False):
    """What an API's own members say of a call; the names are those of Call."""

    stream: bool
    output_cap: int | None
    deterministic: bool
    wants_usage: bool
    choices: int
    structured: bool
    cap_field: str
    can_ask_usage: bool


@dataclass(slots=True)
class Tally:
    """What an answer has told so far. Counts are None until the provider reported them, in OpenTelemetry terms
    (cached tokens within `input_tokens`). `finishes`: choice -> finish reason. `raw`: counts as the API splits them.
    `text_bytes`: UTF-8 bytes of output seen, tool-call arguments included."""

    model: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    reasoning_tokens: int = 0
    text_bytes: int = 0
    finishes: dict[int, str] = field(default_factory=dict)
    tool_calls: bool = False
    failed: bool = False
    ended: bool = False
    raw: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of streamed text: where it stands in its event, and the channel (group, name) that it continues.

    `nested`: the channel's text is itself JSON (tool-call arguments, structured output).
    """

    path: JsonPath
    group: Group
    name: str
    text: str
    nested: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """What one event means for restoring: its deltas, the groups it ends, and whether it ends them all."""

    deltas: tuple[Delta, ...] = ()
    closes: tuple[Group, ...] = ()
    closes_all: bool = False


NOTHING = Reading()


def count(value: object) -> int | None:
    """A token count, or None for anything that is not a plausible one (providers have sent null, -1 and text)."""
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else None


def member(value: object, name: str) -> dict[str, Any]:
    """The object under `name`, or an empty one."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def items(value: object, name: str) -> list[Any]:
    """The array under `name`, or an empty one."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def word(value: object, name: str) -> str:
    """The string under `name`, or "". Safe to look up: a server may send an array where a word belongs."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def read_cap(fields: Mapping[str, Any], *names: str) -> int | None:
    """The largest of the given output limits; null counts as absent. Denied: malformed for anything but a count."""
    caps = []
    for name in names:
        value = fields.get(name)
        if value is None:
            continue
        cap = count(value)
        if cap is None:
            raise Denied("malformed", f"`{name}` must be a whole number of tokens", remedy=_number_remedy(name))
        caps.append(cap)
    return max(caps, default=None)


def read_choices(fields: Mapping[str, Any]) -> int:
    """How many answers the request asks for (`n`). Denied: malformed, or too_large above MAX_CHOICES."""
    value = fields.get("n")
    if value is None:
        return 1
    choices = count(value)
    if not choices:
        raise Denied("malformed", "`n` must be a whole number of at least 1", remedy=_number_remedy("n"))
    if choices > MAX_CHOICES:
        raise Denied(
            "too_large",
            f"`n` asks for {choices} answers; one request may ask for {MAX_CHOICES}",
            remedy=f"Send `n` of at most {MAX_CHOICES}, or several requests.",
            status=400,
        )
    return choices


def read_flag(fields: Mapping[str, Any], name: str) -> bool:
    """A boolean member; null and absence count as false."""
    value = fields.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise Denied("malformed", f"`{name}` must be true or false", remedy=f"Send `{name}` as a JSON boolean.")
    return value


def cache_directives(head: RequestHead | ResponseHead) -> frozenset[str]:
    """The message's Cache-Control directives (RFC 9111 section 5.2), lower case, without arguments but `max-age=0`.

    `Pragma: no-cache` counts only without Cache-Control (section 5.4).
    """
    lines = head.all(b"cache-control")
    if not lines:
        return frozenset({"no-cache"} if b"no-cache" in (head.first(b"pragma") or b"").lower() else ())
    parts = b",".join(lines).decode("latin-1").lower().split(",")
    directives = {part.strip().replace(" ", "") for part in parts}
    return frozenset(directives | ({"no-cache"} if "max-age=0" in directives else set()))


def estimate_input_tokens(body: bytes, fields: Mapping[str, Any], image_tokens: int) -> int:
    """An upper estimate: bytes over INPUT_BYTES_PER_TOKEN, with each inline image at the API's largest image price.

    Content that only the provider holds (a previous response, an uploaded file, what a URL leads to) is not counted.
    """
    if b"image" not in body:
        return -(-len(body) // INPUT_BYTES_PER_TOKEN)
    images, image_bytes = _images(fields)
    return -(-max(0, len(body) - image_bytes) // INPUT_BYTES_PER_TOKEN) + images * image_tokens


def _images(fields: Mapping[str, Any]) -> tuple[int, int]:
    """How many image parts a request holds, and how many bytes of it their inline data take."""
    images = size = 0
    open_values: list[Any] = [fields]
    while open_values:
        value = open_values.pop()
        if isinstance(value, list):
            open_values.extend(value)
        elif isinstance(value, dict):
            if word(value, "type") in {"image", "image_url", "input_image"}:
                images += 1
                size += _inline_size(value)
            else:
                open_values.extend(value.values())
    return images, size


def _inline_size(part: Mapping[str, Any]) -> int:
    url = part.get("image_url")
    text = member(part, "source").get("data") if "source" in part else url.get("url") if isinstance(url, dict) else url
    return len(text) if isinstance(text, str) else 0


def _number_remedy(name: str) -> str:
    return f"Send `{name}` as a JSON integer, for example 1024, or leave it out."
