"""OpenAI embeddings, and the servers that speak them. There is no text in the answer and no output to pay for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, override

from proxy.model import RequestHead
from proxy.providers import _openai
from proxy.providers._base import Provider
from proxy.providers._call import Call, CallFacts, Tally, items, member, word


@dataclass(frozen=True)
class OpenAIEmbeddings(Provider):
    """`POST …/v1/embeddings`, and Azure's deployments."""

    dialect = "openai_embeddings"
    operation = "embeddings"
    compatible = _openai.COMPATIBLE
    paths = re.compile(r"(?:/(?:[^/]+/)*v\d[^/]*(?:/openai)?|/openai/deployments/[^/]+)/embeddings")
    hosts = _openai.HOSTS
    credential_headers = _openai.CREDENTIALS
    deciding = frozenset({"model"})

    @override
    def model_of(self, head: RequestHead, fields: Mapping[str, Any]) -> str:
        return _openai.deployment(head.path) or super().model_of(head, fields)

    @override
    def call_facts(self, head: RequestHead, fields: Mapping[str, Any]) -> CallFacts:
        return CallFacts(stream=False, output_cap=0, deterministic=True)

    @override
    def error_body(self, problem: Mapping[str, Any]) -> bytes:
        return _openai.error_body(problem)

    @override
    def read_usage(self, usage: Mapping[str, Any], tally: Tally) -> None:
        _openai.read_usage(usage, tally)
        tally.output_tokens = 0

    @override
    def read_answer(self, answer: Mapping[str, Any], call: Call, tally: Tally) -> None:
        tally.model = word(answer, "model")
        self.read_usage(member(answer, "usage"), tally)
        tally.failed = answer.get("error") is not None
        tally.ended = True
        if items(answer, "data"):
            tally.finishes[0] = "stop"


PROVIDER = OpenAIEmbeddings()
