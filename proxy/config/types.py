"""How a value of a policy file is read: from a node of strings to a typed value, its canonical form, its JSON Schema.

Reading never raises: mistakes go to the reader's `Problems`, and the value is missing (None). The canonical form of a
value reads back as the same value, so that a revision is checked by the same table when it is compiled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from proxy.config.errors import Mark, Problems, nearest, shown
from proxy.config.tree import Map, Node, Scalar, Seq


class BadValue(ValueError):
    """A scalar that does not fit. `fix` holds a value that would."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


class NotMadeYet(BadValue):
    """A file of the state directory that the product makes itself, at its first start."""


NOT_MADE_YET = "not made yet: "
"""How a preview writes such a file: no trust store takes it, and no revision may hold it."""


@dataclass(frozen=True, slots=True)
class Val:
    """One read value: `value` for the compiler (scalars typed, lists of Val, records as Rec), `canon` for JSON."""

    value: Any
    canon: Any
    mark: Mark


@dataclass(frozen=True, slots=True)
class Rec:
    """One read mapping. `keys` are the marks of the keys, `fields` the values that could be read."""

    fields: Mapping[str, Val]
    keys: Mapping[str, Mark]
    mark: Mark

    def __contains__(self, name: str) -> bool:
        return name in self.keys

    def get(self, name: str, default: Any = None) -> Any:
        """The bare value of a field, or `default` when it is absent or was unreadable."""
        found = self.fields.get(name)
        return default if found is None else found.value

    def rec(self, name: str) -> "Rec | None":
        """A field that is itself a mapping, or None."""
        found = self.get(name)
        return found if isinstance(found, Rec) else None

    def items(self, name: str) -> tuple[Val, ...]:
        """The members of a list field, with their marks; empty when absent."""
        found = self.get(name)
        return found if isinstance(found, tuple) else ()

    def plain(self, name: str) -> tuple[Any, ...]:
        """The bare members of a list field."""
        return tuple(item.value for item in self.items(name))

    def at(self, name: str) -> Mark:
        """Where the key stands, or the mapping itself when it is absent."""
        return self.keys.get(name, self.mark)


def _no_data(kind: str, reference: str) -> str:
    raise BadValue(f"{kind} {shown(reference)}: files are not read here", "write the values out")


@dataclass(slots=True)
class Reader:
    """What reading needs. `asset` turns a reference to a certificate file into its text, `data` (kind, reference) one
    to a data file into its canonical form (both raise BadValue); `internal` admits what only a compiled revision
    has; `preview` goes on without files that are not made yet."""

    problems: Problems
    asset: Callable[[str], str]
    internal: bool = False
    data: Callable[[str, str], str] = _no_data
    preview: bool = False


class Type(Protocol):
    """One kind of value."""

    def read(self, node: Node, reader: Reader) -> Val | None: ...
    def json_schema(self) -> dict[str, Any]: ...
    @property
    def example(self) -> str: ...


def _wanted(node: Node, what: str, example: str, reader: Reader) -> None:
    kind = "a mapping" if isinstance(node, Map) else "a list" if isinstance(node, Seq) else shown(node.text)
    got = "nothing" if isinstance(node, Scalar) and node.plain and not node.text else kind
    reader.problems.add(node.mark, f"{what} is expected here, not {got}", f"for example {example}")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar. `parse` returns (value, canonical JSON form) or raises BadValue."""

    what: str
    parse: Callable[[str], tuple[Any, Any]]
    example: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})

    def read(self, node: Node, reader: Reader) -> Val | None:
        if not isinstance(node, Scalar) or (node.plain and not node.text):
            _wanted(node, self.what, self.example, reader)
            return None
        try:
            value, canon = self.parse(node.text)
        except BadValue as bad:
            reader.problems.add(node.mark, bad.message, bad.fix)
            return None
        return Val(value, canon, node.mark)

    def json_schema(self) -> dict[str, Any]:
        return dict(self.schema)


@dataclass(frozen=True, slots=True)
class Asset:
    """A scalar that is read through `reader.asset`: a file name in YAML, the text itself in a revision."""

    what: str
    example: str

    def read(self, node: Node, reader: Reader) -> Val | None:
        if not isinstance(node, Scalar) or not node.text:
            _wanted(node, self.what, self.example, reader)
            return None
        try:
            text = reader.asset(node.text)
        except NotMadeYet as absent:
            (reader.problems.warn if reader.preview else reader.problems.add)(node.mark, absent.message, absent.fix)
            text = NOT_MADE_YET + node.text
        except BadValue as bad:
            reader.problems.add(node.mark, bad.message, bad.fix)
            return None
        return Val(text, text, node.mark)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class DataFile:
    """A scalar that names a data file in YAML and holds its canonical form in a revision. `parse` reads that form."""

    what: str
    kind: str
    parse: Callable[[str], tuple[Any, Any]]
    example: str

    def read(self, node: Node, reader: Reader) -> Val | None:
        if not isinstance(node, Scalar) or not node.text:
            _wanted(node, self.what, self.example, reader)
            return None
        try:
            value, canon = self.parse(node.text if reader.internal else reader.data(self.kind, node.text))
        except BadValue as bad:
            reader.problems.add(node.mark, bad.message, bad.fix)
            return None
        return Val(value, canon, node.mark)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one kind, without duplicates."""

    item: Type
    least: int = 1

    @property
    def example(self) -> str:
        return f"[{self.item.example}]"

    def read(self, node: Node, reader: Reader) -> Val | None:
        if not isinstance(node, Seq):
            _wanted(node, "a list", self.example, reader)
            return None
        if len(node.items) < self.least:
            reader.problems.add(node.mark, "the list is empty", f"for example {self.example}, or remove the key")
        members: list[Val] = []
        seen: set[object] = set()
        for child in node.items:
            value = self.item.read(child, reader)
            if value is None:
                continue
            if isinstance(value.canon, str | int):
                if value.canon in seen:
                    reader.problems.add(
                        child.mark, f"{shown(str(value.canon))} stands here twice", "keep one of the two"
                    )
                seen.add(value.canon)
            members.append(value)
        return Val(tuple(members), [member.canon for member in members], node.mark)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.json_schema(), "minItems": self.least, "uniqueItems": True}


