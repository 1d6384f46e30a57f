"""How much one message may cost to look at. Past any of these the message is refused, never looked at in part."""

from dataclasses import dataclass
from typing import Final

from proxy.errors import Denied


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_decoded_bytes`: one body after its codings. `max_ratio`: growth by a coding beyond `ratio_floor_bytes`
    (deflate tops out at 1032:1; chat logs stay below 40:1). `max_depth`: brackets of one JSON text (RFC 8259 section 9
    allows a cap; common parsers stop between 100 and 1024). `max_nested`: texts inside texts. `max_leaves`,
    `max_text_chars`: what is handed to the detector in all, views included."""

    max_decoded_bytes: int = 32 << 20
    max_ratio: int = 200
    ratio_floor_bytes: int = 1 << 20
    max_codings: int = 4
    max_depth: int = 128
    max_nested: int = 8
    max_parts: int = 1000
    max_part_header_bytes: int = 16 << 10
    max_leaves: int = 200_000
    max_text_chars: int = 96 << 20


DEFAULT_LIMITS: Final = Limits()


def refuse_size(what: str, limit: int, unit: str) -> Denied:
    """The denial for a message that goes past one of the limits above."""
    return Denied(
        "too_large",
        f"{what} exceeds the inspection limit of {limit} {unit}",
        remedy="Send less at a time, or a simpler structure: what cannot be inspected whole is not sent.",
    )
