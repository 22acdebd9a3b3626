"""What machines are and may do, as the kernel tells it: the same whatever they have gone through."""

from __future__ import annotations

import errno
import itertools
import os
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pandastack.errors import MachineError, PostureViolation
from pandastack.host import jail, posture
from pandastack.host.app import LocalHost
from pandastack.host.qemu import QemuDriver
from pandastack.host.qemu_command import DRIVES
from pandastack.host.qemu_record import QMP
from pandastack.host.qmp import monitor
from pandastack.host.readiness import run_to_end
from pandastack.model.host import SnapshotSpec, VmSpec
from tests.descriptors import opened
from tests.vm.conftest import OpenHost
from tests.vm.test_fork_server import until_forked

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(120)]

DEVICES = {
    "acpi-ged": 1,
    "fw_cfg_io": 1,
    "ioapic": 2,
    "isa-serial": 1,
    "isabus-bridge": 1,
    "kvmvapic": 1,
    "virtio-blk-device": 1 + DRIVES,
    "virtio-mmio": 24,
    "virtio-net-device": 1,
    "virtio-serial-device": 1,
    "virtserialport": 1,
}
"""All that QEMU's machine `microvm` has, and what the command line names. `virtio-mmio` are empty places."""
VIRTIO = ["0x0001", *["0x0002"] * (1 + DRIVES), "0x0003"]
"""What the guest sees in some of them: a network card, a disk and those that wait for volumes, a console."""


def is_jailed(host: LocalHost) -> bool:
    driver = host.vms.driver
    assert isinstance(driver, QemuDriver)
    return driver.jailer is not None


def inspect(host: LocalHost, vm_id: str) -> posture.Posture:
    """The posture of a machine, which is that of a machine in a jail."""
    (pid,) = [report.pid for report in host.vms.reports() if report.id == vm_id]
    found = posture.read(pid)
    (thread,) = found.threads
    (user,) = thread.user
    assert 200_000 <= user <= 265_535
    assert not posture.violations(found.threads, found.shared, user)
    assert found.kinds <= posture.KINDS
    assert found.root <= posture.ROOT | {"root", "home", "var", "tmp", "opt"}, "folders above the cache"
    assert not found.core
    return found


async def booted(host: LocalHost) -> str:
    await host.start(VmSpec("source", "base"))
    await host.snapshot(SnapshotSpec("kept", "source"))
    await host.start(VmSpec("booted", "base", snapshot="kept", cold=True))
    return "booted"


async def restored(host: LocalHost) -> str:
    """From its files, without a fork server."""
    driver = host.vms.driver
    assert isinstance(driver, QemuDriver)
    driver.zygotes, kept = None, driver.zygotes
    await host.start(VmSpec("restored", "base"))
    driver.zygotes = kept
    return "restored"


async def forked(host: LocalHost) -> str:
    await until_forked(host)
    report = await host.start(VmSpec("forked", "base"))
    assert "fork" in report.phases_ms
    return "forked"


async def after_a_snapshot(host: LocalHost) -> str:
    await forked(host)
    await host.snapshot(SnapshotSpec("kept", "forked"))
    return "forked"


async def child(host: LocalHost) -> str:
    """Of a machine that was forked while it ran."""
    await after_a_snapshot(host)
    await host.start(VmSpec("child", "base", snapshot="kept"))
    return "child"


LIVES: dict[str, Callable[[LocalHost], Awaitable[str]]] = {
    life.__name__: life for life in (booted, restored, forked, after_a_snapshot, child)
}


@pytest.fixture(params=LIVES)
async def machine(request: pytest.FixtureRequest, host: LocalHost) -> AsyncIterator[tuple[LocalHost, str]]:
    yield host, await LIVES[request.param](host)


async def test_whatever_it_went_through_its_posture_is_the_same(machine: tuple[LocalHost, str]) -> None:
    host, vm_id = machine
    if is_jailed(host):
        inspect(host, vm_id)
    assert (await run_to_end(host.guest(vm_id), "echo alive", "look"))[1] == "alive\n"


async def test_an_adopted_one_too_and_no_two_have_the_same_user(open_state: OpenHost) -> None:
    async with open_state() as host:
        for number in range(2):
            await host.start(VmSpec(f"vm-{number}", "base"))
    async with open_state() as host:
        try:
            if is_jailed(host):
                users = {next(iter(inspect(host, f"vm-{number}").threads)).user for number in range(2)}
                assert len(users) == 2
        finally:
            await host.end_all()


