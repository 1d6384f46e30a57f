"""ONNX by hand: what is written reads back and runs; what is broken is an error that loading knows, never a hang."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.recognizers import _onnx
from proxy.recognizers._onnx import INT32, INT64, Graph

KNOWN = (IndexError, KeyError, ValueError)


def written() -> bytes:
    graph = Graph()
    table = graph.weight(np.arange(6, dtype=np.float32).reshape(3, 2))
    rows = graph.node("Gather", table, "ids", axis=0)[0]
    parts = graph.node("Split", rows, outputs=2, axis=-1)
    graph.name(graph.node("Add", *parts)[0], "sums")
    return graph.model({"ids": (INT64, ("n",))}, {"sums": ("n", "one")})


def test_what_is_written_runs() -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(written(), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"ids": np.array([2, 0])})
    assert sums.tolist() == [[9.0], [1.0]]


def test_what_is_written_reads_back() -> None:
    source = _onnx.read(written())
    assert source.tensors["w0"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert [(operator, len(inputs), len(outputs)) for operator, inputs, outputs in source.nodes] == [
        ("Gather", 2, 1), ("Split", 1, 2), ("Add", 2, 1), ("Identity", 1, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [np.float32, np.uint8, np.int8, np.int32, np.int64])
def test_every_element_type_keeps_its_values_and_shape(kind: type) -> None:
    graph = Graph()
    given_array = np.array([[1, 2, 3], [4, 5, 100]]).astype(kind)
    graph.weight(given_array.T)
    read = _onnx.read(graph.model({}, {})).tensors["w0"]
    assert read.dtype == kind
    assert read.tolist() == given_array.T.tolist()


def test_numbers_packed_as_varints_are_read() -> None:
    """onnx.proto: `int32_data` (field 5) holds small integer types too."""
    tensor = b"\x08\x03" + b"\x10\x06" + b"\x2a\x04\x01\xac\x02\x7f" + b"\x42\x01p"
    model = b"\x3a" + bytes([len(tensor) + 2]) + b"\x2a" + bytes([len(tensor)]) + tensor
    assert _onnx.read(model).tensors["p"].tolist() == [1, 300, 127]


@given(st.integers(0, (1 << 64) - 1))
def test_numbers_of_any_size_come_back(value: int) -> None:
    assert list(_onnx.fields(memoryview(_onnx._integer(9, value)))) == [(9, value)]


@pytest.mark.parametrize(
    "data",
    [b"\x0b", b"\x0a\x05ab", b"\x08\x80", b"\x0a\xff\xff\xff\xff\x0f", b"\x80"],
    ids=["a group", "shorter than it says", "an open varint", "a huge length", "no whole tag"],
)
def test_broken_messages_are_errors(data: bytes) -> None:
    with pytest.raises(KNOWN):
        list(_onnx.fields(memoryview(data)))


@given(st.integers(1, len(written()) - 1))
def test_a_model_cut_anywhere_is_an_error_or_has_lost_its_end_only(at: int) -> None:
    try:
        source = _onnx.read(written()[:at])
    except KNOWN:
        return
    assert source.nodes in ([], _onnx.read(written()).nodes)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_end_in_a_known_error_or_nothing(data: bytes) -> None:
    try:
        _onnx.read(b"\x3a" + bytes([len(data) & 127]) + data[:127])
    except KNOWN:
        pass


@pytest.mark.parametrize(
    "graph",
    [b"\x08\x00", b"\x28\x01", b"\x2a\x02\x40\x7f", b"\x0a\x02\x08\x01", b"\x0a\x02\x20\x01", b"\x2a\x02\x0a\x00"],
)
def test_a_field_of_the_wrong_kind_is_an_error(graph: bytes) -> None:
    with pytest.raises(KNOWN):
        _onnx.read(b"\x3a" + bytes([len(graph)]) + graph)


def test_element_types_are_onnx_numbers() -> None:
    assert (INT32, INT64) == (6, 7)
