"""Control groups of both generations: the first as this machine has it, where it does, else as files."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from pandastack.config import HostConfig
from pandastack.errors import NotIsolated, PostureViolation
from pandastack.host import checks, jail, posture
from pandastack.host.disks import Disk, disk_of
from pandastack.host.groups import FIRST as FILES
from pandastack.host.groups import OVERHEAD_BYTES, SECOND, Groups, Limits, find_groups, number_of, unlimited
from pandastack.host.tenancy import demand
from pandastack.model.sandbox import Isolation

LIMITS = Limits(cpus=2, memory_bytes=512 << 20)
FIRST = ("cpu", "memory", "pids", "blkio")
DISK = Disk("254:0", 400 << 20)
EACH_FILE = [
    (version, name) for version, kind in ((1, FILES), (2, SECOND)) for each in kind.values() for name in each
]
NAME = f"pandastack-test-{os.getpid()}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


def mounts(root: Path, *first: str) -> str:
    """What a machine tells that has these controllers in version 1, and version 2 beside them."""
    kinds = [(root / each, f"cgroup cgroup rw,{each}") for each in first] + [(root, "cgroup2 cgroup2 rw")]
    lines = [f"31 23 0:28 / {where} rw,relatime shared:9 - {kind}" for where, kind in kinds]
    return "\n".join(["22 1 0:20 / / rw - ext4 /dev/vda rw", *lines])


def first(root: Path, *controllers: str) -> tuple[str, str]:
    """A machine with version 1: its mounts, and what a process of it is told of itself."""
    for controller in controllers:
        (root / controller / "own").mkdir(parents=True)
    groups = (f"{n}:{each}:/own" for n, each in enumerate(("cpu", "memory", "pids", "blkio"), 2))
    return mounts(root, *controllers), "\n".join([*groups, "0::/own"])


def second(root: Path, offered: str) -> tuple[str, str]:
    """A machine with version 2 whose server's group is delegated to it."""
    (root / "own").mkdir(parents=True)
    (root / "own" / "cgroup.controllers").write_text(offered)
    return mounts(root), "0::/own"


def without(file: str, root: Path, *, version: int, below: str = "own/server") -> tuple[str, str]:
    """A machine whose kernel has all that is needed but this file."""
    machine = first(root, *FIRST) if version == 1 else second(root, "cpu io memory pids")
    for controller in FIRST if version == 1 else SECOND:
        parent = root / controller / below if version == 1 else root / below
        parent.mkdir(exist_ok=True)
        for name in {1: FILES, 2: SECOND}[version][controller]:
            if name != file:
                (parent / name).touch()
    return machine


def found(machine: tuple[str, str]) -> Groups:
    return find_groups("server", DISK, mounts=machine[0], own=machine[1], swaps=True)


def test_version_one_limits_by_a_group_for_each_controller(home: Path, tmp_path: Path) -> None:
    groups = found(first(tmp_path, *FIRST))
    assert groups.missing == ()
    assert "no limit of swap: the kernel has no memory.memsw.limit_in_bytes" in groups.lacks
    assert groups.parents == {each: tmp_path / each / "own" / "server" for each in FIRST}
    name = str(home.stat().st_ino)
    for parent in groups.parents.values():
        (parent / name).mkdir()
    memory = groups.parents["memory"] / name
    (memory / "memory.limit_in_bytes").touch()
    (groups.parents["cpu"] / name / "cpu.cfs_quota_us").touch()
    (groups.parents["pids"] / name / "pids.max").touch()
    writes = groups.parents["blkio"] / name / "blkio.throttle.write_bps_device"
    writes.touch()
    lists = groups.make(number_of(home), LIMITS)
    assert sorted(path.parent.parent.parent.parent.name for path in lists) == sorted(FIRST)
    assert (memory / "memory.limit_in_bytes").read_text() == str((512 << 20) + OVERHEAD_BYTES)
    assert not (memory / "memory.memsw.limit_in_bytes").exists(), "this kernel counts no swap"
    assert (groups.parents["cpu"] / name / "cpu.cfs_quota_us").read_text() == "250000"
    assert writes.read_text() == f"254:0 {400 << 20}"


