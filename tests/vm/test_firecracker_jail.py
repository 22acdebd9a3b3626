"""What a jailed Firecracker is, may and sees, and what is refused to whoever tampers with its jail."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import structs

from pandastack.errors import MachineError
from pandastack.host import firecracker_jail, procfs, sparse
from pandastack.host.cell import BADNESS
from pandastack.host.firecracker_api import api
from pandastack.host.firecracker_install import FirecrackerInstall
from pandastack.host.firecracker_jail import Root
from pandastack.host.firecracker_machine import FirecrackerMachine
from pandastack.host.groups import OVERHEAD_BYTES, Groups
from pandastack.testing.fixtures import LeakCheck, eventually
from tests.vm.firecracker_yard import RANGE, Corner, corner, firecracker_driver
from tests.vm.tiny_guest import counter_of

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root]

USER = int(RANGE.partition("-")[0])
SECRET = b"what another machine knows"
NAMESPACES = ("mnt", "net", "pid", "ipc", "uts")
ROOT_OF_BOOTED = {
    *("api.sock", "dev", "disk", "firecracker", "firecracker.pid", "initrd", "kernel", "metrics"),
    *("run", "vmm.log", "vsock"),
}
"""All that a machine sees in `/`."""
DEVICES = {"kvm", "net", "net/tun", "urandom", "userfaultfd"}


@pytest.fixture
def yard(firecracker: FirecrackerInstall, tmp_path: Path, leak_check: LeakCheck) -> Corner:
    return corner(firecracker, tmp_path)


@asynccontextmanager
async def running(yard: Corner, name: str = "home") -> AsyncIterator[FirecrackerMachine]:
    config = structs.replace(yard.config, vm_id=f"{yard.config.vm_id}-{name}")
    machine = await yard.driver.boot(config, yard.home(name))
    try:
        await eventually(lambda: counter_of(machine.pid) > 0)
        yield machine
    finally:
        await machine.stop(0)


def status_of(thread: Path) -> dict[str, str]:
    lines = (thread / "status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def check_posture(machine: FirecrackerMachine) -> None:
    """Every thread is nobody, can do nothing and lives in namespaces of its own."""
    threads = list(Path(f"/proc/{machine.pid}/task").iterdir())
    assert len(threads) >= 3
    ours = {kind: Path(f"/proc/self/ns/{kind}").stat().st_ino for kind in NAMESPACES}
    for thread in threads:
        status = status_of(thread)
        uid = str(machine.root.uid)
        assert status["Uid"].split() == status["Gid"].split() == [uid] * 4
        assert status["Groups"] == ""
        assert [int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")] == [0] * 4
        assert int(status["CapBnd"], 16) & ~sum(1 << n for n in firecracker_jail._NEEDED) == 0
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert status["NSpid"].split()[-1] in (thread.name, "1") or len(status["NSpid"].split()) == 2
        for kind, inode in ours.items():
            assert (thread / "ns" / kind).stat().st_ino != inode, kind


async def test_every_thread_is_confined(yard: Corner) -> None:
    async with running(yard, "one") as one, running(yard, "two") as two:
        for machine in (one, two):
            check_posture(machine)
        assert one.root.uid != two.root.uid
        for kind in NAMESPACES:
            spaces = {Path(f"/proc/{machine.pid}/ns/{kind}").stat().st_ino for machine in (one, two)}
            assert len(spaces) == 2, kind
        await one.snapshot(yard.home("snapshot"))
        check_posture(one)


async def test_a_process_that_is_not_confined_would_be_seen(yard: Corner) -> None:
    async with running(yard) as machine:
        machine.pid, confined = os.getpid(), machine.pid
        with pytest.raises(AssertionError):
            check_posture(machine)
        machine.pid = confined


async def test_it_sees_what_it_needs_and_nothing_else(yard: Corner) -> None:
    async with running(yard) as machine:
        root = Path(f"/proc/{machine.pid}/root")
        assert {path.name for path in root.iterdir()} == ROOT_OF_BOOTED
        devices = {str(path.relative_to(root / "dev")) for path in (root / "dev").rglob("*")}
        assert devices <= DEVICES
        mounts = Path(f"/proc/{machine.pid}/mountinfo").read_text().splitlines()
        assert [line.split()[4] for line in mounts] == ["/"]
        net = Path(f"/proc/{machine.pid}/net/dev").read_text()
        assert re.findall(r"^\s*(\w+):", net, re.MULTILINE) == ["lo"]
        files = procfs.files(machine.pid)
        outside = {name for name in files if name.startswith(str(yard.place))}
        assert outside == {str(machine.home / name) for name in ("console.log", "vmm.log")}
        for kind in ("kernel", "initrd"):
            assert (root / kind).stat().st_uid == 0
            assert not (root / kind).stat().st_mode & 0o022


async def test_its_limits(yard: Corner) -> None:
    async with running(yard) as machine:
        limits = Path(f"/proc/{machine.pid}/limits").read_text()
        assert re.search(
            rf"Max file size +{yard.config.disk_limit_bytes} +{yard.config.disk_limit_bytes} ", limits
        )
        assert re.search(r"Max open files +1024 +1024 ", limits)
        assert re.search(r"Max core file size +0 +0 ", limits)
        assert int(Path(f"/proc/{machine.pid}/oom_score_adj").read_text()) == BADNESS
        parents, name = yard.means.groups.parents, str(machine.home.stat().st_ino)
        assert parents and yard.means.groups.missing == ()
        groups = [parent / name for parent in parents.values()]
        assert all(str(machine.pid) in (one / "cgroup.procs").read_text().split() for one in groups)
        files = [group / kind for group in groups for kind in ("memory.max", "memory.limit_in_bytes")]
        most = [int(file.read_text()) for file in files if file.exists()]
        assert most == [(yard.config.memory_mb << 20) + OVERHEAD_BYTES]
    assert not any(group.exists() for group in groups)


async def test_one_that_cannot_be_limited_is_ended(firecracker: FirecrackerInstall, tmp_path: Path) -> None:
    yard = corner(firecracker, tmp_path)
    nowhere = Groups({"pids": yard.home("no-group")})
    means = structs.replace(yard.means, groups=nowhere)
    driver = firecracker_driver(firecracker, tmp_path / "cache", means)
    home = yard.home("home")
    with pytest.raises(MachineError, match="ended"):
        await driver.boot(yard.config, home)
    assert not list(home.iterdir())


def by_symlink(dummy: Path, planted: Path) -> None:
    planted.symlink_to(dummy)


def by_hard_link(dummy: Path, planted: Path) -> None:
    planted.hardlink_to(dummy)


PLANTS = pytest.mark.parametrize("plant", [by_symlink, by_hard_link])


@PLANTS
async def test_what_is_planted_in_the_jail_is_refused(
    firecracker: FirecrackerInstall, tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    user = 265_535
    yard = corner(firecracker, tmp_path, users=f"{user}-{user}")
    dummy, home = yard.place / "dummy", yard.home("home")
    dummy.write_bytes(SECRET)
    root = Root(home, f"pandastack-{yard.config.vm_id}-{user}", "firecracker", user)
    root.path.mkdir(parents=True)
    plant(dummy, root.path / "firecracker")
    with pytest.raises(MachineError, match="cannot be made"):
        await yard.driver.boot(yard.config, home)
    assert dummy.read_bytes() == SECRET


@PLANTS
async def test_the_jailer_itself_would_write_through_it(
    yard: Corner, plant: Callable[[Path, Path], None]
) -> None:
    dummy, install = yard.place / "dummy", yard.driver.install
    dummy.write_bytes(SECRET)
    folder = yard.place / "jail" / "firecracker" / yard.config.vm_id / "root"
    folder.mkdir(parents=True)
    plant(dummy, folder / "firecracker")
    who = ["--id", yard.config.vm_id, "--uid", str(USER), "--gid", str(USER)]
    what = ["--exec-file", str(install.firecracker), "--chroot-base-dir", str(yard.place / "jail")]
    subprocess.run([install.jailer, *who, *what, "--", "--version"], check=False, capture_output=True)
    assert dummy.read_bytes() == install.firecracker.read_bytes()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda root: (root.home / "jail").chmod(0o755), "not root's alone"),
        (lambda root: os.chown(root.home / "jail", USER, 0), "not root's alone"),
        (lambda root: (root.path / "kernel").symlink_to("/etc/passwd"), "has put kernel"),
        (lambda root: (root.path / "firecracker").write_bytes(b""), "has put firecracker"),
    ],
)
def test_a_jail_that_others_may_have_touched(
    tmp_path: Path, change: Callable[[Root], object], why: str
) -> None:
    root = Root(tmp_path, "one", "firecracker", USER)
    firecracker_jail.make_root(root)
    firecracker_jail.check_untouched(root, ["kernel"])
    change(root)
    with pytest.raises(MachineError, match=why):
        firecracker_jail.check_untouched(root, ["kernel"])


async def test_another_machines_socket_in_the_place_of_its_own(yard: Corner) -> None:
    """What a machine that has broken out of its process may do to its own root."""
    async with running(yard, "one") as one, running(yard, "two") as two:
        socket = one.root.path / "api.sock"
        socket.unlink()
        socket.symlink_to(two.root.path / "api.sock")
        with pytest.raises(MachineError, match="not the machine's own socket"):
            await one.pause()
        socket.unlink()
        socket.hardlink_to(two.root.path / "api.sock")
        with pytest.raises(MachineError, match="not the machine's own socket"):
            await one.pause()
        assert await two.status() == "Running"
        async with api(socket, two.root.uid) as connection:  # nothing but its owner tells it apart
            assert await connection.state() == "Running"


@pytest.mark.parametrize("how", ["symlink", "hard link", "pipe"])
def test_a_strangers_file_is_not_taken_out_of_a_jail(tmp_path: Path, how: str) -> None:
    secret, target = tmp_path / "secret", tmp_path / "taken"
    secret.write_bytes(SECRET)
    root = Root(tmp_path, "one", "firecracker", USER)
    firecracker_jail.make_root(root)
    left = root.path / "new.memory"
    if how == "symlink":
        left.symlink_to(secret)
    elif how == "hard link":
        left.hardlink_to(secret)
    else:
        os.mkfifo(left)
    if how != "pipe":  # what would happen without a look at it
        sparse.copy(left, tmp_path / "copied")
        assert (tmp_path / "copied").read_bytes() == SECRET
    with pytest.raises(MachineError, match="not a file of its own"):
        firecracker_jail.take_out(root, "new.memory", target)
    assert not target.exists()
    assert secret.stat().st_uid == 0 and secret.read_bytes() == SECRET
    left.write_bytes(b"its own")
    os.chown(left, USER, USER)
    firecracker_jail.take_out(root, "new.memory", target)
    assert target.stat().st_uid == 0 and target.read_bytes() == b"its own"
