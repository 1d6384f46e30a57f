"""The Makefile on machines of other people: which Python it takes, what it says when there is none."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

BROKEN = '#!/bin/sh\necho "pyenv: $0: command not found" >&2\nexit 127\n'
OLD = "#!/bin/sh\nexit 1\n"  # the version check of an older Python fails like this
GOOD = f'#!/bin/sh\nexec {sys.executable} "$@"\n'


@pytest.fixture
def make_on(tmp_path: Path) -> "MakeOn":
    return MakeOn(tmp_path)


class MakeOn:
    """Runs `make TARGET` where PATH holds just the given Pythons and the tools of a bare machine."""

    def __init__(self, directory: Path) -> None:
        self._bin = directory / "bin"
        self._bin.mkdir()
        for tool in ("sh", "make", "echo", "sed", "awk", "touch", "env", "rm"):
            found = next((Path(p) / tool for p in ("/bin", "/usr/bin") if (Path(p) / tool).exists()), None)
            if found is not None:
                (self._bin / tool).symlink_to(found)

    def __call__(self, target: str, **pythons: str) -> subprocess.CompletedProcess[str]:
        for name, script in pythons.items():
            path = self._bin / name.replace("_", ".")
            path.write_text(script)
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        environment = {"PATH": str(self._bin), "HOME": "/nonexistent"}
        return subprocess.run(
            ["make", "-C", str(ROOT), "--no-print-directory", target],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip


def test_a_shim_that_does_not_run_is_passed_over(make_on: MakeOn) -> None:
    done = make_on("python", python3_13=BROKEN, python3_12=GOOD, python3=GOOD)
    assert (done.returncode, done.stdout.strip()) == (0, "python3.12")


def test_the_newest_that_runs_comes_first(make_on: MakeOn) -> None:
    done = make_on("python", python3_13=GOOD, python3_12=GOOD, python3=GOOD)
    assert done.stdout.strip() == "python3.13"


def test_plain_python3_is_the_last_choice(make_on: MakeOn) -> None:
    done = make_on("python", python3_12=OLD, python3=GOOD)
    assert done.stdout.strip() == "python3"


@pytest.mark.parametrize("pythons", [{}, {"python3": OLD}, {"python3_13": BROKEN, "python3_12": BROKEN}], ids=str)
def test_no_usable_python_is_said_in_three_lines(make_on: MakeOn, pythons: dict[str, str]) -> None:
    done = make_on("python", **pythons)
    assert done.returncode != 0
    what, where, fix = done.stderr.strip().splitlines()[:3]
    assert "3.12" in what
    assert where.strip().startswith("at:")
    assert "install Python 3.12" in fix


def test_help_names_every_public_target(make_on: MakeOn) -> None:
    listed = make_on("help").stdout
    for target in ("run", "test", "lint", "lock", "bench", "clean", "demo"):
        assert f"make {target} " in listed


def test_help_needs_no_environment(make_on: MakeOn) -> None:
    assert make_on("help").returncode == 0


def test_the_environment_comes_from_the_hashed_lock_only() -> None:
    recipe = (ROOT / "Makefile").read_text()
    installs = [line for line in recipe.splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert all("--no-deps" in line for line in installs)
    assert "--require-hashes -r requirements.lock" in installs[0]
    assert "--no-build-isolation --editable ." in installs[1]


def test_the_gate_runs_lint_and_tests() -> None:
    gate = ROOT / ".ci" / "run"
    text = gate.read_text()
    assert os.access(gate, os.X_OK)
    assert "set -euo pipefail" in text
    assert text.index("make lint") < text.index("make test")
