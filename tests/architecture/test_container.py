"""The image cannot be built in the test run; what can be known from its text is checked here."""

import re
import tomllib

from tests.architecture.tree import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS = [
    re.sub(r"\\\n\s*", " ", chunk)
    for chunk in re.split(r"\n(?=[A-Z]+ )", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    if chunk.strip()
]


def _of(keyword: str) -> list[str]:
    return [line.strip() for line in INSTRUCTIONS if line.strip().startswith(keyword + " ")]


def test_two_stages_and_only_the_result_is_kept() -> None:
    assert len(_of("FROM")) == 2
    assert any("--from=build" in line for line in _of("COPY"))
    last = DOCKERFILE.rindex("FROM ")
    assert "pip install" not in DOCKERFILE[last:]


def test_the_base_is_a_python_that_the_project_supports() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    floor = tuple(map(int, wanted.removeprefix(">=").split(".")))
    for line in _of("FROM"):
        version = re.search(r"python:(\d+)\.(\d+)", line)
        assert version is not None
        assert tuple(map(int, version.groups())) >= floor


def test_it_installs_from_the_lock_with_hashes_like_make_run() -> None:
    installs = [line for line in _of("RUN") if "pip install" in line]
    assert "--no-deps --require-hashes -r requirements.lock" in installs[0]
    assert "--no-deps --no-build-isolation ." in installs[1]


def test_it_runs_as_a_numbered_user_who_owns_only_the_state() -> None:
    assert _of("USER") == ["USER 10001:10001"]
    assert any("-m 0700" in line and "/state" in line for line in _of("RUN"))
    assert "--chown=root:root allowlists" in DOCKERFILE


def test_health_is_what_the_operator_sees() -> None:
    (check,) = _of("HEALTHCHECK")
    assert '"egress", "status"' in check


def test_its_command_is_the_one_of_make_run() -> None:
    (command,) = _of("CMD")
    recipe = (ROOT / "Makefile").read_text()
    for option in ("--explicit", "--transparent", "--metrics"):
        assert option in command
        assert option in recipe
    from proxy.cli import load_verb
    from proxy.cli._main import _Parser as Parser

    parser = Parser()
    load_verb("run").configure(parser)
    parser.parse_args(re.findall(r'"([^"]+)"', command)[1:])


def test_everything_that_is_copied_exists_and_reaches_the_builder() -> None:
    allowed = [line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    for line in _of("COPY"):
        if "--from=" in line:
            continue
        for name in line.split()[1:-1]:
            if not name.startswith("--"):
                assert name in allowed
                assert (ROOT / name).exists()


def test_no_state_or_key_can_reach_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {"**/*.pem", "**/*.key"} <= set(lines)
