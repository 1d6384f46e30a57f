"""The command line as a whole: dispatch, options before and after the verb, errors in three lines, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cli import CliError, Verb, _main, _out, load_verb, main, verb_names
from proxy.paths import NotPrivate
from proxy.stores.ports import StoreUnavailable
from tests.config.kit import HEAD, write
from tests.tools import need


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.strip().splitlines()


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> "list[object]":
    """A verb `trial` whose `run` does what the test puts into the list (an exception is raised, a number returned)."""
    does: list[object] = []

    def run(args: object) -> int:
        does.append(args)
        first = does[0]
        if isinstance(first, BaseException):
            raise first
        return int(first)  # type: ignore[call-overload,no-any-return]

    trial = Verb("trial", "for the test", lambda parser: parser.add_argument("--count", type=int), run)
    monkeypatch.setattr(_main, "verb_names", lambda: ["trial"])
    monkeypatch.setattr(_main, "load_verb", lambda _: trial)
    return does


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_verbs_exit_code_is_the_commands(verb: list[object], code: int) -> None:
    verb.append(code)
    assert main(["trial"]) == code


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "--state", "s", "trial", "--count", "3"],
        ["trial", "--count", "3", "--json", "--state", "s"],
        ["--state=s", "trial", "--json", "--count=3"],
    ],
    ids=" ".join,
)
def test_common_options_may_stand_anywhere(verb: list[object], arguments: list[str]) -> None:
    verb.append(0)
    assert main(arguments) == 0
    args = verb[1]
    assert (args.json, args.count, args.paths.state_dir) == (True, 3, Path("s").absolute())  # type: ignore[attr-defined]
    assert args.state == args.paths.state_dir  # type: ignore[attr-defined]


def test_the_state_directory_comes_from_the_environment(verb: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    verb.append(0)
    monkeypatch.setenv("EGRESS_STATE_DIR", "/somewhere")
    main(["trial"])
    assert verb[1].paths.state_dir == Path("/somewhere")  # type: ignore[attr-defined]
    assert verb[1].json is False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "what", "where", "code"),
    [
        (CliError("it is wrong", "file:1:2", "mend it"), "it is wrong", "file:1:2", 2),
        (CliError("found some", "here", "look", exit_code=1), "found some", "here", 1),
        (StoreUnavailable("refused"), "the store does not answer: refused", "store", 2),
        (NotPrivate("/x has mode 0755; it must be 0700"), "/x has mode 0755", "state directory", 2),
        (FileNotFoundError(2, "No such file or directory", "/a/b"), "no such file or directory", "/a/b", 2),
        (RuntimeError("4111 1111 1111 1111"), "unexpected RuntimeError", "test_framework.py:", 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_refusal_is_three_lines(
    verb: list[object], capsys: pytest.CaptureFixture[str], error: Exception, what: str, where: str, code: int
) -> None:
    verb.append(error)
    assert main(["trial"]) == code
    first, second, third = _lines(capsys)
    assert first.startswith("error: ")
    assert what in first
    assert second.startswith("  at:  ")
    assert where in second
    assert third.startswith("  fix: ")
    assert len(third) > len("  fix: ")
    assert "4111" not in first + second + third


def test_with_json_the_refusal_is_one_object(verb: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    verb.append(CliError("it is wrong", "file:1:2", "mend it"))
    assert main(["trial", "--json"]) == 2
    assert json.loads(capsys.readouterr().err) == {
        "error": {"what": "it is wrong", "where": "file:1:2", "fix": "mend it"}
    }


def test_a_wrong_option_is_a_usage_error(verb: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trial", "--count", "many"]) == 2
    what, where, fix = _lines(capsys)
    assert "--count" in what
    assert "egress trial" in where
    assert "egress trial --help" in fix


@pytest.mark.parametrize(("typed", "meant"), [("stauts", "status"), ("denial", "denials"), ("Push", "push")])
def test_a_misspelt_verb_is_recognised(capsys: pytest.CaptureFixture[str], typed: str, meant: str) -> None:
    assert main([typed]) == 2
    assert f"egress {meant}" in _lines(capsys)[2]


def test_a_verb_that_is_like_nothing_points_at_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["xyzzy"]) == 2
    assert "--help" in _lines(capsys)[2]


@pytest.mark.parametrize("name", ["_out", "../run", "__init__", "proxy.cli.run", ""])
def test_only_verbs_can_be_imported_by_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    assert "no verb" in _lines(capsys)[0]


def test_interrupting_is_no_error(verb: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    verb.append(KeyboardInterrupt())
    assert main(["trial"]) == 130
    assert capsys.readouterr().err == ""


def test_nothing_typed_shows_the_verbs_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr().err
    assert all(name in shown for name in verb_names())


def test_a_reader_that_goes_away_is_no_error() -> None:
    need("bash")
    program = f"{sys.executable} -m proxy.cli version --licenses | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {program}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_one_broken_verb_does_not_take_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Verb:
        if name != "version":
            raise AssertionError(f"{name} was imported")
        return real(name)

    real = load_verb
    monkeypatch.setattr(_main, "load_verb", load)
    assert main(["version", "--json"]) == 0


def test_a_verb_called_like_a_builtin_breaks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """`list.py` becomes `proxy.cli.list`: dispatch must not look the built-in up in the package."""
    load_verb("list")
    assert main(["version", "--json"]) == 0
    assert "version" in json.loads(capsys.readouterr().out)


def test_a_command_behind_two_dashes_keeps_its_options(verb: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trial", "--count", "x", "--", "curl", "--json"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_table_is_aligned_without_trailing_blanks() -> None:
    text = _out.table(("a", "long"), [("xxx", 1), ("y", "")])
    assert text == "a    long\nxxx  1\ny"


def test_a_bad_policy_stops_the_start_with_every_mistake(tmp_path: Path) -> None:
    """As `egress check` shows them: three lines each, files as seen from here, no word twice."""
    directory = write(tmp_path, HEAD.replace("production", "prod") + "limts: {}\n")
    start = ["run", "--directory", str(directory), "--state", str(tmp_path / "state"), "--metrics", "off"]
    code, text = _in_a_process(*start)
    assert code == 2
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == [
        "error: 'prod' is not a stage",
        "error: unknown key 'limts' (an app)",
    ]
    assert [line for line in lines if line.startswith("  at:  ")] == [
        f"  at:  {directory}/apps/a.yaml:4:8",
        f"  at:  {directory}/apps/a.yaml:6:1",
    ]
    assert lines[-1] == "2 mistakes in the policy files"
    assert [one["line"] for one in json.loads(_in_a_process(*start, "--json")[1])["errors"]] == [4, 6]


def _in_a_process(*arguments: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-m", "proxy.cli", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr
