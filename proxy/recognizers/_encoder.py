"""Rampart's encoder (MiniLM, six layers of 384) as a graph of fused int8 operators, made in memory.

The published graph computes in float32 with 4-bit weights, slower than int8 where the processor multiplies int8
natively, and leaves attention, GELU and normalisation to dozens of small operators. Here every dense layer is one
`DynamicQuantizeMatMul` (query, key and value share one), so a token costs a quarter of the time. The weights go from
4 bits per block to 7 bits per column: 7, not 8, so that the 16-bit sums of processors without VNNI cannot saturate and
every machine gives the same answer. Making it takes a tenth of a second, so nothing is written to disk.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from proxy.recognizers._onnx import INT32, INT64, Array, Graph, Source, read

LAYERS: Final = 6
HEADS: Final = 12
_EPSILON: Final = 1e-12
_LEVELS: Final = 63
_EMBEDDINGS: Final = "bert.embeddings."


class Encoder:
    """Token classification logits for batches of token ids. `run` may be called from several threads."""

    def __init__(self, model: bytes) -> None:
        """Raises KeyError, ValueError or IndexError when `model` is not the graph this was written for."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The graph comes fused; the extended level would put the slow operators back in (see `_joined`).
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        graph = int8_graph(read(model))
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(self, windows: Sequence[Sequence[int]]) -> Array:
        """(windows, longest window, labels); what lies behind a shorter window's end is meaningless."""
        lengths = np.array([len(window) for window in windows], np.int32)
        ids = np.zeros((len(windows), int(lengths.max())), np.int64)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = window
        feed = {"ids": ids, "positions": np.arange(ids.shape[1]), "lengths": lengths}
        logits: Array = self._session.run(None, feed)[0]
        return logits


def load(path: Path) -> Encoder:
    return Encoder(path.read_bytes())


def int8_graph(source: Source) -> bytes:
    """The serialised graph: inputs `ids` [b, s], `positions` [s], `lengths` [b]; output `logits` [b, s, labels]."""
    return _Builder(source).build()


def _unpacked(packed: Array, scales: Array) -> Array:
    """4-bit blocks of MatMulNBits (low nibble first, zero point 8) as float32 [out, in]."""
    out, blocks, half = packed.shape
    nibbles = np.stack([packed & 15, packed >> 4], -1).reshape(out, blocks, 2 * half)
    weights: Array = (nibbles.astype(np.float32) - 8) * scales.reshape(out, blocks, 1)
    return weights.reshape(out, -1)


class _Builder:
    def __init__(self, source: Source) -> None:
        self._tensors = source.tensors
        self._dense: Mapping[str, Array] = {
            outputs[0]: _unpacked(source.tensors[inputs[1]], source.tensors[inputs[2]])
            for operator, inputs, outputs in source.nodes
            if operator == "MatMulNBits"
        }
        self._graph = Graph()

    def build(self) -> bytes:
        hidden = self._embedded()
        for layer in range(LAYERS):
            hidden = self._layer(hidden, f"bert.encoder.layer.{layer}.", f"/bert/encoder/layer.{layer}/")
        logits = self._matmul(hidden, self._dense["/classifier/MatMul_output_0"], self._tensor("classifier.bias"))
        self._graph.name(logits, "logits")
        inputs = {"ids": (INT64, ("b", "s")), "positions": (INT64, ("s",)), "lengths": (INT32, ("b",))}
        return self._graph.model(inputs, {"logits": ("b", "s", "labels")})

    def _tensor(self, name: str) -> str:
        return self._graph.weight(self._tensors[name])

    def _embedded(self) -> str:
        word = _EMBEDDINGS + "word_embeddings.weight_"
        rows = self._graph.node("Gather", self._tensor(word + "quantized"), "ids")[0]
        scale, zero = self._tensor(word + "scale"), self._tensor(word + "zero_point")
        words = self._graph.node("DequantizeLinear", rows, scale, zero)[0]
        # Every token is of type 0, so that its row can be added once and for all.
        table = self._table("position_embeddings") + self._table("token_type_embeddings")[0]
        places = self._graph.node("Gather", self._graph.weight(table.astype(np.float32)), "positions")[0]
        both = self._graph.node("Add", words, places)[0]
        norm = _EMBEDDINGS + "LayerNorm."
        weights = self._tensor(norm + "weight"), self._tensor(norm + "bias")
        return self._graph.node("LayerNormalization", both, *weights, epsilon=_EPSILON, axis=-1)[0]

    def _table(self, name: str) -> Array:
        stem = f"{_EMBEDDINGS}{name}.weight_"
        quantized, zero, scale = (self._tensors[stem + part] for part in ("quantized", "zero_point", "scale"))
        table: Array = (quantized.astype(np.float32) - zero.astype(np.float32)) * scale
        return table

    def _layer(self, hidden: str, names: str, paths: str) -> str:
        parts = ("query", "key", "value")
        weights = np.concatenate([self._dense[f"{paths}attention/self/{part}/MatMul_output_0"] for part in parts])
        biases = np.concatenate([self._tensors[f"{names}attention.self.{part}.bias"] for part in parts])
        query_key_value = self._graph.node("Split", self._matmul(hidden, weights), outputs=3, axis=-1)
        attended = self._microsoft(
            "MultiHeadAttention", *query_key_value, self._graph.weight(biases), "lengths", num_heads=HEADS
        )
        hidden = self._joined(attended, hidden, paths + "attention/output/", names + "attention.output.")
        inner = self._matmul(hidden, self._dense[paths + "intermediate/dense/MatMul_output_0"])
        inner = self._microsoft("BiasGelu", inner, self._tensor(names + "intermediate.dense.bias"))
        return self._joined(inner, hidden, paths + "output/", names + "output.")

    def _matmul(self, value: str, weights: Array, bias: str = "") -> str:
        scale = np.abs(weights).max(axis=1) / _LEVELS
        scale[scale == 0] = 1
        columns = np.rint(weights / scale[:, None]).astype(np.int8).T
        inputs = [value, self._graph.weight(columns), self._graph.weight(scale.astype(np.float32))]
        if bias:
            inputs += [self._graph.weight(np.zeros(scale.shape, np.int8)), bias]
        return self._microsoft("DynamicQuantizeMatMul", *inputs)

    def _joined(self, value: str, skip: str, paths: str, names: str) -> str:
        """A dense layer, what went round it, and normalisation. `SkipLayerNormalization` would be one operator for the
        last two, but sums row by row without vector instructions: eight times the cost."""
        dense = self._matmul(value, self._dense[paths + "dense/MatMul_output_0"], self._tensor(names + "dense.bias"))
        both = self._graph.node("Add", dense, skip)[0]
        weights = (self._tensor(names + part) for part in ("LayerNorm.weight", "LayerNorm.bias"))
        return self._graph.node("LayerNormalization", both, *weights, epsilon=_EPSILON, axis=-1)[0]

    def _microsoft(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self._graph.node(operator, *inputs, microsoft=True, **attributes)[0]