async def test_one_that_is_in_no_jail_is_found_out(host: LocalHost) -> None:
    """The negative control: a machine of a driver without a jailer, and this very program."""
    driver = host.vms.driver
    assert isinstance(driver, QemuDriver)
    driver.jailer = None
    driver.zygotes = None
    report = await host.start(VmSpec("vm", "base"))
    with pytest.raises(PostureViolation) as caught:
        posture.check(report.pid, 200_000)
    for word in ("runs as", "namespace net", "namespace mnt"):
        assert word in str(caught.value)
    with pytest.raises(PostureViolation, match="filter of system calls"):
        posture.check(os.getpid(), 200_000)
    assert posture.read(report.pid).shared == frozenset(posture.NAMESPACES)


async def test_one_that_has_ended_is_no_violation(tmp_path: Path) -> None:
    ended = jail.spawn(["/bin/true"], log=tmp_path / "log", cwd=tmp_path, env={})
    await ended.wait()
    ended.close()
    with pytest.raises(MachineError):
        posture.check(ended.pid, 200_000)


async def test_a_guest_has_the_devices_of_the_list_and_no_others(host: LocalHost, state: Path) -> None:
    await host.start(VmSpec("vm", "base"))
    async with monitor(state / "v" / "vm" / QMP) as qmp:
        tree = await qmp.execute("human-monitor-command", {"command-line": "info qtree"})
    found = [name.removeprefix("kvm-") for name in re.findall(r"dev: ([\w-]+)", tree)]
    assert {name: found.count(name) for name in found} == DEVICES
    line = "cat /sys/bus/virtio/devices/*/device; ls -d /sys/bus/pci/devices/* /sys/bus/usb/devices/*"
    _, words = await run_to_end(host.guest("vm"), f"{line} 2> /dev/null; true", "look")
    assert sorted(words.split()) == VIRTIO


async def test_members_of_a_family_cannot_reach_what_is_the_others(host: LocalHost, state: Path) -> None:
    """A fork of a machine that runs has its user: what keeps them apart is that it sees no home but its
    own.
    """
    await child(host)
    if not is_jailed(host):
        return
    family = {report.id: report.pid for report in host.vms.reports()}
    users = {next(iter(inspect(host, name).threads)).user for name in family}
    assert len(users) == 1, "a family"
    homes = {name: {path.stat().st_ino for path in (state / "v" / name).iterdir()} for name in family}
    shared = homes["child"] & homes["forked"]
    assert shared, "layers that nobody writes any more"
    for name, pid in family.items():
        seen = _seen(Path(f"/proc/{pid}/root")) | _seen(Path(f"/proc/{pid}/cwd"))
        seen |= {status.st_ino for _, status in opened(pid)}
        assert homes[name] & seen, "its own"
        others = set().union(*(homes[other] for other in family if other != name)) - shared
        assert not others & seen
    assert {_looked_at(pid, users) for pid in family.values()} == {errno.EACCES}
    assert _ordinary_one_looked_at(users) == 0, "what the others are told apart from"


PRLIMIT, TGKILL, OPENAT, PRCTL = 302, 234, 257, 157
IDLE = os.SCHED_IDLE
SLOWING: dict[str, tuple[int, Callable[[int], tuple[object, ...]]]] = {
    "sched_setattr": (314, lambda other: (other, f"w:48,{IDLE}" + ",0" * 10, 0)),
    "sched_setscheduler": (144, lambda other: (other, IDLE, "w:0")),
    "sched_setparam": (142, lambda other: (other, "w:0")),
    "sched_setaffinity": (203, lambda other: (other, 8, f"w:{1 << min(os.sched_getaffinity(0))},0")),
    "setpriority": (141, lambda other: (os.PRIO_PROCESS, other, 19)),
    "setpriority of all": (141, lambda _: (os.PRIO_USER, 0, 19)),
    "ioprio_set": (251, lambda other: (1, other, 3 << 13)),
}
"""How one process makes another of its user slower: each call's number, and what it is called with."""


@pytest.fixture(scope="session")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("taken") / "taken"
    source = Path(__file__).with_name("taken.c")
    subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-o", program, source], check=True, timeout=60)
    return program


async def test_who_has_taken_over_a_fork_reaches_no_relative(host: LocalHost, taken: Path) -> None:
    """All of one user, in one namespace of processes. They are open to each other here, as they are for the
    milliseconds of an order.
    """
    await child(host)
    await host.start(VmSpec("sibling", "base", snapshot="kept"))
    if not is_jailed(host):
        return
    pids = {report.id: report.pid for report in host.vms.reports()}
    seen = {name: _number_in_namespace(pid) for name, pid in pids.items()}

    def call(name: str, number: int, *arguments: object, thread: int = 0) -> int:
        words = [str(word) for word in (taken, thread or pids[name], number, *arguments)]
        return int(subprocess.run(words, check=True, capture_output=True, timeout=20).stdout)

    def look(name: str, other: str, thread: int = 0) -> int:
        return call(name, OPENAT, -100, f"s:/proc/{seen[other]}/mem", os.O_RDWR, thread=thread)

    for name in pids:
        assert call(name, PRCTL, 4, 1) == 0  # open, as for an order
    for name, other in itertools.permutations(pids, 2):
        assert call(name, TGKILL, seen[other], seen[other], 0) == -errno.EPERM
        assert call(name, PRLIMIT, seen[other], 0, 0, 0) == -errno.EPERM
        assert call(name, PRLIMIT, 0, 0, 0, 0) == 0, "its own"
    hidden = (-errno.EACCES, -errno.EPERM, -errno.ENOENT)
    for name, other in [("child", "forked"), ("child", "sibling"), ("sibling", "child")]:
        assert look(name, other) in hidden
    for thread in Path(f"/proc/{pids['child']}/task").iterdir():
        assert look("child", "forked", int(thread.name)) in hidden, "no thread of it stays outside"
    assert look("forked", "child") >= 0, "what is left: into a fork that is open"
    for name in pids:
        assert (await run_to_end(host.guest(name), "echo alive", "look"))[1] == "alive\n"


