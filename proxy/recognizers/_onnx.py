"""The little of ONNX's protobuf (onnx.proto, IR version 8) that reading weights and writing a graph needs.

Decoding by hand saves a dependency (`onnx` brings protobuf and ml_dtypes) for two message types.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

type Array = NDArray[Any]

_MODEL_GRAPH: Final = 7
_GRAPH_INITIALIZER: Final = 5
_GRAPH_NODE: Final = 1
_DTYPES: Final[dict[int, Any]] = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64}
_CODES: Final = {np.dtype(kind): code for code, kind in _DTYPES.items()}
INT32: Final = 6
INT64: Final = 7
"""Element types of graph inputs."""
IR_VERSION: Final = 8
OPSET: Final = 17
_MOST: Final = 1 << 40
MICROSOFT: Final = "com.microsoft"


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(field number, value) of one message; nested messages as memoryviews. Raises IndexError or ValueError."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
        elif kind == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field runs over the end")
            yield tag >> 3, data[at : at + size]
            at += size
        elif kind in {1, 5}:
            size = 8 if kind == 1 else 4
            yield tag >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError("unknown wire type")


@dataclass(frozen=True, slots=True)
class Source:
    """Weights of a model by name, and its nodes as (operator, inputs, outputs)."""

    tensors: Mapping[str, Array]
    nodes: Sequence[tuple[str, tuple[str, ...], tuple[str, ...]]]


def read(model: bytes) -> Source:
    """Raises IndexError, KeyError or ValueError when the bytes are no such model."""
    tensors: dict[str, Array] = {}
    nodes = []
    for number, graph in fields(memoryview(model)):
        if number != _MODEL_GRAPH:
            continue
        for part, value in fields(_view(graph)):
            if part == _GRAPH_INITIALIZER:
                name, array = _tensor(_view(value))
                tensors[name] = array
            elif part == _GRAPH_NODE:
                nodes.append(_node(_view(value)))
    return Source(tensors, nodes)


def _view(value: Any) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError("a number stands where bytes belong")  # noqa: TRY004 - the file is wrong, not the caller
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or value > _MOST:
        raise ValueError("what stands here is not a number, or too large")
    return value


def _tensor(data: memoryview) -> tuple[str, Array]:
    dims: list[int] = []
    name, kind, raw = "", 0, memoryview(b"")
    for number, value in fields(data):
        if number == 1:
            dims.append(_count(value))
        elif number == 2:
            kind = _count(value)
        elif number == 8:
            name = bytes(_view(value)).decode()
        elif number in {4, 9}:
            raw = _view(value)
        elif number == 5:
            raw = memoryview(_numbers(_view(value), _DTYPES[kind]).tobytes())
    return name, np.frombuffer(raw, _DTYPES[kind]).reshape(dims)


def _numbers(data: memoryview, kind: Any) -> Array:
    try:
        return np.array(list(_varints(data)), kind)
    except OverflowError:
        raise ValueError("a number does not fit its type") from None


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield _count(value)


def _node(data: memoryview) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    inputs, outputs, operator = [], [], ""
    for number, value in fields(data):
        if number == 1:
            inputs.append(bytes(_view(value)).decode())
        elif number == 2:
            outputs.append(bytes(_view(value)).decode())
        elif number == 4:
            operator = bytes(_view(value)).decode()
    return operator, tuple(inputs), tuple(outputs)


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(number: int, data: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(data)) + data


def _integer(number: int, value: int) -> bytes:
    return _number(number << 3) + _number(value)


class Graph:
    """Collects nodes and weights; `model` gives the serialised ONNX model."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._weights: list[bytes] = []
        self._count = 0

    def weight(self, array: Array) -> str:
        name = f"w{len(self._weights)}"
        array = np.ascontiguousarray(array)
        dims = b"".join(_integer(1, size) for size in array.shape)
        kind = _integer(2, _CODES[array.dtype])
        self._weights.append(dims + kind + _message(8, name.encode()) + _message(9, array.tobytes()))
        return name

    def node(
        self, operator: str, *inputs: str, outputs: int = 1, microsoft: bool = False, **attributes: float | int
    ) -> list[str]:
        """Names of the outputs."""
        self._count += 1
        names = [f"n{self._count}_{index}" for index in range(outputs)]
        self._add(operator, inputs, names, microsoft=microsoft, attributes=attributes)
        return names

    def name(self, source: str, result: str) -> None:
        """Gives `source` the public name `result`."""
        self._add("Identity", (source,), [result], microsoft=False, attributes={})

    def _add(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        microsoft: bool,
        attributes: Mapping[str, float | int],
    ) -> None:
        data = b"".join(_message(1, name.encode()) for name in inputs)
        data += b"".join(_message(2, name.encode()) for name in outputs)
        data += _message(4, operator.encode()) + b"".join(_message(5, _attribute(*item)) for item in attributes.items())
        self._nodes.append(data + (_message(7, MICROSOFT.encode()) if microsoft else b""))

    def model(self, inputs: Mapping[str, tuple[int, Sequence[str]]], outputs: Mapping[str, Sequence[str]]) -> bytes:
        """`inputs`: name -> (element type, dimension names); outputs are float32."""
        graph = b"".join(_message(1, node) for node in self._nodes) + _message(2, b"encoder")
        graph += b"".join(_message(5, weight) for weight in self._weights)
        graph += b"".join(_message(11, _value(name, kind, dims)) for name, (kind, dims) in inputs.items())
        graph += b"".join(_message(12, _value(name, 1, dims)) for name, dims in outputs.items())
        opsets = _message(8, _message(1, b"") + _integer(2, OPSET))
        opsets += _message(8, _message(1, MICROSOFT.encode()) + _integer(2, 1))
        return _integer(1, IR_VERSION) + _message(7, graph) + opsets


def _attribute(name: str, value: float | int) -> bytes:
    data = _message(1, name.encode())
    if isinstance(value, int):
        return data + _integer(3, value & (1 << 64) - 1) + _integer(20, 2)
    return data + _number(2 << 3 | 5) + struct.pack("<f", value) + _integer(20, 1)


def _value(name: str, kind: int, dims: Sequence[str]) -> bytes:
    shape = b"".join(_message(1, _message(2, dim.encode())) for dim in dims)
    tensor = _integer(1, kind) + _message(2, shape)
    return _message(1, name.encode()) + _message(2, _message(1, tensor))
