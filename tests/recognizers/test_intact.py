"""A model's files are compared with the digests that were recorded when it was installed."""

import base64
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.recognizers import _intact
from proxy.recognizers.base import ModelUnavailable

NAME = "some_model"


def _install(directory: Path, **files: bytes) -> Path:
    """As an installer leaves it: the package, and a RECORD with a digest of each file but itself."""
    package, info = directory / NAME, directory / f"{NAME}-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
    rows = [f"{NAME}-1.0.dist-info/RECORD,,"]
    for name, data in files.items():
        (package / name).write_bytes(data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{NAME}/{name},sha256={digest},{len(data)}")
    (info / "RECORD").write_text("\n".join(rows))
    return package


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return _install(tmp_path, weights=b"1234", labels=b"{}")


def test_what_was_installed_passes(package: Path) -> None:
    _intact.check(NAME, "the model")


def _flip(file: Path) -> None:
    file.write_bytes(b"1235")


def _record(file: Path) -> None:
    next(file.parent.parent.glob("*.dist-info/RECORD")).unlink()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [(_flip, "weights"), (Path.unlink, "weights"), (_record, "no record")],
    ids=["changed", "gone", "unlisted"],
)
def test_anything_else_is_refused_and_named(package: Path, spoil: Callable[[Path], None], named: str) -> None:
    spoil(package / "weights")
    with pytest.raises(ModelUnavailable, match=f"the model {NAME} .*{named}") as refused:
        _intact.check(NAME, "the model")
    assert refused.value.fix == _intact.FIX


def test_what_is_not_installed_is_refused() -> None:
    with pytest.raises(ModelUnavailable, match="no record"):
        _intact.check("no_such_model", "the model")


def test_our_own_models_are_whole() -> None:
    from proxy.recognizers import rampart, spacy_ner

    for package in (rampart.PACKAGE, spacy_ner.PACKAGE):
        _intact.check(package, "the model")


@pytest.mark.parametrize("name", _intact.OWN)
@pytest.mark.parametrize("spoil", [_flip, Path.unlink], ids=["changed", "gone"])
def test_our_own_weights_are_those_of_this_version(tmp_path: Path, name: str, spoil: Callable[[Path], None]) -> None:
    from proxy.recognizers import rampart

    for each in _intact.OWN:
        shutil.copy(rampart.QUICK_PATH.parent / each, tmp_path)
    _intact.check_own(tmp_path)
    spoil(tmp_path / name)
    with pytest.raises(ModelUnavailable, match=name):
        _intact.check_own(tmp_path)
