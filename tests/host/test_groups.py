"""Control groups of both generations: the first as this machine has it, where it does, else as files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pandastack.errors import PostureViolation
from pandastack.host import jail, posture
from pandastack.host.groups import OVERHEAD_BYTES, Limits, find_groups

LIMITS = Limits(cpus=2, memory_bytes=512 << 20)
NAME = f"pandastack-test-{os.getpid()}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


def first(root: Path, *controllers: str) -> str:
    """A machine with version 1; what a process of it is told of itself."""
    for controller in controllers:
        (root / controller / "own").mkdir(parents=True)
    return "\n".join(f"{n}:{each}:/own" for n, each in enumerate(("cpu", "memory", "pids"), 2))


def second(root: Path, offered: str) -> str:
    """A machine with version 2 whose server's group is delegated to it."""
    (root / "own").mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpu io memory pids")
    (root / "own" / "cgroup.controllers").write_text(offered)
    return "0::/own"


def test_version_one_limits_by_a_group_for_each_controller(home: Path, tmp_path: Path) -> None:
    own = first(tmp_path, "cpu", "memory", "pids")
    groups = find_groups("server", root=tmp_path, own=own)
    assert groups.missing == ()
    name = str(home.stat().st_ino)
    for parent in groups.parents.values():
        (parent / name).mkdir()
    memory = groups.parents["memory"] / name
    (memory / "memory.limit_in_bytes").touch()
    (groups.parents["cpu"] / name / "cpu.cfs_quota_us").touch()
    (groups.parents["pids"] / name / "pids.max").touch()
    lists = groups.make(home, LIMITS)
    assert sorted(path.parent.parent.parent.parent.name for path in lists) == ["cpu", "memory", "pids"]
    assert (memory / "memory.limit_in_bytes").read_text() == str((512 << 20) + OVERHEAD_BYTES)
    assert not (memory / "memory.memsw.limit_in_bytes").exists(), "this kernel counts no swap"
    assert (groups.parents["cpu"] / name / "cpu.cfs_quota_us").read_text() == "250000"


def test_what_a_machine_does_not_give_is_told(tmp_path: Path) -> None:
    own = first(tmp_path, "cpu")
    assert find_groups("server", root=tmp_path, own=own).missing == ("memory", "pids")
    assert find_groups("server", root=tmp_path / "none", own="").missing == ("cpu", "memory", "pids")


def test_version_two_has_one_group_and_the_server_moves_down(home: Path, tmp_path: Path) -> None:
    groups = find_groups("server", root=tmp_path, own=second(tmp_path, "cpu io memory pids"))
    assert groups.missing == ()
    assert (tmp_path / "own" / "server" / "cgroup.procs").read_text() == str(os.getpid())
    assert (tmp_path / "own" / "cgroup.subtree_control").read_text() == "+cpu +memory +pids +io"
    group = tmp_path / "own" / "server" / str(home.stat().st_ino)
    group.mkdir()
    for name in ("cpu.max", "memory.max", "memory.swap.max", "pids.max"):
        (group / name).touch()
    (only,) = groups.make(home, LIMITS)
    assert only == group / "cgroup.procs"
    assert (group / "cpu.max").read_text() == "250000 100000"
    assert (group / "memory.swap.max").read_text() == "0"


def test_version_two_that_is_not_delegated_is_told(tmp_path: Path) -> None:
    groups = find_groups("server", root=tmp_path, own=second(tmp_path, "memory pids"))
    assert groups.missing == ("cpu",)


def test_a_process_is_held_and_found_in_its_group_and_only_there(home: Path, tmp_path: Path) -> None:
    groups = find_groups(NAME)
    if groups.missing or os.geteuid() != 0:  # this machine gives none, which the host reports
        return
    child = jail.spawn(["/bin/sleep", "60"], log=tmp_path / "log", cwd=tmp_path, env={})
    name = str(home.stat().st_ino)
    try:
        with pytest.raises(PostureViolation, match="not limited"):
            posture.check_groups(child.pid, groups.parents, name)
        groups.join(home, LIMITS, child.pid)
        posture.check_groups(child.pid, groups.parents, name)
        groups.leave(child.pid)
        with pytest.raises(PostureViolation):
            posture.check_groups(child.pid, groups.parents, name)
    finally:
        child.signal(9)
        child.ended_within(5)
        child.close()
        groups.remove(int(name))
        groups.close()
    assert not any(parent.exists() for parent in groups.parents.values())
