"""Who must stay light: the command line, and the supervisor that lives beside the data plane."""

import json
import os
import resource
import subprocess
import sys

import pytest

from proxy import cli

HEAVY = ("mitmproxy", "presidio_analyzer", "spacy", "numpy", "genai_prices", "thinc")
PROMPT_S = 0.4


def _modules_after(statement: str) -> set[str]:
    program = f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_the_supervisor_does_not_carry_the_data_plane() -> None:
    loaded = _modules_after("import proxy.supervisor.app, proxy.supervisor.verbs, proxy.stores.redis")
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("name", cli.verb_names())
def test_a_verb_module_is_light_to_import(name: str) -> None:
    loaded = _modules_after(f"from proxy.cli import load_verb; load_verb({name!r})")
    assert not loaded & {*HEAVY, "redis", "cryptography"}


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in cli.verb_names())], ids=" ".join)
def test_help_is_prompt(arguments: list[str]) -> None:
    """On a machine that is doing something else too: the best of three, by the processor's time. Help waits for
    nothing, so that is how long it takes on an idle one."""
    assert any(_processor_s(arguments) < PROMPT_S for _ in range(3))


def _processor_s(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "proxy.cli", *arguments], capture_output=True, text=True, check=False,
                          env={**os.environ, "COLUMNS": "100"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "usage: egress" in done.stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
