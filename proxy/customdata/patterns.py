"""The admins' own regular expressions, run by RE2: linear in the text whatever the expression, `(a+)+$` included.

What RE2 cannot promise that for (look-around, backreferences) it refuses, and so does the policy, at its line.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from proxy.config.snapshot import DlpPattern
from proxy.model import Finding
from proxy.recognizers.base import LIKELY, near

MAX_REGEX_CHARS: Final = 1000
_MAX_MEMORY_BYTES: Final = 8 << 20
"""RE2's own default; an expression that needs more is refused when it is compiled, never at run time."""
_COMPILED: Final = 1024


class BadPattern(ValueError):
    """RE2 refuses the expression; the message is its own."""


@lru_cache(maxsize=_COMPILED)
def compiled(regex: str) -> Any:
    """The expression over UTF-8 bytes. Raises BadPattern, also for one that matches nothing at all."""
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY_BYTES
    try:
        pattern = re2.compile(regex, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "not a regular expression"
        raise BadPattern(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)) from None
    if pattern.search(b"") is not None:
        raise BadPattern("it matches the empty text, so it would be found everywhere")
    return pattern


def find(pattern: DlpPattern, text: str) -> Iterator[Finding]:
    """Matches, leftmost first. With `context` only those with one of its words nearby."""
    data = text.encode("utf-8", "surrogatepass")
    ascii_only = len(data) == len(text)
    at_byte = at_char = 0
    for match in compiled(pattern.regex).finditer(data):
        start, end = match.span()
        if start == end:
            continue
        if not ascii_only:
            at_char += len(data[at_byte:start].decode("utf-8", "surrogatepass"))
            at_byte = start
            start, end = at_char, at_char + len(data[start:end].decode("utf-8", "surrogatepass"))
        if not pattern.context or near(text, start, end, pattern.context):
            yield Finding(pattern.entity, start, end, LIKELY, "pattern")