async def test_who_has_taken_over_a_fork_makes_no_relative_slower(host: LocalHost, taken: Path) -> None:
    await child(host)
    if not is_jailed(host):
        return
    pids = {report.id: report.pid for report in host.vms.reports()}
    before = {name: _pace(pid) for name, pid in pids.items()}
    for name, other in itertools.permutations(pids, 2):
        for how, (number, arguments) in SLOWING.items():
            words = [taken, pids[name], number, *arguments(_number_in_namespace(pids[other]))]
            done = subprocess.run([str(word) for word in words], check=True, capture_output=True, timeout=20)
            assert (how, int(done.stdout)) == (how, -errno.EPERM)
    assert {name: _pace(pid) for name, pid in pids.items()} == before
    for name in pids:
        assert (await run_to_end(host.guest(name), "echo alive", "look"))[1] == "alive\n"


@pytest.mark.parametrize("how", SLOWING)
def test_an_ordinary_process_makes_another_of_its_user_slower(how: str, taken: Path) -> None:
    """The negative control: what the filter keeps a fork from."""
    number, arguments = SLOWING[how]
    if os.geteuid() != 0:
        return  # nobody else's user can be had, and one of these calls is for all of a user
    user = 219_999
    sleep = ["/bin/sleep", "60"]
    with subprocess.Popen(sleep, user=user) as one, subprocess.Popen(sleep, user=user) as other:
        words = [taken, one.pid, number, *arguments(other.pid)]
        done = subprocess.run([str(word) for word in words], capture_output=True, timeout=20, check=False)
        one.kill()
        other.kill()
    assert done.stdout == b"0\n", done.stderr


async def test_generations_that_are_too_deep_for_domains_are_forked_all_the_same(host: LocalHost) -> None:
    name = await forked(host)
    for number in range(9):  # two domains each, and there are 16
        await host.snapshot(SnapshotSpec(f"kept-{number}", name))
        name = f"generation-{number}"
        assert "fork" in (await host.start(VmSpec(name, "base", snapshot=f"kept-{number}"))).phases_ms
        if is_jailed(host):
            inspect(host, name)
    assert (await run_to_end(host.guest(name), "echo alive", "look"))[1] == "alive\n"


def _pace(pid: int) -> set[tuple[object, ...]]:
    """When and where the threads of a process run, as far as others of its user could change it."""
    found: set[tuple[object, ...]] = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        task = int(thread.name)
        with suppress(ProcessLookupError):  # QEMU's workers come and go
            where, niceness = os.sched_getaffinity(task), os.getpriority(os.PRIO_PROCESS, task)
            found.add((os.sched_getscheduler(task), niceness, *where))
    return found


def _number_in_namespace(pid: int) -> int:
    (line,) = [word for word in Path(f"/proc/{pid}/status").read_text().splitlines() if "NSpid" in word]
    return int(line.split()[-1])


def _ordinary_one_looked_at(users: set[frozenset[int]]) -> int:
    with subprocess.Popen(["/bin/sleep", "60"], user=min(min(users))) as ordinary:
        found = _looked_at(ordinary.pid, users)
        ordinary.kill()
    return found


def _looked_at(pid: int, users: set[frozenset[int]]) -> int:
    """What comes of it when another process of the same user opens the memory of this one: an error."""
    program = f"import sys\ntry: open('/proc/{pid}/mem', 'rb')\nexcept OSError as e: sys.exit(e.errno)"
    (user,) = min(users)
    return subprocess.run(["/usr/bin/python3", "-c", program], user=user, check=False).returncode


def _seen(root: Path) -> set[int]:
    """The files below a folder, as the process sees it; not what /proc tells of it."""
    found = set()
    for folder, folders, files in os.walk(root):
        if Path(folder) == root and "proc" in folders:
            folders.remove("proc")
        found |= {os.lstat(Path(folder, name)).st_ino for name in files}
    return found
