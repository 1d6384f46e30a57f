"""What both look-alikes share: reading the prompt, echoing it in small pieces, counting tokens."""

import re
from collections.abc import Mapping
from typing import Any

# Pieces of some four characters are about one token each, and cut placeholders in several places.
_PIECE = re.compile(r"\s?\S{1,4}|\s+")


class Refused(Exception):
    """The request lacks something. `status` is the answer's; the message names what."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def pieces(text: str) -> list[str]:
    """`text` cut into parts of about one token."""
    return _PIECE.findall(text)


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or its text parts; other parts are named."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return " ".join(_part(part) for part in content)


def _part(part: Any) -> str:
    if not isinstance(part, dict):
        return ""
    text = part.get("text")
    return text if isinstance(text, str) else f"[{part.get('type', 'part')}]"


def last_user_text(fields: Mapping[str, Any]) -> str:
    """The text of the last user message. Refused when there are no messages."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("`messages` must be a list with at least one message")
    users = [message for message in messages if isinstance(message, dict) and message.get("role") == "user"]
    return text_of(users[-1].get("content")) if users else ""


def reply(fields: Mapping[str, Any]) -> str:
    """What the look-alike model says."""
    return f"You said: {last_user_text(fields)}"


def prompt_tokens(fields: Mapping[str, Any]) -> int:
    """Tokens of all messages, three more for each as chat templates add."""
    return sum(3 + len(pieces(text_of(m.get("content")))) for m in fields["messages"] if isinstance(m, dict))


def model_of(fields: Mapping[str, Any]) -> str:
    """The model asked for. Refused without one."""
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise Refused("you must provide a model parameter")
    return model


def capped(text: str, cap: Any) -> tuple[list[str], bool]:
    """The reply's pieces within the request's cap, and whether it cut them."""
    parts = pieces(text)
    limit = cap if isinstance(cap, int) and cap >= 0 else len(parts)
    return parts[:limit], limit < len(parts)
