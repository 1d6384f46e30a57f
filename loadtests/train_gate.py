"""Trains the token gate (`proxy/recognizers/gate.npy`): `python loadtests/train_gate.py [--data DIR] [--out FILE]`.

The teacher is the model itself, shown everything: a word is positive when the model calls it a person or a place, so
no labels are needed. Texts: sentences of `dlp/pii_dev.json` (half of its templates, by hash; the
other half measures), the tweets, own sentences filled with made-up identities (`gate/templates.txt`), own ordinary
prompts, and documentation and source of the installed packages. Needs Faker; everything is seeded.
"""

import argparse
import hashlib
import json
import os
import random
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from proxy.model import Finding
from proxy.recognizers import _gate, rampart
from proxy.recognizers._onnx import Array

ROOT = Path(__file__).resolve().parent.parent
LOCALES = {
    "en": ["en_US", "en_GB", "en_CA", "en_IE", "en_IN", "en_AU"], "de": ["de_DE", "de_AT", "de_CH"],
    "es": ["es_ES", "es_MX"], "fr": ["fr_FR", "fr_CA"], "it": ["it_IT"], "pt": ["pt_BR", "pt_PT"],
    "nl": ["nl_NL", "nl_BE"],
}  # fmt: skip
EPOCHS = 4
BATCH_WORDS = 4096
POSITIVE_WEIGHT = 2.0
CHUNK_CHARS = 1200


def held_out(row: dict[str, Any]) -> bool:
    """Half of the templates measure: never trained on."""
    return hashlib.sha256(str(row["template_id"]).encode()).digest()[0] % 2 == 1


def filled(per_template: int) -> Iterator[str]:
    from faker import Faker

    Faker.seed(7)
    fakers = {lang: [Faker(locale) for locale in locales] for lang, locales in LOCALES.items()}
    pick = random.Random(7)
    for line in (ROOT / "loadtests/gate/templates.txt").read_text().splitlines():
        language, _, template = line.partition("|")
        for _ in range(per_template):
            fake = pick.choice(fakers[language])
            text = re.sub(r"\{([a-z]+)\}", partial(_hole, fake), template)
            text = text.replace("\\n", "\n")
            yield text.lower() if pick.random() < 0.1 else text


def _hole(fake: Any, hole: re.Match[str]) -> str:
    return identity(fake, hole[1])


def identity(fake: Any, kind: str) -> str:
    makers = {
        "name": fake.name, "first": fake.first_name, "last": fake.last_name, "city": fake.city, "zip": fake.postcode,
        "street": fake.street_address, "address": lambda: fake.address().replace("\n", ", "), "country": fake.country,
        "phone": fake.phone_number, "state": getattr(fake, "state", fake.city),
    }  # fmt: skip
    return str(makers[kind]()) if kind in makers else "{" + kind + "}"


def ordinary(limit_chars: int) -> Iterator[str]:
    """Documentation and source of installed packages, in pieces, evenly over packages."""
    for line in (ROOT / "loadtests/gate/ordinary.txt").read_text().splitlines():
        yield from [line] * 3
    packages = Path(np.__file__).parent.parent
    files = [*packages.glob("*.dist-info/METADATA"), *packages.glob("*/*.py"), *packages.glob("*/*/*.py")]
    files += [path for path in Path("/usr/share/doc").glob("*/README*") if path.suffix in {"", ".md", ".txt"}]
    pick = random.Random(3)
    pick.shuffle(files)
    taken = 0
    for path in files:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        start = pick.randrange(max(1, len(text) - CHUNK_CHARS))
        piece = text[start : start + CHUNK_CHARS]
        taken += len(piece)
        yield piece
        if taken > limit_chars:
            return


def tweets(path: Path) -> Iterator[str]:
    for block in path.read_text().split("\n\n"):
        yield " ".join(line.split("\t")[0] for line in block.splitlines() if line)


