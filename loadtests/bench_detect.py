"""Accuracy of the detection engine on labelled data: `python loadtests/bench_detect.py [--data DIR] [--profile P]`.

A gold span counts as found when at least half of its characters are covered by predictions of its type; a prediction
is right when at least half of it lies in gold of its type. Ends with one JSON line.
"""

import argparse
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proxy.recognizers.engine import Engine, LeafMemo

ROOT = Path(__file__).resolve().parent.parent
CORE = {
    "PERSON": "PERSON", "ADDRESS": "LOCATION", "LOCATION": "LOCATION", "PHONE_NUMBER": "PHONE_NUMBER",
    "CREDIT_CARD": "CREDIT_CARD", "EMAIL_ADDRESS": "EMAIL_ADDRESS", "IBAN_CODE": "IBAN_CODE", "US_SSN": "US_SSN",
    "IP_ADDRESS": "IP_ADDRESS", "DOMAIN_NAME": "URL", "US_DRIVER_LICENSE": "US_DRIVER_LICENSE",
}  # fmt: skip
type Span = tuple[str, int, int]


def covered(span: Span, others: Sequence[Span]) -> bool:
    kind, start, end = span
    overlap = sum(max(0, min(end, e) - max(start, s)) for k, s, e in others if k == kind)
    return overlap * 2 >= end - start


def accuracy(engine: Engine, rows: Sequence[Mapping[str, Any]], profile: str) -> dict[str, Any]:
    found, wrong, missed, right = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    predictions = engine.detect([row["full_text"] for row in rows], profile, frozenset({"URL"}))
    for row, predicted in zip(rows, predictions, strict=True):
        gold = [(CORE.get(s["entity_type"], ""), s["start_position"], s["end_position"]) for s in row["spans"]]
        spans = [(f.entity, f.start, f.end) for f in predicted if f.entity in CORE.values()]
        for span in gold:
            if span[0]:
                (found if covered(span, spans) else missed)[span[0]] += 1
        neutral = [span for span in gold if not span[0]]
        for span in spans:
            if covered(span, gold):
                right[span[0]] += 1
            elif not any(s < span[2] and span[1] < e for _, s, e in neutral):
                wrong[span[0]] += 1
    per_entity = {e: _figures(found[e], missed[e], right[e], wrong[e]) for e in sorted(set(CORE.values()))}
    total = _figures(found.total(), missed.total(), right.total(), wrong.total())
    return {"total": total, "per_entity": per_entity}


def _figures(found: int, missed: int, right: int, wrong: int) -> dict[str, float]:
    recall = found / (found + missed or 1)
    precision = right / (right + wrong or 1)
    f2 = 5 * precision * recall / (4 * precision + recall or 1)
    return {"gold": found + missed, "precision": round(precision, 3), "recall": round(recall, 3), "f2": round(f2, 3)}


def false_hits(engine: Engine, texts: Mapping[str, Sequence[str]], profile: str) -> dict[str, dict[str, float]]:
    report = {}
    for kind, items in texts.items():
        hits: Counter[str] = Counter()
        for findings in engine.detect(items, profile):
            hits.update(finding.entity for finding in findings)
        scale = 100_000 / sum(map(len, items))
        report[kind] = {
            "total": round(hits.total() * scale, 1),
            **{k: round(n * scale, 1) for k, n in hits.most_common()},
        }
    return report


def prompt(rows: Sequence[Mapping[str, Any]], size: int, seed: int) -> str:
    text = ""
    while len(text) < size:
        text += rows[seed % len(rows)]["full_text"] + "\n"
        seed += 37
    return text[:size]


def speed_ms(engine: Engine, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    result = {}
    for size in (500, 2_000, 10_000, 100_000):
        texts = [prompt(rows, size, seed) for seed in range(1, 8 if size < 50_000 else 3)]
        times = []
        for text in texts:
            begun = time.perf_counter()
            engine.detect([text], "balanced")
            times.append(time.perf_counter() - begun)
        result[str(size)] = round(sorted(times)[len(times) // 2] * 1000, 1)
    return result


def secrets_recall(engine: Engine, folder: Path) -> dict[str, float]:
    generic = ("Password", "Token", "Key", "Secret", "Auth", "Salt", "Nonce", "API", "Credential", "CMD", "CURL",
               "UUID", "URL Credentials", "Basic Authorization", "PEM Private Key")  # fmt: skip
    seen: dict[str, list[bool]] = defaultdict(list)
    for name, wanted in json.loads((folder / "findings.json").read_text()).items():
        text = (folder / "samples" / name).read_bytes().decode("utf-8", "replace")
        spans = engine.detect([text], "balanced")[0]
        values = [text[f.start : f.end] for f in spans if f.entity in {"SECRET", "PRIVATE_KEY"}]
        for item in wanted:
            kind = "generic" if item["rule"].startswith(generic) else "vendor"
            if item["rule"] == "PEM Private Key":
                kind = "pem"
            hit = any(item["value"] in value or (len(value) >= 8 and value in item["value"]) for value in values)
            seen[kind].append(hit)
            if os.environ.get("BENCH_MISSES") and not hit and kind == os.environ["BENCH_MISSES"]:
                print("missed:", name, item["rule"])
    return {kind: round(sum(hits) / len(hits), 3) for kind, hits in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("EGRESS_SHARED_DATA", ROOT.parent / "shared/data"))
    )
    parser.add_argument("--profile", default="balanced")
    args = parser.parse_args()
    engine = Engine.load()
    engine._memo = LeafMemo(max_entries=1)
    rows = json.loads((args.data / "dlp/pii_dev.json").read_text())
    ordinary = json.loads((args.data / "fp/ordinary_text.json").read_text())
    scores = accuracy(engine, rows, args.profile)
    for entity, figures in scores["per_entity"].items():
        print(f"{entity:20} {figures}")
    hits = false_hits(engine, ordinary, args.profile)
    for kind, figures in hits.items():
        print(f"{kind:12} {figures}")
    summary = {
        "profile": args.profile, "f2_core": scores["total"]["f2"], "core": scores["total"],
        "false_hits_per_100kb": {kind: figures["total"] for kind, figures in hits.items()},
        "secrets_recall": secrets_recall(engine, args.data / "secrets"), "ms": speed_ms(engine, rows),
    }  # fmt: skip
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