@dataclass(frozen=True, slots=True)
class MapOf:
    """A mapping whose keys are values too."""

    key: Leaf
    item: Type

    @property
    def example(self) -> str:
        return f"{{{self.key.example}: {self.item.example.partition(' or ')[0]}}}"

    def read(self, node: Node, reader: Reader) -> Val | None:
        if not isinstance(node, Map):
            _wanted(node, "a mapping", self.example, reader)
            return None
        fields: dict[str, Val] = {}
        keys: dict[str, Mark] = {}
        for text, (mark, child) in node.pairs.items():
            key = self.key.read(Scalar(text, plain=False, mark=mark), reader)
            value = self.item.read(child, reader)
            if key is None or value is None:
                continue
            if key.value in keys:
                reader.problems.add(mark, f"{shown(key.value)} stands here twice", "keep one of the two")
            fields[key.value], keys[key.value] = value, mark
        return Val(Rec(fields, keys, node.mark), {name: fields[name].canon for name in fields}, node.mark)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.item.json_schema()}


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a mapping. `internal`: only in a compiled revision, never in a file."""

    name: str
    type: Type
    doc: str
    required: bool = False
    internal: bool = False


@dataclass(frozen=True, slots=True)
class Obj:
    """A mapping with known keys."""

    what: str
    fields: Sequence[Field]

    @property
    def example(self) -> str:
        first = next((one for one in self.fields if one.required), self.fields[0])
        return f"{{{first.name}: {first.type.example}}}"

    def read(self, node: Node, reader: Reader) -> Val | None:
        if not isinstance(node, Map):
            _wanted(node, f"a mapping ({self.what})", self.example, reader)
            return None
        known = {one.name: one for one in self.fields if reader.internal or not one.internal}
        fields: dict[str, Val] = {}
        for name, (mark, child) in node.pairs.items():
            if name not in known:
                self._unknown(name, mark, list(known), reader)
            elif (value := known[name].type.read(child, reader)) is not None:
                fields[name] = value
        for one in known.values():
            if one.required and one.name not in node.pairs:
                message = f"`{one.name}:` is missing ({self.what})"
                reader.problems.add(node.mark, message, f"add `{one.name}: {one.type.example}`")
        keys = {name: mark for name, (mark, _) in node.pairs.items() if name in known}
        return Val(Rec(fields, keys, node.mark), {name: fields[name].canon for name in fields}, node.mark)

    def _unknown(self, name: str, mark: Mark, known: list[str], reader: Reader) -> None:
        near = nearest(name, known)
        fix = f"did you mean `{near}:`?" if near else f"known keys: {', '.join(known)}"
        reader.problems.add(mark, f"unknown key {shown(name)} ({self.what})", fix)

    def json_schema(self) -> dict[str, Any]:
        shown_fields = [one for one in self.fields if not one.internal]
        schema: dict[str, Any] = {
            "type": "object",
            "additionalProperties": False,
            "properties": {one.name: {"description": one.doc, **one.type.json_schema()} for one in shown_fields},
        }
        required = [one.name for one in shown_fields if one.required]
        return {**schema, "required": required} if required else schema


@dataclass(frozen=True, slots=True)
class Either:
    """A word, or something larger: `off` or a mapping, `public` or a list."""

    word: Leaf
    other: Type

    @property
    def example(self) -> str:
        return f"{self.word.example} or {self.other.example}"

    def read(self, node: Node, reader: Reader) -> Val | None:
        return (self.word if isinstance(node, Scalar) else self.other).read(node, reader)

    def json_schema(self) -> dict[str, Any]:
        return {"anyOf": [self.word.json_schema(), self.other.json_schema()]}
