"""The driver against a real Firecracker in its jailer, with a guest of fifty bytes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from msgspec import structs

from pandastack.config import DriverName, HostConfig
from pandastack.errors import GuestUnreachable, MachineError, NotSupported, SnapshotRefused
from pandastack.host import procfs, snapshots, unix
from pandastack.host.app import open_host
from pandastack.host.doctor import find_any_qemu
from pandastack.host.driver import SnapshotFiles
from pandastack.host.firecracker_api import Refused
from pandastack.host.firecracker_install import FirecrackerInstall
from pandastack.host.firecracker_machine import FirecrackerMachine
from pandastack.host.firecracker_orders import Shape
from pandastack.host.jail import NOT_OURS
from pandastack.host.network import namespace
from pandastack.host.probe import probe_kvm
from pandastack.model.host import SnapshotSpec
from pandastack.testing.fixtures import CACHE as HOST_CACHE
from pandastack.testing.fixtures import LeakCheck, eventually
from tests.descriptors import opened
from tests.vm.conftest import quiet
from tests.vm.firecracker_yard import Corner, corner, left
from tests.vm.tiny_guest import CODE, FIRST_LETTER, LOAD_AT, counter_in, counter_of

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root]


@pytest.fixture
def yard(firecracker: FirecrackerInstall, tmp_path: Path, leak_check: LeakCheck) -> Corner:
    """A corner that must be clean at the end, but for what is in homes."""
    return corner(firecracker, tmp_path)


@asynccontextmanager
async def booted(
    yard: Corner, name: str = "booted", tap: int | None = None
) -> AsyncIterator[FirecrackerMachine]:
    machine = await yard.driver.boot(yard.config, yard.home(name), tap=tap)
    try:
        yield machine
    finally:
        await machine.stop(0)


@asynccontextmanager
async def restored(
    yard: Corner, snapshot: SnapshotFiles, name: str, tap: int | None = None
) -> AsyncIterator[FirecrackerMachine]:
    config = structs.replace(yard.config, vm_id=f"{yard.config.vm_id}-{name}")
    machine = await yard.driver.restore(snapshot, config, yard.home(name), tap)
    try:
        yield machine
    finally:
        await machine.stop(0)


async def whole(yard: Corner) -> SnapshotFiles:
    """A whole snapshot of a machine that has counted a little and has ended."""
    async with booted(yard, "baked") as machine:
        await eventually(lambda: counter_of(machine.pid) > 1000)
        return await machine.snapshot(yard.home("snapshot"))


async def since(yard: Corner, machine: FirecrackerMachine, base: SnapshotFiles, name: str) -> SnapshotFiles:
    """What a machine differs in from its base; sealed, as the host does it."""
    into = yard.home(name)
    went_on: list[bool] = []
    spec = SnapshotSpec(id=into.name, vm="any")
    taken = await machine.snapshot_since(base, into, spec, lambda: went_on.append(True))
    assert went_on == [True]
    config = yard.config
    machinery = yard.driver.machinery(config)
    await snapshots.seal(taken.files, machinery, "any", config.cpus, config.memory_mb)
    return taken.files


async def test_it_counts_and_stands_still_when_paused(yard: Corner) -> None:
    async with booted(yard) as machine:
        await eventually(lambda: counter_of(machine.pid) > 20_000)
        console = machine.home / "console.log"
        await eventually(lambda: console.read_bytes().startswith(FIRST_LETTER + b"b"))
        for _ in range(2):
            await machine.pause()
        assert await machine.status() == "Paused"
        stood = counter_of(machine.pid)
        await asyncio.sleep(0.1)
        assert counter_of(machine.pid) == stood
        for _ in range(2):
            await machine.resume()
        await eventually(lambda: counter_of(machine.pid) > stood)


async def test_a_whole_snapshot_goes_on_in_other_jails(yard: Corner) -> None:
    async with booted(yard) as origin:
        await eventually(lambda: counter_of(origin.pid) > 1000)
        snapshot = await origin.snapshot(yard.home("snapshot"))
        kept = counter_in(snapshot.memory)
        assert kept > 1000
        await eventually(lambda: counter_of(origin.pid) > kept)
        async with restored(yard, snapshot, "one") as one, restored(yard, snapshot, "two") as two:
            assert one.root.uid != two.root.uid != origin.root.uid
            await eventually(lambda: min(counter_of(machine.pid) for machine in (one, two)) > kept)
            assert counter_in(snapshot.memory) == kept
            with pytest.raises(NotSupported, match="only a booted one"):
                await one.snapshot(yard.place)


async def test_what_changes_is_kept_over_the_base_again_and_again(yard: Corner) -> None:
    base = await whole(yard)
    async with restored(yard, base, "one") as machine:
        first = await since(yard, machine, base, "snapshot-1")
        kept = counter_in(first.memory)
        await eventually(lambda: counter_of(machine.pid) > kept + 1000)
        second = await since(yard, machine, base, "snapshot-2")
        assert counter_in(second.memory) > kept + 1000
        assert second.memory.stat().st_blocks * 512 < base.memory.stat().st_size / 10
    async with restored(yard, second, "two") as machine:
        goes_on(machine, at_least=counter_in(second.memory))
        third = await since(yard, machine, base, "snapshot-3")
    async with restored(yard, third, "three") as machine:
        goes_on(machine, at_least=counter_in(third.memory))
    assert counter_in(third.memory) > counter_in(second.memory) > kept > counter_in(base.memory)


def goes_on(machine: FirecrackerMachine, *, at_least: int) -> None:
    """Its memory began with the base's code and the kept counter."""
    memory = machine.root.path / "memory"
    assert counter_in(memory) == at_least
    assert counter_of(machine.pid) >= at_least
    with memory.open("rb") as file:
        assert os.pread(file.fileno(), len(CODE), LOAD_AT) == CODE


