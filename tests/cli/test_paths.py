"""Where things are: short socket paths, private directories."""

import os
from pathlib import Path

import pytest

from proxy.paths import SOCKET_PATH_LIMIT_BYTES, NotPrivate, Paths, private_dir


def test_everything_lies_below_the_state_directory() -> None:
    paths = Paths.of("/srv/egress")
    places = [
        paths.root_key, paths.ca_dir, paths.ca_cert, paths.store_dir, paths.audit_dir, paths.journal_dir,
        paths.last_good, paths.demo_dir, paths.log_dir, paths.limits_file, paths.status_file, paths.lock_file,
        paths.living_dir, paths.socket_dir, paths.store_socket, paths.admin_socket, paths.inspector_socket(3),
    ]  # fmt: skip
    assert len(set(places)) == len(places)
    assert all(place.is_relative_to("/srv/egress") for place in places)


def test_a_relative_directory_is_fixed_when_it_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Paths.of("state").state_dir == tmp_path / "state"
    assert Paths.of(None).state_dir == tmp_path / "state"


@pytest.mark.parametrize("name", ["x" * 90, "é" * 45], ids=["ascii", "two bytes each"])
def test_sockets_of_a_deep_directory_live_near_and_apart(name: str) -> None:
    one, other = Paths(Path("/srv") / name), Paths(Path("/srv") / (name + "y"))
    for paths in (one, other):
        for place in (paths.store_socket, paths.admin_socket, paths.inspector_socket(127)):
            assert len(os.fsencode(place)) <= SOCKET_PATH_LIMIT_BYTES
    assert one.socket_dir != other.socket_dir
    assert str(os.getuid()) in one.socket_dir.name


def test_a_private_directory_is_made_and_may_be_there_already(tmp_path: Path) -> None:
    made = private_dir(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700
    assert private_dir(made) == made


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "d"
    place.mkdir()
    place.chmod(mode)
    with pytest.raises(NotPrivate, match=f"{mode:04o}"):
        private_dir(place)


def test_a_link_to_a_private_directory_is_refused(tmp_path: Path) -> None:
    private_dir(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(NotPrivate, match="not a directory"):
        private_dir(tmp_path / "link")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    place = private_dir(tmp_path / "theirs")
    os.chown(place, 12345, 12345)
    with pytest.raises(NotPrivate, match="belongs to user 12345"):
        private_dir(place)