def test_what_a_machine_does_not_give_is_told(tmp_path: Path) -> None:
    assert found(first(tmp_path, "cpu")).missing == ("memory", "pids", "io")
    assert found(("", "")).missing == ("cpu", "memory", "pids", "io")
    assert found(("", "0::/")).lacks[0] == "no control group for cpu"


@pytest.mark.parametrize(("version", "file"), EACH_FILE)
def test_each_limit_that_the_kernel_has_not_is_told_and_keeps_strangers_out(
    version: int, file: str, tmp_path: Path
) -> None:
    assert found(without("none of them", tmp_path / "all", version=version)).lacks == ()
    (reason,) = found(without(file, tmp_path / "but-one", version=version)).lacks
    assert reason.startswith("no limit of ")
    assert reason.endswith(f": the kernel has no {file}")
    config = HostConfig(multi_tenant=True)
    with pytest.raises(NotIsolated, match=f"degraded: {reason}"):
        demand(config, Isolation.HARDWARE, (reason,))
    demand(HostConfig(multi_tenant=True, accept_isolation="degraded"), Isolation.HARDWARE, (reason,))


def test_a_kernel_that_cannot_swap_needs_no_limit_of_it(tmp_path: Path) -> None:
    (tmp_path / "memory.max").touch()
    assert unlimited(SECOND, {"memory": tmp_path}, swaps=False) == ()
    assert unlimited(SECOND, {"memory": tmp_path}, swaps=True) == (
        "no limit of swap: the kernel has no memory.swap.max",
    )


@pytest.mark.parametrize(("version", "file"), EACH_FILE)
def test_the_doctor_tells_of_them_too(version: int, file: str, tmp_path: Path) -> None:
    for root, missing in ((tmp_path / "all", ""), (tmp_path / "but-one", file)):
        without(missing, root, version=version, below="own")
        (root / "cgroup.subtree_control").write_text("cpu io memory pids\n")
        if version == 2:
            (root / "cgroup.controllers").write_text("cpu io memory pids\n")
    assert checks.cgroups(tmp_path / "all", swaps=True).found == f"version {version}"
    assert checks.cgroups(tmp_path / "but-one", swaps=True).found.endswith(f"the kernel has no {file}")


def test_version_two_has_one_group_and_the_server_moves_down(home: Path, tmp_path: Path) -> None:
    groups = found(second(tmp_path, "cpu io memory pids"))
    assert groups.missing == ()
    assert (tmp_path / "own" / "server" / "cgroup.procs").read_text() == str(os.getpid())
    assert (tmp_path / "own" / "cgroup.subtree_control").read_text() == "+cpu +memory +pids +io"
    group = tmp_path / "own" / "server" / str(home.stat().st_ino)
    group.mkdir()
    for name in ("cpu.max", "memory.max", "memory.swap.max", "pids.max", "io.max"):
        (group / name).touch()
    (only,) = groups.make(number_of(home), LIMITS)
    assert only == group / "cgroup.procs"
    assert (group / "cpu.max").read_text() == "250000 100000"
    assert (group / "memory.swap.max").read_text() == "0"
    assert (group / "io.max").read_text() == f"254:0 rbps={400 << 20} wbps={400 << 20}"


@pytest.mark.parametrize("version", [1, 2])
def test_who_leaves_is_where_the_server_is(version: int, tmp_path: Path) -> None:
    """In version 2 the group above the machines' can have no process: the kernel would refuse it."""
    machine = first(tmp_path, "pids") if version == 1 else second(tmp_path, "cpu io memory pids")
    groups = find_groups("machines", DISK, mounts=machine[0], own=machine[1])
    groups.leave(4711)
    (above,) = groups.parents.values()
    allowed = above if version == 1 else above.with_name("server")
    assert (allowed / "cgroup.procs").read_text() == "4711"
    assert version == 1 or not (above / "cgroup.procs").exists()


