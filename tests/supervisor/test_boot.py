"""What stands before anything listens: the state directory and the root key."""

import os
from pathlib import Path

import pytest

from proxy.paths import NotPrivate, Paths
from proxy.supervisor.boot import StartRefused, load_keys, lock_state


def test_the_state_directory_may_lie_below_a_mount_of_others(tmp_path: Path) -> None:
    """A volume with fsGroup is root's and 2775: what lies below it is made ours and 0700."""
    mount = tmp_path / "state"
    mount.mkdir()
    mount.chmod(0o2775)
    with pytest.raises(NotPrivate):
        lock_state(Paths(mount))
    paths = Paths(mount / "egress")
    os.close(lock_state(paths))
    assert paths.state_dir.stat().st_mode & 0o777 == 0o700
    assert load_keys(paths).root.id == load_keys(paths).root.id


def test_the_image_keeps_its_state_below_the_mount() -> None:
    """The directory that the image names is not the mount itself."""
    text = (Path(__file__).parents[2] / "Dockerfile").read_text()
    assert "VOLUME /state\n" in text
    assert " EGRESS_STATE_DIR=/state/egress " in text


def test_a_mounted_key_is_used_and_the_state_directory_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CA is made with it."""
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    (secret / "root.key").write_text("0f" * 32 + "\n")
    (secret / "root.key").chmod(0o400)
    monkeypatch.setenv("EGRESS_ROOT_KEY", str(secret / "root.key"))
    paths = Paths(tmp_path / "state")
    os.close(lock_state(paths))
    assert load_keys(paths).root.active.secret == b"\x0f" * 32
    assert not (paths.state_dir / "root.key").exists()
    assert paths.ca_dir.is_dir()


def test_a_missing_mounted_key_is_never_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of our own would open nothing that the installation has."""
    monkeypatch.setenv("EGRESS_ROOT_KEY", str(tmp_path / "root.key"))
    paths = Paths(tmp_path / "state")
    os.close(lock_state(paths))
    with pytest.raises(StartRefused, match="not there"):
        load_keys(paths)
    assert not (tmp_path / "root.key").exists()
    assert not paths.root_key.exists()
