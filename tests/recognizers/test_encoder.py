"""The fused int8 graph says what the published graph says, whatever it is batched with."""

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxy.recognizers import _encoder, _layers, _onnx, rampart
from proxy.recognizers._onnx import Array, Graph

TEXTS = (
    "Please call Jane Roe on Monday about the invoice for 12 Main Street in Springfield.",
    "Karl-Heinz Müller wohnt in der Hauptstraße 5 in 50667 Köln und arbeitet bei der Post.",
    "Write a function that merges two sorted lists and returns the result.",
)


@cache
def published() -> Path:
    spec = importlib.util.find_spec(rampart.PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models/rampart/onnx/model_q4.onnx"


def windows(texts: Sequence[str] = TEXTS) -> list[list[int]]:
    model = rampart.model()
    return [[model.cls, *model.cutter.cut(text, 0, len(text)).ids, model.sep] for text in texts]


def reference(ids: Sequence[int]) -> Array:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(str(published()), providers=["CPUExecutionProvider"])
    feed = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64),
            "token_type_ids": np.zeros((1, len(ids)), np.int64)}  # fmt: skip
    wanted = {each.name for each in session.get_inputs()}
    logits: Array = session.run(None, {name: value for name, value in feed.items() if name in wanted})[0][0]
    return logits


def probabilities(logits: Array) -> Array:
    """Softmax over the labels, summed per kind."""
    chances = np.exp(logits - logits.max(-1, keepdims=True))
    summed: Array = chances / chances.sum(-1, keepdims=True) @ rampart.model().groups
    return summed


def kinds(logits: Array) -> Array:
    return np.asarray(probabilities(logits).argmax(-1))


@pytest.mark.parametrize("text", TEXTS)
def test_it_says_what_the_published_graph_says(text: str) -> None:
    (ids,) = windows([text])
    ours, theirs = rampart.model().encoder.run([ids])[0], reference(ids)
    assert ours.shape == theirs.shape
    assert (kinds(ours) == kinds(theirs)).mean() >= 0.95


def test_kinds_are_the_labels_of_each_kind_together() -> None:
    encoder, (ids, _, _) = rampart.model().encoder, windows()
    assert encoder.kinds([ids])[0] == pytest.approx(probabilities(encoder.run([ids])[0]), abs=1e-5)


def test_what_a_window_is_batched_with_changes_no_decision() -> None:
    encoder, every = rampart.model().encoder, windows()
    together = encoder.run(every)
    for row, ids in enumerate(every):
        alone = encoder.run([ids])[0]
        assert (kinds(together[row, : len(ids)]) == kinds(alone)).mean() >= 0.95


def test_padding_is_not_attended_to() -> None:
    """Activations are quantised per batch, so a little differs anyhow; attention to what is no token differs more."""
    encoder, (ids, longer, _) = rampart.model().encoder, windows()
    short = ids[:6]
    beside = encoder.run([short, longer])[0, : len(short)]
    masked_off = encoder.run([short + [0] * (len(longer) - len(short))])[0, : len(short)]
    alone = encoder.run([short])[0]
    assert 2 * np.abs(beside - alone).max() < np.abs(masked_off - alone).max()


def test_nibbles_are_unpacked_low_first_around_eight() -> None:
    packed = np.array([[[0x80, 0xF7]], [[0x08, 0x19]]], np.uint8)
    scales = np.array([0.5, 2.0], np.float32)
    assert _layers.unpacked(packed, scales).tolist() == [[-4, 0, -0.5, 3.5], [0, -16, 2, -14]]


def encoder_of(model: bytes) -> _encoder.Encoder:
    source = _onnx.read(model)
    return _encoder.Encoder(source, _layers.published(source), rampart.model().groups)


@pytest.mark.parametrize("model", [b"", b"no model", b"\x3a\x00", Graph().model({}, {})])
def test_what_is_not_the_model_is_refused(model: bytes) -> None:
    with pytest.raises((KeyError, ValueError, IndexError)):
        encoder_of(model)


def test_a_model_that_was_cut_is_refused() -> None:
    with pytest.raises((KeyError, ValueError, IndexError)):
        encoder_of(published().read_bytes()[:-1000])


def test_layers_are_read_as_they_were_stored(tmp_path: Path) -> None:
    layers = _layers.read(rampart.QUICK_PATH)
    np.savez(tmp_path / "again.npz", **_layers.stored(layers))
    again = _layers.read(tmp_path / "again.npz")
    before, after = _layers.stored(layers), _layers.stored(again)
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)
    assert [layer.inner.columns.shape for layer in again.layers] == [(384, 768)] * 3


@pytest.mark.parametrize("missing", ["head.bias", "1.inner.columns"])
def test_layers_with_a_part_missing_are_refused(missing: str, tmp_path: Path) -> None:
    kept = _layers.stored(_layers.read(rampart.QUICK_PATH))
    del kept[missing]
    np.savez(tmp_path / "less.npz", **kept)
    with pytest.raises(KeyError):
        _layers.read(tmp_path / "less.npz")


@pytest.mark.parametrize("text", TEXTS)
def test_the_small_encoder_says_what_the_whole_one_says(text: str) -> None:
    (ids,) = windows([text])
    ours, theirs = rampart.model().quick.run([ids])[0], rampart.model().encoder.run([ids])[0]
    assert ours.shape == theirs.shape
    assert (kinds(ours) == kinds(theirs)).mean() >= 0.9