async def test_one_that_is_to_hold_stands_still(yard: Corner) -> None:
    base = await whole(yard)
    async with restored(yard, base, "one") as machine:
        spec = SnapshotSpec(id="s", vm="any", hold=True)
        taken = await machine.snapshot_since(base, yard.home("held"), spec, lambda: None)
        assert await machine.status() == "Paused"
        assert counter_of(machine.pid) == counter_in(taken.files.memory)


async def test_its_files_are_its_own_and_its_memory_is_shared(yard: Corner) -> None:
    snapshot = await whole(yard)
    async with restored(yard, snapshot, "one") as one, restored(yard, snapshot, "two") as two:
        disks = {inode_of_open(machine, "/disk") for machine in (one, two)}
        assert disks == {(machine.home / "disk").stat().st_ino for machine in (one, two)}
        assert snapshot.overlay.stat().st_ino not in disks
        for machine in (one, two):
            assert (machine.root.path / "memory").stat().st_ino == snapshot.memory.stat().st_ino
            assert (machine.home / "disk").read_bytes().startswith(b"a disk of its own")


def inode_of_open(machine: FirecrackerMachine, name: str) -> int:
    """The inode of a file that it has open."""
    for target, status in opened(machine.pid):
        if target == name:
            return status.st_ino
    raise AssertionError(f"it has no {name}")


@contextmanager
def network(name: str, tap: str) -> Iterator[int]:
    """A network namespace with a tap in it, and a descriptor of that, as the host's slots have them."""
    ip("netns", "add", name)
    try:
        ip("-n", name, "tuntap", "add", tap, "mode", "tap")
        ip("-n", name, "link", "set", tap, "up")
        with namespace.inside(name):
            descriptor = namespace.open_tap(tap)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    finally:
        ip("netns", "del", name)


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def is_held(network: str, tap: str) -> bool:
    """Whether a process has the tap open."""
    (link,) = json.loads(ip("-n", network, "-j", "link", "show", tap))
    return "LOWER_UP" in link["flags"]


async def test_it_restores_with_another_tap_in_another_network(
    firecracker: FirecrackerInstall, tmp_path: Path
) -> None:
    yard = corner(firecracker, tmp_path, Shape(wired=True))
    one, two = (f"{yard.config.vm_id}-{letter}" for letter in "ab")
    with network(one, "tap-a") as first, network(two, "tap-b") as second:
        async with booted(yard, tap=first) as origin:
            assert_wired(origin, one, "tap-a")
            snapshot = await origin.snapshot(yard.home("snapshot"))
        assert not is_held(one, "tap-a")
        async with restored(yard, snapshot, "moved", tap=second) as machine:
            assert_wired(machine, two, "tap-b")
        assert not is_held(two, "tap-b")


def assert_wired(machine: FirecrackerMachine, network: str, tap: str) -> None:
    """It lives in this network and has its tap, which nobody else has open."""
    assert is_held(network, tap)
    space = Path(f"/proc/{machine.pid}/ns/net").stat().st_ino
    assert space == (Path("/run/netns") / network).stat().st_ino


