"""The wheel holds the two packages with their data, and nothing else; other owners of our names are noticed."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from proxy.supervisor.environment import foreign_owners
from tests.architecture.tree import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built offline from a copy, so that no build directory is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    out = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "proxy", "addons", "pyproject.toml", "README.md", "LICENSE",
         "NOTICE"], cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--wheel-dir", str(out), str(source)], check=True, capture_output=True, text=True,
    )  # fmt: skip
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_only_our_two_packages_are_in_it(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"proxy", "addons"}


def test_every_module_and_data_file_is_in_it(wheel: zipfile.ZipFile) -> None:
    inside = set(wheel.namelist())
    kinds = {".py", ".yaml", ".json", ".txt", ".npy", ".npz"}
    files = [path for package in ("proxy", "addons") for path in (ROOT / package).rglob("*") if path.suffix in kinds]
    missing = [name for path in files if (name := path.relative_to(ROOT).as_posix()) not in inside]
    assert not missing
    assert "proxy/py.typed" in inside


def test_licence_and_notice_travel_along(wheel: zipfile.ZipFile) -> None:
    names = {Path(name).name for name in wheel.namelist() if ".dist-info/" in name}
    assert {"LICENSE", "NOTICE", "entry_points.txt"} <= names


def test_the_command_is_declared(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "egress = proxy.cli:main" in wheel.read(name).decode()


@pytest.mark.parametrize(
    ("owners", "expected"),
    [
        ({"proxy": ["egress-proxy"], "addons": ["egress-proxy"]}, {}),
        ({"proxy": ["proxy.py", "egress-proxy"]}, {"proxy": ["proxy.py"]}),
        ({"addons": ["other", "egress-proxy", "other"]}, {"addons": ["other"]}),
        ({"proxy": ["proxy.py"]}, {"proxy": ["proxy.py"]}),
        ({"unrelated": ["x"]}, {}),
        ({}, {}),
    ],
)
def test_another_owner_of_our_import_names_is_named(
    owners: dict[str, list[str]], expected: dict[str, list[str]]
) -> None:
    assert foreign_owners(owners) == expected


def test_this_environment_is_ours_alone() -> None:
    assert foreign_owners() == {}
