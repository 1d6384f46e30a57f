"""Key files: modes, owners, whole writes."""

import os
from pathlib import Path

import pytest

from proxy.keys.files import KeyProblem, create_file, make_private_directory, read_file, replace_file


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o660, 0o666, 0o777, 0o610, 0o601])
def test_a_key_that_others_may_reach_is_refused(state_dir: Path, mode: int) -> None:
    """CRY-01: one bit for group or others is enough, and the message holds the command that mends it."""
    path = state_dir / "k"
    path.write_bytes(b"secret")
    path.chmod(mode)
    with pytest.raises(KeyProblem) as caught:
        read_file(path)
    assert f"chmod 600 {path}" in caught.value.fix
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_key_is_read(state_dir: Path, mode: int) -> None:
    """The near misses of the table above."""
    path = state_dir / "k"
    path.write_bytes(b"secret")
    path.chmod(mode)
    assert read_file(path) == b"secret"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702, 0o1777])
def test_a_directory_that_others_may_write_is_refused(state_dir: Path, mode: int) -> None:
    """CRY-01: whoever may write the directory may swap the file."""
    path = state_dir / "d"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(KeyProblem, match="Others may write"):
        make_private_directory(path)
    (path / "k").write_bytes(b"x")
    (path / "k").chmod(0o600)
    with pytest.raises(KeyProblem, match="Others may write"):
        read_file(path / "k")


def test_a_directory_is_made_private_whatever_the_umask(state_dir: Path) -> None:
    """0700, also for the parents that we make."""
    old = os.umask(0)
    try:
        make_private_directory(state_dir / "a" / "b")
    finally:
        os.umask(old)
    assert (state_dir / "a" / "b").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_directory_is_refused(state_dir: Path, kind: str) -> None:
    """A link could be turned to another place later."""
    (state_dir / "real").mkdir()
    path = state_dir / "d"
    if kind == "file":
        path.write_text("")
        with pytest.raises((KeyProblem, FileExistsError)):
            make_private_directory(path)
    else:
        path.symlink_to(state_dir / "real")
        with pytest.raises(KeyProblem, match="not a directory"):
            make_private_directory(path)


def test_a_fifo_is_refused_without_waiting(state_dir: Path) -> None:
    """Opening a FIFO for reading would block for ever."""
    os.mkfifo(state_dir / "k", 0o600)
    with pytest.raises(KeyProblem, match="regular file"):
        read_file(state_dir / "k")


def test_create_never_replaces(state_dir: Path) -> None:
    """The second of two makers learns that it lost, and leaves nothing behind."""
    path = state_dir / "k"
    assert create_file(path, b"first")
    assert not create_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in state_dir.iterdir()] == ["k"]


def test_replace_swaps_whole_files(state_dir: Path) -> None:
    """Mode and content are those of the new file; no temporary stays."""
    path = state_dir / "k"
    create_file(path, b"first")
    replace_file(path, b"second", mode=0o644)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"second", 0o644)
    assert [each.name for each in state_dir.iterdir()] == ["k"]