class Corpus:
    """Feature places and labels of every word, all texts behind one another."""

    def __init__(self) -> None:
        self.places: list[Array] = []
        self.labels: list[Array] = []
        self.weights: list[Array] = []
        self._known: dict[tuple[str, bool], Array] = {}

    def add(self, texts: Sequence[str], weight: float) -> None:
        for first in range(0, len(texts), 64):
            batch = texts[first : first + 64]
            for text, found in zip(batch, rampart.find_everywhere(batch), strict=True):
                self._one(text, [(item.start, item.end) for item in found if _wanted(text, item)], weight)

    def _one(self, text: str, spans: Sequence[tuple[int, int]], weight: float) -> None:
        parts = _gate.parts_of(text)
        words, gaps = (
            [self._of(part, gap=False) for part in parts[::2]],
            [self._of(part, gap=True) for part in parts[1::2]],
        )
        no_word, no_gap = np.zeros_like(words[0][0]), np.zeros(1, np.int64)
        label = np.zeros(len(words), np.float32)
        position = 0
        for index, part in enumerate(parts):
            end = position + len(part)
            if index % 2 == 0 and part and any(start < end and position < stop for start, stop in spans):
                label[index // 2] = 1
            position = end
        rows = []
        for index in range(len(words)):
            row = []
            for place in range(_gate.POSITIONS):
                shift = place - _gate.NEIGHBOURS
                at = index - shift
                row.append(words[at][place] if 0 <= at < len(words) else no_word)
                at = index - shift - 1
                row.append(gaps[at][place] if 0 <= at < len(gaps) else no_gap)
            rows.append(np.concatenate(row))
        keep = np.array([bool(part) for part in parts[::2]])
        self.places.append(np.array(rows, np.int32)[keep])
        self.labels.append(label[keep])
        self.weights.append(np.full(int(keep.sum()), weight, np.float32))

    def _of(self, part: str, *, gap: bool) -> Array:
        key = (part, gap)
        if key not in self._known:
            hashes = _gate.gap_features(part) if gap else _gate.features(part)
            self._known[key] = _gate.indices(np.array([hashes], np.uint64))[0]
        return self._known[key]


def _wanted(text: str, finding: Finding) -> bool:
    """Digits alone are no address."""
    return any(char.isalpha() for char in text[finding.start : finding.end])


def train(corpus: Corpus) -> Array:
    """Logistic regression with Adagrad."""
    places, labels = np.concatenate(corpus.places), np.concatenate(corpus.labels)
    weight = np.concatenate(corpus.weights) * np.where(labels > 0, POSITIVE_WEIGHT, 1.0).astype(np.float32)
    print(f"{len(labels)} words, {labels.mean():.3f} positive", file=sys.stderr)
    table = np.zeros(_gate.TABLE_SIZE, np.float32)
    squares = np.full(_gate.TABLE_SIZE, 1e-4, np.float32)
    order = np.random.default_rng(1)
    for epoch in range(EPOCHS):
        loss = 0.0
        shuffled = order.permutation(len(labels))
        for first in range(0, len(labels), BATCH_WORDS):
            rows = shuffled[first : first + BATCH_WORDS]
            at = places[rows]
            known = at > 0
            logit = table[_gate.BIAS] + (table[at] * known).sum(1)
            chance = 1 / (1 + np.exp(-logit))
            error = (chance - labels[rows]) * weight[rows]
            loss += float(np.abs(error).sum())
            gradient = np.bincount(at[known], np.repeat(error, known.sum(1)), _gate.TABLE_SIZE).astype(np.float32)
            gradient[_gate.BIAS] = error.sum()
            gradient = gradient / len(rows) ** 0.5 + 2e-5 * table
            squares += gradient * gradient
            table -= 0.15 * gradient / np.sqrt(squares)
        print(f"epoch {epoch}: mean error {loss / len(labels):.4f}", file=sys.stderr)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(os.environ.get("EGRESS_SHARED_DATA", ROOT.parent / "shared/data"))
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--out", type=Path, default=_gate.TABLE_PATH)
    parser.add_argument("--ordinary-chars", type=int, default=1_500_000)
    args = parser.parse_args()
    rows = json.loads((args.data / "dlp/pii_dev.json").read_text())
    corpus = Corpus()
    corpus.add([row["full_text"] for row in rows if not held_out(row)], 1.0)
    corpus.add(list(tweets(args.data / "dlp/tweets_dev.conll")), 1.0)
    corpus.add(list(filled(14)), 1.0)
    corpus.add(list(ordinary(args.ordinary_chars)), 1.0)
    np.save(args.out, train(corpus).astype(np.float16))
    print(f"for _intact.OWN: {hashlib.sha256(args.out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
