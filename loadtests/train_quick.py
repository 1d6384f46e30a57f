"""Trains the small encoder (`proxy/recognizers/rampart_quick.npz`): `python -m loadtests.train_quick [--data DIR]`.

Three layers on Rampart's own embeddings, begun as three of its six with half of their inner neurons, learn to give the
probabilities that the six give, on what the token gate shows them (`quick_texts.py`). Needs jax and Faker. Weights are
rounded to what will be stored while they are trained. What the package carries went on from such weights (`--from`) for
4,000 steps with `--rate 3e-4`. Everything is seeded, but for the order of float sums.
"""

import argparse
import hashlib
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from loadtests.quick_texts import Part, parts
from proxy.recognizers import _encoder, _gate, _layers, _onnx, rampart

ROOT = Path(__file__).resolve().parent.parent
FROM_LAYERS = (0, 2, 4)
INNER = 768
SIZES = (12, 16, 20, 28, 40, 64, 128)
"""Windows are padded to one of these: each is compiled once."""
USUAL = 20
BATCH_TOKENS = 2048
STEPS = 3000
RATE, LAST_RATE, WARM_STEPS = 6e-4, 0.02, 60
DECAY = 0.01
BETA, BETA_SQUARES, EPSILON = 0.9, 0.98, 1e-8
KIND_WEIGHT, LABEL_WEIGHT = 1.0, 0.5
LEAST_LOG = -20.0
SHOWN = ((-1.0, 3), (-1.0, 3), (-1.0, 3), (-1.0, 2), (-1.0, 5), (-2.0, 3))
"""Thresholds and widths of the gate, so that where a window ends is not learnt by heart."""

type Array = Any
type Weights = dict[str, Any]


class Window(NamedTuple):
    ids: tuple[int, ...]
    share: float


def windows(every: Sequence[Part]) -> list[Window]:
    """Each different window of each part once."""
    pick, model = random.Random(5), rampart.model()
    found = []
    for part in every:
        seen: set[tuple[int, ...]] = set()
        for text in part.texts:
            for start, end in _gate.regions(text, *pick.choice(SHOWN)):
                region = rampart._region(model, 0, text, start, end)
                seen.update(tuple(region.pieces.ids[each.start : each.end]) for each in rampart._windows([region]))
        found += [Window((model.cls, *ids, model.sep), part.share) for ids in sorted(seen) if ids]
    return found


def taught(every: Sequence[Window]) -> list[Array]:
    """The model's log-probabilities [pieces, labels] of each window."""
    model, result = rampart.model(), [np.zeros(0)] * len(every)
    order = sorted(range(len(every)), key=lambda at: len(every[at].ids))
    for first in range(0, len(order), 24):
        some = order[first : first + 24]
        logits = model.encoder.run([every[at].ids for at in some])
        for at, row in zip(some, logits, strict=True):
            logs = row[: len(every[at].ids)] - row[: len(every[at].ids)].max(-1, keepdims=True)
            logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
            result[at] = np.maximum(logs, LEAST_LOG).astype(np.float16)
    return result


def normal(value: Array, weight: Array, bias: Array) -> Array:
    centred = value - value.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * weight + bias


@jax.custom_jvp
def rounded(weights: Array) -> Array:
    """To seven bits per column, as stored; the gradient goes through."""
    scale = jnp.maximum(jnp.abs(weights).max(0), 1e-8) / 63
    return jnp.round(weights / scale) * scale


rounded.defjvps(lambda change, _result, _weights: change)


def dense(value: Array, weights: Weights) -> Array:
    return value @ rounded(weights["weight"]) + weights["bias"]


def layer(hidden: Array, mask: Array, weights: Weights) -> tuple[Array, Array]:
    """(output, inner activations)"""
    shape = (*hidden.shape[:2], 3, _encoder.HEADS, -1)
    query, key, value = jnp.moveaxis(dense(hidden, weights["query_key_value"]).reshape(shape), 2, 0)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1]) + mask[:, None, None, :]
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), value).reshape(hidden.shape)
    hidden = normal(dense(mixed, weights["attended"]) + hidden, **weights["norm"])
    inner = jax.nn.gelu(dense(hidden, weights["inner"]), approximate=False)
    return normal(dense(inner, weights["outer"]) + hidden, **weights["last_norm"]), inner