async def test_one_that_is_given_no_tap_has_one_that_leads_nowhere(
    firecracker: FirecrackerInstall, tmp_path: Path, leak_check: LeakCheck
) -> None:
    yard = corner(firecracker, tmp_path, Shape(wired=True))
    async with booted(yard) as machine:
        devices = Path(f"/proc/{machine.pid}/net/dev").read_text()
        assert {line.split(":")[0].strip() for line in devices.splitlines()[2:]} == {"lo", "tap0"}
        assert Path(f"/proc/{machine.pid}/ns/net").stat().st_ino != Path("/proc/self/ns/net").stat().st_ino


ANOTHER = """
import asyncio, sys
from pathlib import Path
from tests.vm.firecracker_kit import firecracker_kit
from tests.vm.firecracker_yard import corner

async def adopt(place, home):
    machine = await corner(firecracker_kit(), place).driver.adopt(home)
    await machine.pause()
    print(machine.pid, await machine.status())
    await machine.stop(0)
    print(await machine.wait())

asyncio.run(adopt(*map(Path, sys.argv[1:])))
"""


async def test_another_program_adopts_it(yard: Corner) -> None:
    machine = await yard.driver.boot(yard.config, yard.home("home"))
    command: list[str | Path] = [sys.executable, "-c", ANOTHER, yard.place, machine.home]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    said = await asyncio.to_thread(subprocess.check_output, command, text=True, env=environment, timeout=60)
    assert said.split() == [str(machine.pid), "Paused", str(NOT_OURS)]
    assert await machine.wait() == -signal.SIGKILL
    await machine.stop(0)
    assert not [one for one in left(yard) if not one.startswith("file")]


async def test_one_in_a_home_that_was_renamed_is_adopted(
    firecracker: FirecrackerInstall, yard: Corner
) -> None:
    machine = await yard.driver.boot(yard.config, yard.home("home"))
    home = yard.place / "renamed"
    machine.home.rename(home)
    machine.moved(home)
    assert await machine.status() == "Running"
    machine.forget()
    other = corner(firecracker, yard.place).driver
    found = await other.adopt(home)
    assert found is not None
    try:
        assert found.pid == machine.pid
        await found.pause()
        assert await found.status() == "Paused"
    finally:
        await found.stop(0)
        await found.stop(0)
    assert await other.adopt(home) is None
    assert not [one for one in left(yard) if not one.startswith("file")]


async def test_one_that_was_never_recorded_is_ended(yard: Corner) -> None:
    machine = await yard.driver.boot(yard.config, yard.home("home"))
    machine.forget()
    (machine.home / "machine.json").write_bytes(b'{"pid": ')
    assert await yard.driver.adopt(machine.home) is None
    assert procfs.start_ticks(machine.pid) is None
    assert not [one for one in left(yard) if not one.startswith("file")]


async def test_one_that_is_killed_is_noticed(yard: Corner) -> None:
    async with booted(yard) as machine:
        waiting = asyncio.ensure_future(machine.wait())
        await asyncio.sleep(0)
        os.kill(machine.pid, signal.SIGKILL)
        assert await asyncio.wait_for(waiting, 10) == -signal.SIGKILL
        for verb in (machine.stats, machine.pause, machine.dial):
            with pytest.raises(MachineError, match="has ended"):
                await verb()


DELAYS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05)


async def test_a_cancelled_start_leaves_nothing(yard: Corner) -> None:
    snapshot = await whole(yard)
    for path in (yard.place / "baked").iterdir():
        subprocess.run(["rm", "-r", path], check=True)
    home = yard.home("home")
    starts: tuple[Callable[[], Awaitable[FirecrackerMachine]], ...] = (
        lambda: yard.driver.boot(yard.config, home),
        lambda: yard.driver.restore(snapshot, yard.config, home),
    )
    for start in starts:
        for delay in DELAYS:
            task = asyncio.ensure_future(start())
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                await task.result().stop(0)
                subprocess.run(["rm", "-r", *home.iterdir()], check=True)
            assert left(yard) == [], delay


async def test_what_is_left_would_be_seen(yard: Corner) -> None:
    async with booted(yard) as machine:
        with network(f"{yard.config.vm_id}-left", "tap-left"):
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", yard.home("mounted")], check=True)
            found = left(yard)
            subprocess.run(["umount", yard.place / "mounted"], check=True)
        assert {word.split()[0] for word in found} == {"process", "user", "group", "mount", "network", "file"}
        assert f"process {machine.pid}" in found
    assert {word.split()[0] for word in left(yard)} == {"file"}


