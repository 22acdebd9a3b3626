"""Homes of machines: what was planted in one is not followed, and nothing of the host's is given away."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pandastack.errors import InvalidRequest, MachineError, NoCapacity
from pandastack.host import mounts
from pandastack.host.users import Users, users_in

USER = 210_001


def symlink(home: Path, victim: Path) -> None:
    (home / "overlay.qcow2").symlink_to(victim)


def hardlink(home: Path, victim: Path) -> None:
    (home / "overlay.qcow2").hardlink_to(victim)


def fifo(home: Path, victim: Path) -> None:
    os.mkfifo(home / "overlay.qcow2")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("the host's")
    path.chmod(0o600)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.mark.parametrize("plant", [symlink, hardlink, fifo])
def test_a_planted_file_is_refused_and_what_it_leads_to_untouched(
    plant: Callable[[Path, Path], None], home: Path, victim: Path
) -> None:
    plant(home, victim)
    before = victim.stat()
    with mounts.opened(home) as folder, pytest.raises(MachineError):
        mounts.give(folder, ["overlay.qcow2"], os.geteuid() and USER)
    after = victim.stat()
    assert (after.st_uid, after.st_mode, after.st_size) == (before.st_uid, before.st_mode, before.st_size)


def test_without_the_look_the_planted_link_would_be_followed(home: Path, victim: Path) -> None:
    """The negative control."""
    symlink(home, victim)
    (home / "overlay.qcow2").chmod(0o644)
    assert victim.stat().st_mode & 0o777 == 0o644


def test_a_home_that_is_a_link_is_none(home: Path, tmp_path: Path) -> None:
    (tmp_path / "planted").symlink_to(home)
    with pytest.raises(MachineError, match="not a folder of ours"), mounts.opened(tmp_path / "planted"):
        pass


def test_a_home_is_its_machines_to_write_in_but_not_to_change(home: Path) -> None:
    if os.geteuid() != 0:  # nobody else can be given anything
        return
    (home / "overlay.qcow2").write_text("disk")
    with mounts.opened(home) as folder:
        mounts.give(folder, ["overlay.qcow2", "console.log"], USER)
    own = [(home / name).stat() for name in ("overlay.qcow2", "console.log")]
    assert {(each.st_uid, each.st_gid, each.st_mode & 0o777) for each in own} == {(USER, USER, 0o600)}
    folder_now = home.stat()
    assert (folder_now.st_uid, folder_now.st_gid, folder_now.st_mode & 0o777) == (0, USER, 0o710)
    mounts.take_back(home, ["overlay.qcow2"])
    assert (home / "overlay.qcow2").stat().st_uid == 0


def test_from_a_detached_home_there_is_no_way_up(home: Path) -> None:
    if os.geteuid() != 0:
        return
    (home / "file").touch()
    with mounts.opened(home) as folder:
        above = {path.name for path in Path(f"/proc/self/fd/{folder}/..").iterdir()}
        with mounts.detached(folder) as tree:
            assert [path.name for path in Path(f"/proc/self/fd/{tree}/..").iterdir()] == ["file"]
    assert "home" in above  # what the other way would show


def test_users_are_each_leased_once_and_come_back(tmp_path: Path) -> None:
    one, two = (Users(tmp_path / "users", 210_000, 210_003) for _ in range(2))  # two servers
    homes = [tmp_path / f"home-{number}" for number in range(5)]
    for home in homes[:4]:
        home.mkdir()
    leased = [(one, two)[number % 2].lease(home) for number, home in enumerate(homes[:4])]
    assert sorted(leased) == [210_000, 210_001, 210_002, 210_003]
    with pytest.raises(NoCapacity):
        one.lease(homes[4])
    two.let_go(leased[0], homes[0])
    assert one.lease(homes[4]) == leased[0]


def test_a_user_is_a_familys_until_the_last_of_it_has_gone(tmp_path: Path) -> None:
    users = Users(tmp_path / "users", 210_000, 210_000)
    parent, child = tmp_path / "parent", tmp_path / "child"
    parent.mkdir()
    child.mkdir()
    user = users.lease(parent)
    users.hold(user, child)
    users.let_go(user, parent)
    with pytest.raises(NoCapacity):
        users.lease(tmp_path / "other")
    child.rmdir()  # its server was killed: nobody lets go
    assert users.lease(tmp_path / "other") == user


def test_who_is_not_known_to_have_one_gives_it_back_too(tmp_path: Path) -> None:
    users = Users(tmp_path / "users", 210_000, 210_001)
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    users.lease(home)
    users.lease(other)
    users.let_go_all(home)
    users.lease(tmp_path)
    with pytest.raises(NoCapacity):
        users.lease(tmp_path / "fourth")


def test_one_is_lent_for_a_block_and_to_nobody_else(tmp_path: Path) -> None:
    """Who was killed within it has the same one again, and no other."""
    users = Users(tmp_path / "users", 210_000, 210_001)
    home = tmp_path / "home"
    home.mkdir()
    killed = users.lease(tmp_path)
    with users.lent(tmp_path) as own:
        assert own == killed != users.lease(home)
        with pytest.raises(NoCapacity):
            users.lease(tmp_path / "third")
    assert users.lease(tmp_path / "third") == own


@pytest.mark.parametrize("words", ["", "200000", "a-b", "0-65535", "300000-200000", "-1-5"])
def test_what_is_no_range_of_users_is_refused(words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="200000-265535"):
        users_in(tmp_path, words)