def forward(weights: Weights, embedded: Array, lengths: Array) -> tuple[Array, list[Array]]:
    """(logits, inner activations of each layer) of [windows, pieces, width]."""
    mask = jnp.where(jnp.arange(embedded.shape[1])[None] < lengths[:, None], 0.0, -1e4)
    hidden, inner = embedded, []
    for each in weights["layers"]:
        hidden, active = layer(hidden, mask, each)
        inner.append(active)
    return dense(hidden, weights["head"]), inner


def loss(weights: Weights, embedded: Array, logs: Array, lengths: Array, groups: Array) -> tuple[Array, Array]:
    """(divergence from the model per piece: labels and kinds, share of pieces of the same kind)"""
    places = jnp.arange(embedded.shape[1])[None]
    counted = ((places > 0) & (places < lengths[:, None] - 1)).astype(jnp.float32)
    ours = jax.nn.log_softmax(forward(weights, embedded, lengths)[0])
    theirs = jnp.exp(logs)
    kinds = theirs @ groups / (theirs @ groups).sum(-1, keepdims=True)
    our_kinds = jnp.log(jnp.exp(ours) @ groups + 1e-9)
    by_label = (theirs * (logs - ours)).sum(-1)
    by_kind = (kinds * (jnp.log(kinds + 1e-9) - our_kinds)).sum(-1)
    same = (our_kinds.argmax(-1) == kinds.argmax(-1)).astype(jnp.float32)
    total = LABEL_WEIGHT * by_label + KIND_WEIGHT * by_kind
    return (total * counted).sum() / counted.sum(), (same * counted).sum() / counted.sum()


@jax.jit
def step(weights: Weights, state: Weights, rate: Array, number: Array, *batch: Array) -> tuple[Any, ...]:
    """Adam with clipped gradients: (weights, state, loss, share of the same kind)."""
    (value, same), slope = jax.value_and_grad(loss, has_aux=True)(weights, *batch)
    size = jnp.sqrt(sum(jnp.vdot(each, each) for each in jax.tree.leaves(slope)))
    slope = jax.tree.map(lambda each: each / jnp.maximum(1, size), slope)
    means = jax.tree.map(lambda old, new: BETA * old + (1 - BETA) * new, state["means"], slope)
    squares = jax.tree.map(lambda old, new: BETA_SQUARES * old + (1 - BETA_SQUARES) * new**2, state["squares"], slope)

    def moved(weight: Array, mean: Array, square: Array) -> Array:
        change = mean / (1 - BETA**number) / (jnp.sqrt(square / (1 - BETA_SQUARES**number)) + EPSILON)
        return weight - rate * (change + DECAY * weight)

    weights = jax.tree.map(moved, weights, means, squares)
    return weights, {"means": means, "squares": squares}, value, same


def begun(embed: "Embeddings", ids: Sequence[Sequence[int]]) -> Weights:
    """Three of the published layers, each with the inner neurons that weigh most on `ids`."""
    published = _layers.published(embed.source)
    whole = {"layers": [_floats(each) for each in published.layers], "head": _floats(published.head)}
    embedded, lengths = embed(ids)
    _, inner = jax.jit(forward)(whole, embedded, lengths)
    chosen = []
    for number in FROM_LAYERS:
        weights = whole["layers"][number]
        weight = np.abs(np.asarray(inner[number])).mean((0, 1)) * np.linalg.norm(weights["outer"]["weight"], axis=1)
        kept = np.sort(np.argsort(-weight)[:INNER])
        weights["inner"] = {name: each[..., kept] for name, each in weights["inner"].items()}
        weights["outer"] = weights["outer"] | {"weight": weights["outer"]["weight"][kept]}
        chosen.append(weights)
    return {"layers": chosen, "head": whole["head"]}


def _floats(part: Any) -> Any:
    if isinstance(part, _layers.Matrix):
        return {"weight": jnp.asarray(part.columns * part.scale), "bias": jnp.asarray(part.bias)}
    if isinstance(part, _layers.Norm):
        return {"weight": jnp.asarray(part.weight), "bias": jnp.asarray(part.bias)}
    return {name: _floats(getattr(part, name)) for name in _layers.Layer.__slots__}


