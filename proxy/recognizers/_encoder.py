"""Rampart's encoder (MiniLM, six layers of 384) as a graph of fused int8 operators, made in memory.

The published graph computes in float32 with 4-bit weights, slower than int8 where the processor multiplies int8
natively, and leaves attention, GELU and normalisation to dozens of small operators. Here every dense layer is one
`DynamicQuantizeMatMul` (query, key and value share one), so a token costs a quarter of the time. Making it takes a
tenth of a second, so nothing is written to disk. Other layers than the published ones may stand on its embeddings.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from proxy.recognizers._layers import Layer, Layers, Matrix, Norm
from proxy.recognizers._onnx import INT32, INT64, Array, Graph, Source

HEADS: Final = 12
_EPSILON: Final = 1e-12
EMBEDDINGS: Final = "bert.embeddings."


class Encoder:
    """Token classification for batches of token ids. May be used by several threads."""

    def __init__(self, source: Source, layers: Layers, groups: Array) -> None:
        """`source` gives the embeddings, `groups` [labels, kinds] which labels make a kind. Raises KeyError when the
        source is not the graph this was written for."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The graph comes fused; the extended level would put the slow operators back in (see `_normal`).
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        graph = _Builder(source, layers, groups).build()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(self, windows: Sequence[Sequence[int]]) -> Array:
        """Logits (windows, longest window, labels); what lies behind a shorter window's end is meaningless."""
        return self._asked(windows, "logits")

    def kinds(self, windows: Sequence[Sequence[int]]) -> Array:
        """As `run`: probabilities (windows, longest window, kinds)."""
        return self._asked(windows, "kinds")

    def _asked(self, windows: Sequence[Sequence[int]], output: str) -> Array:
        lengths = np.array([len(window) for window in windows], np.int32)
        ids = np.zeros((len(windows), int(lengths.max())), np.int64)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = window
        feed = {"ids": ids, "positions": np.arange(ids.shape[1]), "lengths": lengths}
        answer: Array = self._session.run([output], feed)[0]
        return answer


class _Builder:
    """A graph with the inputs `ids` [b, s], `positions` [s], `lengths` [b] and the outputs `logits` [b, s, labels] and
    `kinds` [b, s, kinds]."""

    def __init__(self, source: Source, layers: Layers, groups: Array) -> None:
        self._tensors = source.tensors
        self._layers = layers
        self._groups = groups
        self._graph = Graph()

    def build(self) -> bytes:
        """Serialised."""
        hidden = self._embedded()
        for layer in self._layers.layers:
            hidden = self._layer(hidden, layer)
        logits = self._matmul(hidden, self._layers.head)
        self._graph.name(logits, "logits")
        chances = self._graph.node("Softmax", logits, axis=-1)[0]
        self._graph.name(self._graph.node("MatMul", chances, self._graph.weight(self._groups))[0], "kinds")
        inputs = {"ids": (INT64, ("b", "s")), "positions": (INT64, ("s",)), "lengths": (INT32, ("b",))}
        return self._graph.model(inputs, {"logits": ("b", "s", "labels"), "kinds": ("b", "s", "kinds")})

    def _tensor(self, name: str) -> str:
        return self._graph.weight(self._tensors[name])

    def _embedded(self) -> str:
        word = EMBEDDINGS + "word_embeddings.weight_"
        rows = self._graph.node("Gather", self._tensor(word + "quantized"), "ids")[0]
        scale, zero = self._tensor(word + "scale"), self._tensor(word + "zero_point")
        words = self._graph.node("DequantizeLinear", rows, scale, zero)[0]
        # Every token is of type 0, so that its row can be added once and for all.
        positions = table(self._tensors, "position_embeddings") + table(self._tensors, "token_type_embeddings")[0]
        places = self._graph.node("Gather", self._graph.weight(positions.astype(np.float32)), "positions")[0]
        norm = EMBEDDINGS + "LayerNorm."
        return self._normal(words, places, Norm(self._tensors[norm + "weight"], self._tensors[norm + "bias"]))

    def _layer(self, hidden: str, layer: Layer) -> str:
        whole = self._matmul(hidden, layer.query_key_value, biased=False)
        query_key_value = self._graph.node("Split", whole, outputs=3, axis=-1)
        bias = self._graph.weight(layer.query_key_value.bias)
        attended = self._microsoft("MultiHeadAttention", *query_key_value, bias, "lengths", num_heads=HEADS)
        hidden = self._normal(self._matmul(attended, layer.attended), hidden, layer.norm)
        inner = self._matmul(hidden, layer.inner, biased=False)
        inner = self._microsoft("BiasGelu", inner, self._graph.weight(layer.inner.bias))
        return self._normal(self._matmul(inner, layer.outer), hidden, layer.last_norm)

    def _matmul(self, value: str, matrix: Matrix, *, biased: bool = True) -> str:
        inputs = [value, self._graph.weight(matrix.columns), self._graph.weight(matrix.scale)]
        if biased:
            inputs += [self._graph.weight(np.zeros(matrix.scale.shape, np.int8)), self._graph.weight(matrix.bias)]
        return self._microsoft("DynamicQuantizeMatMul", *inputs)

    def _normal(self, value: str, skip: str, norm: Norm) -> str:
        """The sum with what went round, normalised. `SkipLayerNormalization` would be one operator for both, but sums
        row by row without vector instructions: eight times the cost."""
        both = self._graph.node("Add", value, skip)[0]
        weights = self._graph.weight(norm.weight), self._graph.weight(norm.bias)
        return self._graph.node("LayerNormalization", both, *weights, epsilon=_EPSILON, axis=-1)[0]

    def _microsoft(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self._graph.node(operator, *inputs, microsoft=True, **attributes)[0]


def table(tensors: Mapping[str, Array], name: str) -> Array:
    """One of the tables of embeddings as float32."""
    stem = f"{EMBEDDINGS}{name}.weight_"
    quantized, zero, scale = (tensors[stem + part] for part in ("quantized", "zero_point", "scale"))
    rows: Array = (quantized.astype(np.float32) - zero.astype(np.float32)) * scale
    return rows
