"""What every driver keeps, with one suite for all of them: see pandastack.host.driver.

A rig is a driver and what it needs to start a machine. To add a driver, add its rig to `RIGS`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import Struct, structs

from pandastack.errors import GuestUnreachable, MachineError
from pandastack.host import procfs
from pandastack.host.baker import BAKING, end_leftovers
from pandastack.host.checks import Programs
from pandastack.host.driver import Driver, Feature, Machine, MachineConfig, SnapshotFiles
from pandastack.host.firecracker import FirecrackerDriver
from pandastack.host.firecracker_install import Refusal, find_firecracker
from pandastack.host.guest import GuestLink
from pandastack.model.guest import Command
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.machines import enter, gate_facts, machine_config
from pandastack.testing.process_driver import ProcessDriver
from pandastack.testing.real import broken, real_machine
from tests.vm.firecracker_kit import firecracker_kit
from tests.vm.firecracker_yard import firecracker_driver

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]


class Rig(Struct, frozen=True):
    """A driver, one that cannot start anything, a configuration, and how long a boot takes at most."""

    driver: Driver
    broken: Driver
    config: MachineConfig
    boot_seconds: float


def process_rig(request: pytest.FixtureRequest) -> Rig:
    broken = ProcessDriver(Path("/nonexistent/agent"), insecure_no_isolation=True)
    return Rig(request.getfixturevalue("process_driver"), broken, machine_config(), boot_seconds=10)


def qemu_rig(request: pytest.FixtureRequest) -> Rig:
    driver, config = asyncio.run(real_machine())
    return Rig(driver, broken(driver), config, boot_seconds=60)


def firecracker_rig(request: pytest.FixtureRequest) -> Rig:
    """The one that is installed here, else that of the tests."""
    _, config = asyncio.run(real_machine())
    driver = asyncio.run(real_firecracker(request.getfixturevalue("tmp_path")))
    nowhere = structs.replace(driver.install, jailer=Path("/nonexistent/jailer"))
    broken = firecracker_driver(nowhere, request.getfixturevalue("tmp_path"))
    return Rig(driver, broken, config, boot_seconds=60)


async def real_firecracker(cache: Path) -> FirecrackerDriver:
    found = await find_firecracker(Programs(os.environ["PATH"]).find)
    return firecracker_driver(firecracker_kit() if isinstance(found, Refusal) else found, cache)


RIGS: dict[str, Callable[[pytest.FixtureRequest], Rig]] = {
    "process": process_rig,
    "qemu": qemu_rig,
    "firecracker": firecracker_rig,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Firecracker runs Linux on hardware virtualization alone; else a smaller guest tests it."""
    if "rig" in metafunc.fixturenames:
        drivers = ["qemu", *(["firecracker"] if metafunc.config.getoption("--kvm") else [])]
        real = [pytest.param(name, marks=pytest.mark.vm) for name in drivers]
        metafunc.parametrize("rig", ["process", *real], indirect=True)


@pytest.fixture
def rig(request: pytest.FixtureRequest, leak_check: LeakCheck) -> Rig:
    return RIGS[request.param](request)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


@asynccontextmanager
async def booted(rig: Rig, home: Path) -> AsyncIterator[tuple[Machine, GuestLink]]:
    """A machine that runs and whose gate is open."""
    machine = await rig.driver.boot(rig.config, home)
    try:
        async with await enter(machine, deadline=rig.boot_seconds) as guest:
            yield machine, guest
    finally:
        await machine.stop(0)


async def say(guest: GuestLink, line: str) -> str:
    """What a line of shell prints."""
    async with guest.run(Command(process_id=os.urandom(8).hex(), shell=line)) as process:
        return b"".join([piece.data async for piece in process.output()]).decode().strip()


async def baked(rig: Rig, tmp_path: Path) -> SnapshotFiles:
    """A snapshot of a sealed machine, which has ended."""
    for name in ("baking", "snapshot"):
        (tmp_path / name).mkdir()
    async with booted(rig, tmp_path / "baking") as (machine, guest):
        await guest.seal(deadline=5)
        return await machine.snapshot(tmp_path / "snapshot")


def forget(machine: Machine) -> None:
    machine.forget()


async def test_a_booted_machine_answers(rig: Rig, home: Path) -> None:
    async with booted(rig, home) as (machine, guest):
        assert machine.pid > 1
        assert machine.guest_socket.is_relative_to(home)
        assert await say(guest, "echo $((6 * 7))") == "42"


async def test_its_first_orders_may_wait_in_the_socket(rig: Rig, home: Path) -> None:
    machine = await rig.driver.boot(rig.config, home)
    try:
        async with await GuestLink.connect(await machine.dial()) as guest:
            guest.announce(os.urandom(16), gate_facts(GREETING="hello"))
            entry = await guest.entered(deadline=rig.boot_seconds)
            assert not entry.adopted
            assert await say(guest, "echo $GREETING") == "hello"
    finally:
        await machine.stop(0)


