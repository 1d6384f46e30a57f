"""Commands of README and tutorial run as pasted, in order, in one shell, in a clone of the reader's own."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT
from tests.docs.pages import Block, blocks
from tests.lab.product import Product
from tests.tools import need

PAGES = ("README.md", "docs/tutorial/first-app.md")
SCRIPTS = {page: blocks(ROOT / page) for page in PAGES}
DEADLINE_S = 90


@dataclass(frozen=True)
class Clone:
    """What the reader has after `make run`: the directory, and other ports than the ones that the pages name."""

    directory: Path
    ports: dict[str, str]

    def run(self, page: str) -> list[str]:
        """The page's blocks in one bash: what each printed, errors too."""
        script = "".join(f"{block.script}\nprintf '\\n@@@\\n'\n" for block in SCRIPTS[page])
        for documented, real in self.ports.items():
            script = script.replace(documented, real)
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-c", script], cwd=self.directory, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S, check=False,
            env={
                "PATH": os.environ["PATH"], "HOME": str(self.directory / "home"), "LANG": "C.UTF-8",
                "PYTHONPATH": str(ROOT),  # this tree, whatever is installed
            },
        )  # fmt: skip
        return done.stdout.split("\n@@@\n")


def _demo(stack: ExitStack, state: Path) -> str:
    """The port of look-alikes that end with the test."""
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", "proxy.cli", "demo", "--json", "--port", "0", "--state", str(state)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    stack.callback(process.terminate)
    assert process.stdout is not None
    return str(json.loads(process.stdout.readline())["port"])


@pytest.fixture(scope="module", params=PAGES)
def printed(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    """(page, what its blocks printed)."""
    need("bash", "curl")
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="egd-", dir="/tmp"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        for name in ("state", "home"):
            (directory / name).mkdir(mode=0o700)
        (directory / ".venv").symlink_to(Path(sys.prefix))
        shutil.copytree(ROOT / "allowlists", directory / "allowlists")
        port = _demo(stack, directory / "state")
        for file in (directory / "allowlists").rglob("*.yaml"):
            file.write_text(file.read_text().replace("9443", port))
        product = stack.enter_context(Product(directory / "state", directory / "allowlists"))
        ports = {
            ":9443": f":{port}", "[9443]": f"[{port}]",
            "127.0.0.1:8080": product.listen["explicit"], "127.0.0.1:9090": product.listen["metrics"],
        }  # fmt: skip
        yield request.param, Clone(directory, ports).run(request.param)


def test_every_block_prints_what_the_page_says(printed: tuple[str, list[str]]) -> None:
    page, outputs = printed
    assert len(outputs) == len(SCRIPTS[page]) + 1, f"the shell ended early:\n{outputs[-1]}"
    for block, output in zip(SCRIPTS[page], outputs, strict=False):
        missing = [text for text in block.prints if text not in output]
        assert not missing, f"{block.at} did not print {missing}:\n{output}"
        for sign in ("Traceback (most recent call last)", "command not found", "syntax error"):
            assert sign not in output, f"{block.at}:\n{output}"


@pytest.mark.parametrize("page", PAGES)
def test_no_block_is_shown_without_being_run(page: str) -> None:
    """Every shell block of these pages is run, but for the ones that install, start or need the internet."""
    text = (ROOT / page).read_text()
    shown = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    run = {block.script for block in SCRIPTS[page]}
    others = [script for script in shown if script not in run]
    assert all(script.startswith(("make ", "git clone ", "export OPENAI_API_KEY=")) for script in others), others


def _named(block: Block) -> str:
    return block.at


@pytest.mark.parametrize("block", [one for page in PAGES for one in SCRIPTS[page]], ids=_named)
def test_a_block_says_what_it_prints(block: Block) -> None:
    """A block without an expectation may only set things up."""
    quiet = ("export ", "say() {", "mkdir ", "cat > ", "cp ")
    assert block.prints or block.script.startswith(quiet)