def test_version_two_that_is_not_delegated_is_told(tmp_path: Path) -> None:
    assert found(second(tmp_path, "io memory pids")).missing == ("cpu",)


def test_with_both_versions_the_second_is_taken_when_it_has_all(tmp_path: Path) -> None:
    machine = first(tmp_path, *FIRST)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "cgroup.controllers").write_text("io\n")
    assert set(found(machine).parents) == set(FIRST)
    (tmp_path / "own" / "cgroup.controllers").write_text("cpu io memory pids\n")
    assert set(found(machine).parents) == {""}


def test_a_container_sees_its_own_groups_at_the_root_of_the_mount(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    lines = mounts(tmp_path, "memory").replace(" / " + str(tmp_path / "memory"), f" /box {tmp_path}/memory")
    groups = find_groups("server", DISK, mounts=lines, own="4:memory:/box\n")
    assert groups.parents == {"memory": tmp_path / "memory" / "server"}
    elsewhere = find_groups("server", DISK, mounts=lines, own="4:memory:/other\n")
    assert elsewhere.missing == ("cpu", "memory", "pids", "io"), "its group is not below what is mounted"


def test_a_folder_is_on_the_whole_disk_of_its_partition(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    disk = tmp_path / "sys" / "sda"
    (disk / "sda1").mkdir(parents=True)
    (disk / "dev").write_text("8:0\n")
    (disk / "sda1" / "dev").write_text(f"{number}\n")
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / number).symlink_to(disk / "sda1")
    assert disk_of(tmp_path, sysfs=tmp_path / "block") == number, "a whole disk is itself"
    (disk / "sda1" / "partition").write_text("1\n")
    assert disk_of(tmp_path, sysfs=tmp_path / "block") == "8:0"
    assert disk_of(tmp_path, sysfs=tmp_path / "none") is None
    assert disk_of(tmp_path / "not" / "there yet", sysfs=tmp_path / "block") == "8:0", "where it will be"


def test_memory_is_no_disk() -> None:
    mounts = "31 23 0:28 / /dev/shm rw - tmpfs tmpfs rw"
    assert disk_of(Path("/dev/shm"), mounts=mounts) is None  # only looked at
    assert Groups({}, (), None).lacks == (
        "no limit of disk traffic, since the state is on no disk of its own",
    )


@pytest.mark.anyio
async def test_groups_go_once_nobody_is_in_them(home: Path, tmp_path: Path) -> None:
    groups = found(first(tmp_path, "pids"))
    groups.make(number_of(home), LIMITS)
    group = groups.parents["pids"] / str(home.stat().st_ino)
    (group / "process").mkdir(parents=True)
    leaving = asyncio.create_task(groups.end(home.stat().st_ino), name="end")
    await asyncio.sleep(0.05)
    assert group.exists()
    (group / "process").rmdir()
    await leaving
    assert not group.exists()


def test_a_process_is_held_and_found_in_its_group_and_only_there(home: Path, tmp_path: Path) -> None:
    device = disk_of(tmp_path)
    groups = find_groups(NAME, Disk(device, 400 << 20) if device else None)
    if groups.missing or os.geteuid() != 0:  # this machine gives none, which the host reports
        return
    child = jail.spawn(["/bin/sleep", "60"], log=tmp_path / "log", cwd=tmp_path, env={})
    name = str(home.stat().st_ino)
    try:
        with pytest.raises(PostureViolation, match="not limited"):
            posture.check_groups(child.pid, groups.parents, name)
        groups.join(groups.make(number_of(home), LIMITS), child.pid)
        posture.check_groups(child.pid, groups.parents, name)
        if device and (blkio := groups.parents.get("blkio")):
            told = (blkio / name / "blkio.throttle.write_bps_device").read_text()
            assert told == f"{device} {400 << 20}\n", "the kernel has taken it"
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
