"""mitmproxy addons of others see lane traffic; what they change is inspected, and they cannot redirect it."""

from collections.abc import Callable
from pathlib import Path

from tests.lab.fixtures import Lab

ADDON = """
from mitmproxy import http

class Stamp:
    def request(self, flow: http.HTTPFlow) -> None:
        flow.request.headers["X-Stamp"] = "seen"
        if flow.request.path == "/leak":
            flow.request.content = b"card 4111 1111 1111 1111"
        if flow.request.path == "/away":
            flow.request.host = "evil.example"
        if flow.request.path == "/crash":
            raise RuntimeError("an addon that fails")
"""


def start(lab_factory: Callable[..., Lab], folder: Path) -> Lab:
    (folder / "stamp_addon.py").write_text(ADDON)

    def setup(lab: Lab) -> None:
        dlp = {"profile": "balanced", "otherwise": "block"}
        lab.policy.app("alpha", lab.policy.entry("api", lab.api), dlp=dlp)

    return lab_factory(setup, extra=["--addon", "stamp_addon:Stamp"], environment={"PYTHONPATH": str(folder)})


def test_foreign_addon(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    lab = start(lab_factory, tmp_path)
    with lab.product.httpx("alpha") as client:
        assert client.post(f"{lab.url}/fine", content=b"hello").status_code == 200
        assert b"X-Stamp: seen" in lab.api.raw
        lab.api.forget()
        codes = {path: client.post(lab.url + path, content=b"hello") for path in ("/leak", "/away", "/crash")}
    assert {path: answer.json()["code"] for path, answer in codes.items()} == {
        "/leak": "pii",
        "/away": "target_mismatch",
        "/crash": "internal",
    }
    assert lab.api.raw == b""