class Embeddings:
    """Rampart's, which stay as they are."""

    def __init__(self) -> None:
        self.source = _onnx.read((rampart.directory() / rampart.GRAPH).read_bytes())
        tensors = self.source.tensors
        norm = _encoder.EMBEDDINGS + "LayerNorm."
        self._words = _encoder.table(tensors, "word_embeddings")
        self._places = _encoder.table(tensors, "position_embeddings")
        self._places = self._places + _encoder.table(tensors, "token_type_embeddings")[0]
        self._norm = tensors[norm + "weight"], tensors[norm + "bias"]

    def __call__(self, ids: Sequence[Sequence[int]], size: int = 0) -> tuple[Array, Array]:
        """([windows, size, width], lengths)"""
        lengths = np.array([len(each) for each in ids], np.int32)
        padded = np.zeros((len(ids), size or int(lengths.max())), np.int64)
        for row, each in enumerate(ids):
            padded[row, : len(each)] = each
        return normal(self._words[padded] + self._places[: padded.shape[1]], *self._norm), lengths


def batches(every: Sequence[Window]) -> Iterator[tuple[list[int], int]]:
    """Places of windows of like size, without end; a window comes as often as its share says."""
    pick = np.random.default_rng(1)
    share = np.array([each.share for each in every])
    bucket = np.searchsorted(SIZES, [len(each.ids) for each in every])
    while True:
        times = share.astype(int) + (pick.random(len(share)) < share % 1)
        found = []
        for number, size in enumerate(SIZES):
            pool = pick.permutation(np.repeat(np.arange(len(share)), times * (bucket == number)))
            count = BATCH_TOKENS // size
            found += [(pool[at : at + count].tolist(), size) for at in range(0, len(pool) - count + 1, count)]
        yield from (found[at] for at in pick.permutation(len(found)))


def gone_on_from(path: Path) -> Weights:
    """The weights that an earlier training stored."""
    read = _layers.read(path)
    return {"layers": [_floats(each) for each in read.layers], "head": _floats(read.head)}


def train(every: Sequence[Window], steps: int, top_rate: float, earlier: Path | None) -> Weights:
    embed = Embeddings()
    logs = taught(every)
    if earlier is None:
        weights = begun(embed, [each.ids for each in every if len(each.ids) == USUAL][:400])
    else:
        weights = gone_on_from(earlier)
    zeros = partial(jax.tree.map, jnp.zeros_like)
    state = {"means": zeros(weights), "squares": zeros(weights)}
    groups = rampart.model().groups
    for number, (places, size) in zip(range(1, steps + 1), batches(every), strict=False):
        embedded, lengths = embed([every[at].ids for at in places], size)
        theirs = np.full((len(places), size, groups.shape[0]), LEAST_LOG, np.float32)
        for row, at in enumerate(places):
            theirs[row, : len(logs[at])] = logs[at]
        fall = LAST_RATE + (1 - LAST_RATE) * (1 + np.cos(np.pi * number / steps)) / 2
        rate = top_rate * min(1, number / WARM_STEPS) * fall
        weights, state, value, same = step(weights, state, rate, number, embedded, theirs, lengths, groups)
        if number % 100 == 0:
            print(f"{number}: loss {value:.3f}, same kind {same:.3f}", file=sys.stderr)
    return weights


def stored(weights: Mapping[str, Any]) -> dict[str, Array]:
    def part(kind: Any, found: Mapping[str, Array]) -> Any:
        weight, bias = np.asarray(found["weight"]), np.asarray(found["bias"])
        return _layers.Matrix.of(weight.T, bias) if kind is _layers.Matrix else kind(weight, bias)

    kinds = _layers.Layer.__annotations__
    every = [_layers.Layer(*(part(kinds[name], each[name]) for name in kinds)) for each in weights["layers"]]
    return _layers.stored(_layers.Layers(every, part(_layers.Matrix, weights["head"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(os.environ.get("EGRESS_SHARED_DATA", ROOT.parent / "shared/data"))
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--out", type=Path, default=rampart.QUICK_PATH)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rate", type=float, default=RATE, help="the highest")
    parser.add_argument("--from", dest="earlier", type=Path, help="go on from these weights")
    args = parser.parse_args()
    every = windows(list(parts(args.data)))
    print(f"{len(every)} windows, {sum(len(each.ids) for each in every)} pieces", file=sys.stderr)
    np.savez_compressed(args.out, **stored(train(every, args.steps, args.rate, args.earlier)))
    print(f"for _intact.OWN: {hashlib.sha256(args.out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
