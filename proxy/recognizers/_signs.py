"""A prefilter for regular expressions: one linear pass says which of many patterns could match a text at all.

`relaxed` turns a pattern into one that RE2 takes and that matches every text which the original matches (and more):
what RE2 cannot express (look-around, back-references) is left out or widened. Patterns that cannot be turned are never
filtered. The answer "no" is therefore always right, and only a "perhaps" costs the original's time.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Final

_NOT_ASCII: Final = r"[^\x00-\x7f]"
_CATEGORIES: Final = {
    sre.CATEGORY_DIGIT: rf"(?:[0-9]|{_NOT_ASCII})",
    sre.CATEGORY_WORD: rf"(?:\w|{_NOT_ASCII})",
    sre.CATEGORY_SPACE: rf"(?:[\s\x0b\x1c-\x1f]|{_NOT_ASCII})",
    sre.CATEGORY_NOT_DIGIT: r"(?s:.)",
    sre.CATEGORY_NOT_WORD: r"(?s:.)",
    sre.CATEGORY_NOT_SPACE: r"(?s:.)",
}
_MAX_REPEAT: Final = 1000
"""RE2 refuses more."""
_MAX_SET_BYTES: Final = 64 << 20


_SENTINEL: Final = -1
_FOLDS_ODDLY: Final = re.compile("[\u0130\u0131\u017f\u212a\ud800-\udfff]")
"""Letters that `re` takes for ASCII ones where case does not matter and RE2 does not, and what UTF-8 cannot carry."""


class _Unsupported(Exception):
    pass


def relaxed(pattern: str, flags: int = 0) -> str | None:
    """An RE2 pattern for a superset of the texts that `pattern` (of `re`) is found in; None when there is none."""
    try:
        tree = _parser.parse(pattern, flags & ~re.DEBUG)
        body = _sequence(tree)
    except (re.error, _Unsupported, RecursionError, OverflowError):
        return None
    if tree.state.flags & re.IGNORECASE:
        body = f"(?i:{body})"
    return body


def _sequence(items: Iterable[tuple[Any, Any]]) -> str:
    return "".join(_item(kind, value) for kind, value in items)


def _item(kind: Any, value: Any) -> str:
    handler = _HANDLERS.get(kind)
    if handler is None:
        raise _Unsupported
    return handler(value)


def _literal(code: int) -> str:
    return f"\\x{{{code:x}}}"


def _set(members: Sequence[tuple[Any, Any]]) -> str:
    """A class becomes the union of its members; a negated one that is not plain may be anything."""
    negated = bool(members) and members[0][0] is sre.NEGATE
    plain = "".join(_range(kind, value) for kind, value in members if kind in {sre.LITERAL, sre.RANGE})
    categories = [value for kind, value in members if kind is sre.CATEGORY]
    if negated:
        return f"[^{plain}]" if plain and not categories else r"(?s:.)"
    choices = [_CATEGORIES[value] for value in categories]
    return f"(?:{'|'.join([f'[{plain}]'] * bool(plain) + choices)})"


def _range(kind: Any, value: Any) -> str:
    return _literal(value) if kind is sre.LITERAL else f"{_literal(value[0])}-{_literal(value[1])}"


def _repeat(value: tuple[Any, Any, Any]) -> str:
    least, most, body = value
    inner = f"(?:{_sequence(body)})"
    if least > _MAX_REPEAT or "{" in inner.replace(r"\x{", ""):
        # RE2 multiplies nested counts; what must occur at least once is sign enough.
        return f"{inner}+" if least else f"{inner}*"
    if most is sre.MAXREPEAT or most > _MAX_REPEAT:
        return f"{inner}{{{least},}}"
    return f"{inner}{{{least},{most}}}"


def _group(value: tuple[Any, int, int, Any]) -> str:
    _, add, remove, body = value
    inner = _sequence(body)
    if add & re.IGNORECASE:
        return f"(?i:{inner})"
    return f"(?-i:{inner})" if remove & re.IGNORECASE else f"(?:{inner})"


def _branch(value: tuple[Any, Sequence[Any]]) -> str:
    return f"(?:{'|'.join(_sequence(branch) for branch in value[1])})"


def _nothing(_: Any) -> str:
    return ""


def _anything(_: Any) -> str:
    return r"(?s:.*)"


_HANDLERS: Final[dict[Any, Callable[[Any], str]]] = {
    sre.LITERAL: _literal,
    sre.NOT_LITERAL: lambda code: f"[^{_literal(code)}]",
    sre.ANY: lambda _: r"(?s:.)",
    sre.IN: _set,
    sre.CATEGORY: lambda value: _CATEGORIES[value],
    sre.AT: _nothing,
    sre.ASSERT: _nothing,
    sre.ASSERT_NOT: _nothing,
    sre.MAX_REPEAT: _repeat,
    sre.MIN_REPEAT: _repeat,
    sre.POSSESSIVE_REPEAT: _repeat,
    sre.ATOMIC_GROUP: lambda body: f"(?:{_sequence(body)})",
    sre.SUBPATTERN: _group,
    sre.BRANCH: _branch,
    sre.GROUPREF: _anything,
}


class Prefilter:
    """Which of several lists of patterns could match a text. An empty list, or one with a pattern that cannot be
    turned, always could."""

    def __init__(self, signs: Sequence[Sequence[str]]) -> None:
        import re2

        options = re2.Options()
        options.max_mem = _MAX_SET_BYTES
        options.log_errors = False
        self._set = re2.Set.SearchSet(options)
        # Found in every text: without it, "none" and "gave up" would be the same answer.
        self._set.Add("")
        self._owners: list[int] = [_SENTINEL]
        self._always = {index for index, patterns in enumerate(signs) if not self._added(index, patterns)}
        self._everyone = frozenset(range(len(signs)))
        self._set.Compile()

    def _added(self, index: int, patterns: Sequence[str]) -> bool:
        import re2

        for pattern in patterns:
            try:
                self._set.Add(pattern)
            except re2.error:
                return False
            self._owners.append(index)
        return bool(patterns)

    def possible(self, text: str) -> frozenset[int]:
        """Indexes of the lists of which a pattern could match."""
        if len(self._owners) == 1 or (not text.isascii() and _FOLDS_ODDLY.search(text)):
            return self._everyone
        hits = self._set.Match(text)
        if hits is None:
            # The automaton ran out of memory on this text.
            return self._everyone
        return frozenset(self._always).union(self._owners[hit] for hit in hits) - {_SENTINEL}
