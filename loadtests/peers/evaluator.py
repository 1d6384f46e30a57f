"""presidio-evaluator's verdict on predictions; runs in an environment of its own (evaluator.txt).

Standard input: {"docs": [{"text", "gold": [[entity, start, end]], "found": [[entity, start, end]]}]}; a line for each
threshold of overlap in its arguments: {"iou", "precision", "recall", "f2"}, PII against none, whatever the type.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import pandas
import spacy
from presidio_evaluator.evaluation import SpanEvaluator


def tags(tokens: Iterable[Any], spans: Sequence[tuple[str, int, int]]) -> list[str]:
    found = []
    for token in tokens:
        middle = (token.idx + token.idx + len(token)) / 2
        found.append(next((entity for entity, start, end in spans if start <= middle < end), "O"))
    return found


def main() -> None:
    docs = json.load(sys.stdin)["docs"]
    tokenizer = spacy.blank("en")
    rows = []
    for number, doc in enumerate(docs):
        tokens = list(tokenizer(doc["text"]))
        for token, gold, found in zip(tokens, tags(tokens, doc["gold"]), tags(tokens, doc["found"]), strict=True):
            rows.append((number, str(token), gold, found, token.idx))
    frame = pandas.DataFrame(rows, columns=["sentence_id", "token", "annotation", "prediction", "start_indices"])
    for iou in map(float, sys.argv[1:]):
        result = SpanEvaluator(iou_threshold=iou).calculate_score_on_df(frame, beta=2, level="both")
        print(json.dumps({
            "iou": iou, "precision": result.pii_precision, "recall": result.pii_recall, "f2": result.pii_f,
        }))  # fmt: skip


if __name__ == "__main__":
    main()
