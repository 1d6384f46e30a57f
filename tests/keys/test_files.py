"""Key files: modes, owners, whole writes."""

import os
import subprocess
import sys
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize(
    ("mode", "read_only", "refusal"),
    [
        ("0440", True, ""),
        ("0400", True, "permission"),
        ("0444", True, "Others may reach the file"),
        ("0640", True, ""),
        ("0660", True, "Others may reach the file"),
        ("0440", False, "Others may write the directory"),
    ],
)
def test_a_mounted_secret(state_dir: Path, mode: str, read_only: bool, refusal: str) -> None:
    """As Kubernetes mounts one with fsGroup: root:10001, a directory of mode 3777, links; read by user 10001."""
    script = """
import os, sys
from pathlib import Path
from proxy.keys.files import KeyProblem, read_file
os.setgroups([]); os.setgid(10001); os.setuid(10001)
try:
    print(read_file(Path(sys.argv[1])).decode())
except KeyProblem as problem:
    print(problem)
except PermissionError:
    print("permission")
"""
    mount = f"""
set -e
mount -t tmpfs -o mode=3777 none /mnt
mkdir -m 2755 /mnt/..1 && ln -s ..1 /mnt/..data && ln -s ..data/root.key /mnt/root.key
printf content > /mnt/..1/root.key && chown -R 0:10001 /mnt && chmod {mode} /mnt/..1/root.key
{"mount -o remount,ro /mnt" if read_only else ""}
exec "$0" -c "$1" /mnt/root.key
"""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, sys.executable, script], capture_output=True, text=True, check=False
    )
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip("this machine does not let root mount")
    assert (refusal or "content") in done.stdout, done.stderr


def test_a_link_into_an_open_directory_is_refused(state_dir: Path) -> None:
    """Whoever may write there may swap what the link leads to."""
    (state_dir / "open").mkdir()
    create_file(state_dir / "open" / "k", b"secret")
    (state_dir / "open").chmod(0o777)
    (state_dir / "k").symlink_to(state_dir / "open" / "k")
    with pytest.raises(KeyProblem, match="Others may write"):
        read_file(state_dir / "k")
