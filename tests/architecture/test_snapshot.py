"""An exchange takes the policy once: nothing in a policy can be changed, and the line of a request cannot ask again."""

import ast
import dataclasses
import inspect
from typing import get_type_hints

import pytest

from proxy.config import snapshot
from tests.architecture.tree import sources

CLASSES = [value for _, value in inspect.getmembers(snapshot, inspect.isclass) if value.__module__ == snapshot.__name__]
MUTABLE = ("list[", "dict[", "set[", "bytearray")
# What one request runs through, from its head to its record.
LINE = (
    "proxy/exchange.py", "proxy/inference.py", "proxy/delivery.py", "proxy/context.py", "proxy/policy.py",
    "proxy/tunnel.py", "proxy/trail.py", "proxy/dataplane/lane_carrier.py", "proxy/dataplane/h2_carrier.py",
)  # fmt: skip


@pytest.mark.parametrize("cls", [one for one in CLASSES if dataclasses.is_dataclass(one)], ids=lambda cls: cls.__name__)
def test_policy_objects_cannot_be_changed(cls: type) -> None:
    assert cls.__dataclass_params__.frozen, cls  # type: ignore[attr-defined]
    for name, hint in get_type_hints(cls).items():
        words = str(hint).replace("frozenset[", "")
        assert not any(word in words for word in MUTABLE), f"{cls.__name__}.{name}: {hint}"


@pytest.mark.parametrize("path", LINE)
def test_the_line_of_a_request_never_asks_for_the_current_policy(path: str) -> None:
    reads = [
        node.lineno for node in ast.walk(sources()[path]) if isinstance(node, ast.Attribute) and node.attr == "current"
    ]
    assert not reads, f"{path}: lines {reads}"
