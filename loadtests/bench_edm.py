"""Exact data match at scale: size and build time of an index, cost per word of a text, share of false hits.

`python loadtests/bench_edm.py [--rows 1000000]` prints figures and one JSON line. Bars: a million rows in under 100 MB,
under 3 microseconds per word, batched.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from proxy.config.snapshot import DlpExactMatch
from proxy.customdata.build import Builder
from proxy.customdata.index import Index, read_header
from proxy.customdata.match import matches, occurrences
from proxy.customdata.words import Kind, Text
from proxy.inspector.indexes import Indexes

COLUMNS: tuple[tuple[str, Kind], ...] = (("name", "name"), ("email", "email"), ("iban", "number"), ("phone", "phone"))
MASTER, KEY_ID = b"m" * 32, "bench"
SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvw" for vowel in "aeio"]


def word(dice: random.Random, least: int = 2, most: int = 4) -> str:
    return "".join(dice.choices(SYLLABLES, k=dice.randint(least, most)))


def people(rows: int, dice: random.Random) -> Iterator[tuple[str, str, str, str]]:
    """First names of a few thousand, last names of many: what a customer table looks like to an index."""
    firsts = [word(dice, 2, 3).title() for _ in range(4000)]
    lasts = [word(dice, 3, 4).title() for _ in range(200_000)]
    for number in range(rows):
        first, last = dice.choice(firsts), dice.choice(lasts)
        iban = f"DE{dice.randrange(10**20):020}"
        yield (
            f"{first} {last}",
            f"{first}.{last}{number}@mail.example".lower(),
            iban,
            f"+49 {dice.randrange(10**10):010}",
        )


def built(rows: int, directory: Path) -> tuple[Path, str, float, list[tuple[str, str, str, str]]]:
    begun_s = time.process_time()
    builder = Builder(COLUMNS, MASTER, KEY_ID, "5a" * 16)
    sample = []
    for number, row in enumerate(people(rows, random.Random(1))):
        builder.add(row)
        if number % max(1, rows // 200) == 0:
            sample.append(row)
    parts = list(builder.finish())
    path = directory / "bench.edm"
    path.write_bytes(b"".join(parts))
    return path, read_header(b"".join(parts[:2]))[0], time.process_time() - begun_s, sample


def texts(sample: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Prose of new words, prose in which every word is a name, and a paste of rows."""
    dice = random.Random(2)
    prose = [" ".join(word(dice, 1, 5) for _ in range(100)) for _ in range(200)]
    names = [" ".join(dice.choice(sample)[0] for _ in range(50)) for _ in range(200)]
    rows = ["; ".join(row) for row in sample] * 5
    chat = Path(__file__).read_text().splitlines() * 20
    return {"prose": prose, "names_only": names, "rows": rows, "code": chat}


def cost(index: Index, rule: DlpExactMatch, many: Sequence[str]) -> tuple[float, int]:
    """(microseconds of CPU per word, matched cells), best of five."""
    sources = list(enumerate(many))
    words = sum(len(Text(text).words) for text in many)
    best, found = float("inf"), 0
    for _ in range(5):
        begun_s = time.process_time()
        found = len(matches(index, rule, occurrences(index, sources)))
        best = min(best, time.process_time() - begun_s)
    return best / words * 1e6, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with TemporaryDirectory() as directory:
        path, digest, build_s, sample = built(rows, Path(directory))
        begun_s = time.perf_counter()
        index = Indexes([Path(directory)], {KEY_ID: MASTER}).of(digest)
        figures: dict[str, Any] = {
            "rows": rows,
            "mb": round(path.stat().st_size / 1e6, 1),
            "build_us_per_row": round(build_s / rows * 1e6, 1),
            "load_ms": round((time.perf_counter() - begun_s) * 1e3, 1),
        }
        rule = DlpExactMatch("bench", "CUSTOMER_RECORD", digest, 2, within_tokens=20)
        for name, many in texts(sample).items():
            figures[f"us_per_word_{name}"], figures[f"cells_{name}"] = cost(index, rule, many)
        figures["false_match_per_value"] = index.header.cells / 2**64
    for name, value in figures.items():
        print(f"{name:28} {value:.3g}" if isinstance(value, float) else f"{name:28} {value:,}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