async def test_a_failed_start_says_why_and_leaves_nothing(yard: Corner) -> None:
    yard.config.kernel.write_bytes(b"\x7fELF and nothing more".ljust(4096))
    home = yard.home("home")
    with pytest.raises(MachineError, match=r"refuses PUT /actions: .*[Kk]ernel"):
        await yard.driver.boot(yard.config, home)
    nowhere = structs.replace(yard.driver.install, jailer=Path("/nonexistent/jailer"))
    with pytest.raises(MachineError, match="/nonexistent/jailer: not found"):
        await corner(nowhere, yard.place).driver.boot(yard.config, home)
    assert left(yard) == []


async def test_a_snapshot_of_another_machine_is_refused(yard: Corner) -> None:
    snapshot = await whole(yard)
    larger = structs.replace(yard.config, memory_mb=32)
    home = yard.home("home")
    with pytest.raises(SnapshotRefused, match="devices"):
        await yard.driver.restore(snapshot, larger, home)
    snapshot.memory.chmod(0o644)
    os.truncate(snapshot.memory, 4096)
    with pytest.raises(SnapshotRefused):
        await yard.driver.restore(snapshot, yard.config, home)
    assert list(home.iterdir()) == []


async def test_its_counters_and_its_balloon(firecracker: FirecrackerInstall, tmp_path: Path) -> None:
    yard = corner(firecracker, tmp_path, Shape(balloon=True))
    async with booted(yard) as machine:
        with pytest.raises(Refused, match="not activated"):  # this guest drives no devices
            await machine.squeeze(1)
        stats = await machine.stats()
        assert 0 < stats.private_dirty_bytes <= stats.rss_bytes < stats.vsz_bytes
        assert stats.threads >= 3
        first = await machine.metrics()
        assert first["api_server"]["process_startup_time_us"] > 0
        await machine.pause()
        assert (await machine.metrics())["latencies_us"]["pause_vm"] > 0


async def test_a_host_runs_on_it_or_says_why_not(firecracker: FirecrackerInstall, tmp_path: Path) -> None:
    qemu = await find_any_qemu(HOST_CACHE)
    assert qemu is not None, "run scripts/setup"
    verdict = await probe_kvm(qemu, HOST_CACHE, os.environ)
    config = HostConfig(
        state_dir=tmp_path / "state",
        cache_dir=HOST_CACHE.root,
        driver=DriverName.FIRECRACKER,
        firecracker_dir=firecracker.firecracker.parent,
        firecracker_allow_version=firecracker.version,
        rehearse=False,
    )
    async with AsyncExitStack() as stack:
        if verdict.usable:
            host = await stack.enter_async_context(open_host(config, quiet))
            assert (await host.report()).driver == "firecracker"
        else:
            with pytest.raises(NotSupported, match="needs hardware virtualization"):
                await stack.enter_async_context(open_host(config, quiet))
            auto = structs.replace(config, driver=DriverName.AUTO)
            host = await stack.enter_async_context(open_host(auto, quiet))
            assert (await host.report()).driver == "qemu"
    forbidden = structs.replace(config, firecracker_allow_version=None)
    with pytest.raises(NotSupported, match="CVE-2026-1386"):
        async with open_host(forbidden, quiet):
            pass


async def test_an_agent_that_does_not_listen(yard: Corner) -> None:
    async with booted(yard) as machine:
        with pytest.raises(GuestUnreachable, match=r"does not listen after 0\.1 s"):
            await machine.dial(deadline=0.1)
        await machine.pause()
        with pytest.raises(GuestUnreachable, match="stands still"):
            await machine.dial()


async def test_an_agent_that_comes_up_after_a_while(yard: Corner) -> None:
    """What Firecracker says of a guest that listens, said in its place: this guest has no vsock driver."""
    turns = [b"", b"", b"OK 1073741824\nhello"]
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(turns[len(asked) - 1])
        writer.close()

    async with booted(yard) as machine:
        machine.guest_socket.unlink()
        async with await asyncio.start_unix_server(answer, sock=unix.listen(machine.guest_socket)):
            with pytest.raises(MachineError, match="not the machine's own socket"):
                await machine.dial()
            assert asked == []
            os.chown(machine.guest_socket, machine.root.uid, machine.root.uid)
            with await machine.dial() as connection:
                loop = asyncio.get_running_loop()
                assert await loop.sock_recv(connection, 100) == b"hello"
    assert asked == [b"CONNECT 1024\n"] * 3
