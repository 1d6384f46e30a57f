"""The layers of an encoder (BERT's, LayerNorm behind each half) as int8 matrices: read from the published graph of
Rampart, or from a file of our own (`loadtests/train_quick.py` makes it).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from proxy.recognizers._onnx import Array, Source

LAYERS: Final = 6
WIDTH: Final = 384
_LEVELS: Final = 63
_HEAD: Final = "head"


@dataclass(frozen=True, slots=True)
class Matrix:
    """7 bits per column: 7, not 8, so that the 16-bit sums of processors without VNNI cannot saturate and every
    machine gives the same answer. `columns` int8 [in, out], `scale` float32 [out]."""

    columns: Array
    scale: Array
    bias: Array

    @classmethod
    def of(cls, weights: Array, bias: Array) -> "Matrix":
        """`weights` float [out, in]."""
        scale = np.abs(weights).max(axis=1) / _LEVELS
        scale[scale == 0] = 1
        columns = np.rint(weights / scale[:, None]).astype(np.int8).T
        return cls(np.ascontiguousarray(columns), scale.astype(np.float32), bias)


@dataclass(frozen=True, slots=True)
class Norm:
    weight: Array
    bias: Array


@dataclass(frozen=True, slots=True)
class Layer:
    query_key_value: Matrix
    attended: Matrix
    norm: Norm
    inner: Matrix
    outer: Matrix
    last_norm: Norm


@dataclass(frozen=True, slots=True)
class Layers:
    layers: Sequence[Layer]
    head: Matrix
    """To the labels."""


def published(source: Source) -> Layers:
    """All six of Rampart. Raises KeyError when `source` is not its graph."""
    dense = {
        outputs[0]: unpacked(source.tensors[inputs[1]], source.tensors[inputs[2]])
        for operator, inputs, outputs in source.nodes
        if operator == "MatMulNBits"
    }
    head = Matrix.of(dense["/classifier/MatMul_output_0"], source.tensors["classifier.bias"])
    return Layers([_published(source.tensors, dense, number) for number in range(LAYERS)], head)


def _published(tensors: Mapping[str, Array], dense: Mapping[str, Array], number: int) -> Layer:
    names, paths = f"bert.encoder.layer.{number}.", f"/bert/encoder/layer.{number}/"

    def matrix(*parts: str) -> Matrix:
        weights = np.concatenate([dense[f"{paths}{part.replace('.', '/')}/MatMul_output_0"] for part in parts])
        return Matrix.of(weights, np.concatenate([tensors[f"{names}{part}.bias"] for part in parts]))

    def norm(part: str) -> Norm:
        return Norm(tensors[f"{names}{part}.weight"], tensors[f"{names}{part}.bias"])

    return Layer(
        matrix(*(f"attention.self.{part}" for part in ("query", "key", "value"))),
        matrix("attention.output.dense"),
        norm("attention.output.LayerNorm"),
        matrix("intermediate.dense"),
        matrix("output.dense"),
        norm("output.LayerNorm"),
    )


def unpacked(packed: Array, scales: Array) -> Array:
    """4-bit blocks of MatMulNBits (low nibble first, zero point 8) as float32 [out, in]."""
    out, blocks, half = packed.shape
    nibbles = np.stack([packed & 15, packed >> 4], -1).reshape(out, blocks, 2 * half)
    weights: Array = (nibbles.astype(np.float32) - 8) * scales.reshape(out, blocks, 1)
    return weights.reshape(out, -1)


def stored(layers: Layers) -> dict[str, Array]:
    """As named arrays, for `np.savez`."""
    parts = [(_HEAD, layers.head)]
    for number, layer in enumerate(layers.layers):
        parts += [(f"{number}.{each.name}", getattr(layer, each.name)) for each in fields(Layer)]
    return {f"{name}.{each.name}": getattr(part, each.name) for name, part in parts for each in fields(part)}


def read(path: Path) -> Layers:
    """What `stored` gave. Raises OSError, KeyError or ValueError when it is something else."""
    with np.load(path, allow_pickle=False) as arrays:
        count = 1 + max(int(name.partition(".")[0]) for name in arrays.files if not name.startswith(_HEAD))
        return Layers([_stored(arrays, number) for number in range(count)], _part(arrays, _HEAD, Matrix))


def _stored(arrays: Mapping[str, Array], number: int) -> Layer:
    return Layer(*(_part(arrays, f"{number}.{each.name}", each.type) for each in fields(Layer)))


def _part(arrays: Mapping[str, Array], name: str, kind: Any) -> Any:
    return kind(*(arrays[f"{name}.{each.name}"] for each in fields(kind)))