async def test_restored_machines_are_each_their_own(rig: Rig, home: Path, tmp_path: Path) -> None:
    if Feature.SNAPSHOT not in rig.driver.features:
        return
    snapshot = await baked(rig, tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with (
        restored(rig, snapshot, tmp_path / "one", "one") as one,
        restored(rig, snapshot, tmp_path / "two", "two") as two,
    ):
        assert [await say(guest, "echo $NAME") for guest in (one, two)] == ["one", "two"]


@asynccontextmanager
async def restored(rig: Rig, snapshot: SnapshotFiles, home: Path, name: str) -> AsyncIterator[GuestLink]:
    machine = await rig.driver.restore(snapshot, rig.config, home)
    try:
        async with await enter(machine, NAME=name) as guest:
            yield guest
    finally:
        await machine.stop(0)


async def test_a_forgotten_machine_is_found_with_its_processes(rig: Rig, home: Path) -> None:
    machine = await rig.driver.boot(rig.config, home)
    kept = Command(process_id="kept", argv=("sleep", "300"), detached=True)
    async with await enter(machine, deadline=rig.boot_seconds) as guest, guest.run(kept):
        pass
    forget(machine)
    found = await rig.driver.adopt(home)
    assert found is not None
    assert found.pid == machine.pid
    try:
        async with await GuestLink.connect(await found.dial()) as guest:
            assert (await guest.hello(os.urandom(16), deadline=10)).adopted
            assert [process.running for process in await guest.processes() if process.id == "kept"] == [True]
            assert await say(guest, "echo still here") == "still here"
    finally:
        await found.stop(0)
    assert await rig.driver.adopt(home) is None


async def test_there_is_nothing_to_adopt_in_an_empty_home(rig: Rig, home: Path) -> None:
    assert await rig.driver.adopt(home) is None


async def test_one_that_was_never_recorded_is_ended(rig: Rig, home: Path) -> None:
    """What a program leaves that is killed between the start and the note of it."""
    machine = await rig.driver.boot(rig.config, home)
    forget(machine)
    (home / "machine.json").write_bytes(b'{"pid": ')
    assert await rig.driver.adopt(home) is None
    assert procfs.start_ticks(machine.pid) is None


async def test_what_a_killed_bake_left_is_ended_and_removed(rig: Rig, tmp_path: Path) -> None:
    draft = tmp_path / "base" / ".draft"
    (draft / BAKING).mkdir(parents=True)
    machine = await rig.driver.boot(rig.config, draft / BAKING)
    forget(machine)
    await end_leftovers(rig.driver, draft.parent)
    assert procfs.start_ticks(machine.pid) is None
    assert list(draft.parent.iterdir()) == []


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.01])
async def test_a_cancelled_start_leaves_no_process(
    rig: Rig, home: Path, tmp_path: Path, delay: float
) -> None:
    snapshot = await baked(rig, tmp_path) if Feature.SNAPSHOT in rig.driver.features else None
    starts: list[Callable[[], Awaitable[Machine]]] = [lambda: rig.driver.boot(rig.config, home)]
    if snapshot:
        (tmp_path / "restored").mkdir()
        starts.append(lambda: rig.driver.restore(snapshot, rig.config, tmp_path / "restored"))
    for start in starts:
        before = procfs.children(os.getpid())
        task = asyncio.ensure_future(start())
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            await task.result().stop(0)
        assert procfs.children(os.getpid()) == before


async def test_a_failed_start_says_why_and_leaves_no_process(rig: Rig, home: Path) -> None:
    before = procfs.children(os.getpid())
    with pytest.raises(MachineError, match="cannot be started"):
        await rig.broken.boot(rig.config, home)
    assert procfs.children(os.getpid()) == before
    assert await rig.broken.adopt(home) is None


async def test_stopping_twice_is_fine(rig: Rig, home: Path) -> None:
    machine = await rig.driver.boot(rig.config, home)
    await machine.stop()
    await machine.stop(0)
    assert procfs.start_ticks(machine.pid) is None


async def test_a_machine_that_is_killed_is_noticed(rig: Rig, home: Path) -> None:
    async with booted(rig, home) as (machine, guest):
        waiting = asyncio.ensure_future(machine.wait())
        await asyncio.sleep(0)
        os.kill(machine.pid, signal.SIGKILL)
        assert await asyncio.wait_for(waiting, 10) == -signal.SIGKILL
        with pytest.raises(GuestUnreachable):
            await guest.ping(deadline=5)
        with pytest.raises(MachineError):
            await machine.stats()
        assert isinstance(machine.last_words(), str)
        assert await rig.driver.adopt(home) is None


async def test_pausing_and_resuming(rig: Rig, home: Path) -> None:
    if Feature.PAUSE not in rig.driver.features:
        return
    async with booted(rig, home) as (machine, guest):
        for _ in range(2):
            await machine.pause()
        with pytest.raises(GuestUnreachable):
            await guest.ping(deadline=0.3)
        for _ in range(2):
            await machine.resume()
        await guest.ping(deadline=5)
        assert await say(guest, "echo awake") == "awake"


async def test_a_paused_machine_can_be_stopped(rig: Rig, home: Path) -> None:
    if Feature.PAUSE not in rig.driver.features:
        return
    machine = await rig.driver.boot(rig.config, home)
    with await machine.dial():
        await machine.pause()
        await asyncio.wait_for(machine.stop(), 10)
    assert procfs.start_ticks(machine.pid) is None


async def test_its_counters(rig: Rig, home: Path) -> None:
    async with booted(rig, home) as (machine, _):
        stats = await machine.stats()
        assert stats.cpu_seconds >= 0
        assert 0 < stats.private_dirty_bytes <= stats.rss_bytes < stats.vsz_bytes
        assert stats.threads >= 1
        assert 0 <= stats.uptime_seconds < 600
