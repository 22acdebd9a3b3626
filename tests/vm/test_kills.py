"""Processes that are killed while machines are kept and brought back: told, undone, no concern of others."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from pandastack.errors import MachineError, PandastackError
from pandastack.host.app import LocalHost
from pandastack.host.qemu import QemuDriver
from pandastack.host.zygote import Zygote
from pandastack.host.zygotes import Zygotes
from pandastack.model.guest import Command
from pandastack.model.host import SnapshotReport, SnapshotSpec, VmState
from pandastack.testing.fixtures import eventually, processes_with
from tests.vm.test_snapshots import forget_copy, keep, say, start, tick, ticks

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

FILL = "seq 9999999 | head -c {} > /dev/shm/x; cksum < /dev/shm/x"
LARGE = 80_000_000
"""Bytes that a machine has of its own, so that to keep them takes a while."""


@pytest.fixture
async def sums(host: LocalHost) -> str:
    """What machine `box` holds in its memory; another one, `other`, runs, and there is a snapshot `old`."""
    await start(host, "other")
    await tick(host, "other")
    await start(host, "box")
    found = await say(host, "box", FILL.format(LARGE))
    await keep(host, "old", "box")
    return found


def zygotes(host: LocalHost) -> Zygotes | None:
    """Where machines are emulated they are forks of a server's."""
    driver = host.vms.driver
    assert isinstance(driver, QemuDriver)
    return driver.zygotes


async def serving(servers: Zygotes) -> Zygote:
    """The fork server of `base`, once there is one that lives."""
    (key,) = servers.keys()
    async with asyncio.timeout(60):
        while (found := servers.find(key)) is None:
            await asyncio.sleep(0.05)
    return found


def has_pages(state: Path, name: str) -> bool:
    """Whether pages of a snapshot are being written."""
    with suppress(FileNotFoundError):  # its folder has just got its name
        return any(path.stat().st_size > LARGE // 10 for path in state.glob(f"s/.{name}.*/pages*"))
    return True


async def nothing_is_left(host: LocalHost, state: Path, *standing: str) -> None:
    """Of what was killed no process, no directory, no draft; the other machine goes on."""
    assert {path.name for path in (state / "s").iterdir()} == {"old"}
    assert {path.name for path in (state / "v").iterdir()} == {"other", *standing}
    await eventually(lambda: not processes_with("pandastack-new"))
    before = await ticks(host, "other")
    await asyncio.sleep(0.3)
    assert await ticks(host, "other") > before


async def keeping(host: LocalHost, state: Path, *, hold: bool = False) -> asyncio.Task[SnapshotReport]:
    """A snapshot `new` of `box` whose pages are being written, or have just been: some 50 ms."""
    task = asyncio.create_task(host.snapshot(SnapshotSpec("new", "box", hold=hold)))
    async with asyncio.timeout(30):
        while not has_pages(state, "new") and not task.done():
            await asyncio.sleep(0.001)
    return task


async def whole_or_none(host: LocalHost, task: asyncio.Task[SnapshotReport], sums: str) -> None:
    """Either what was killed had given all that the snapshot `new` needs, or there is none; it is gone."""
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(outcome, BaseException):
        assert isinstance(outcome, MachineError), outcome
        return
    await forget_copy(host, "new")
    await start(host, "child", "new")
    assert await say(host, "child", "cksum < /dev/shm/x") == sums
    await host.stop("child")
    await host.drop_snapshot("new")


async def test_a_machine_that_is_killed_while_it_is_read(host: LocalHost, state: Path, sums: str) -> None:
    pid = next(vm.pid for vm in host.vms.reports() if vm.id == "box")
    async with host.deaths() as deaths:
        task = await keeping(host, state, hold=True)
        os.kill(pid, signal.SIGKILL)
        await whole_or_none(host, task, sums)
        died = await asyncio.wait_for(anext(deaths), 10)
    assert (died.id, died.state) == ("box", VmState.DEAD)
    assert "SIGKILL" in str(died.cause)
    await host.stop("box")
    await nothing_is_left(host, state)
    await start(host, "box", "old")
    assert await say(host, "box", "cksum < /dev/shm/x") == sums


async def test_a_copy_that_is_killed_while_it_is_read(host: LocalHost, state: Path, sums: str) -> None:
    """The machine itself ran on meanwhile; a machine that is no copy cannot be killed so."""
    pids = processes_with("pandastack-")
    task = await keeping(host, state)
    copies = processes_with("pandastack-new") - pids
    for pid in copies:
        os.kill(pid, signal.SIGKILL)
    assert copies or not zygotes(host)
    await whole_or_none(host, task, sums)
    await nothing_is_left(host, state, "box")
    await keep(host, "new", "box")
    await forget_copy(host, "new")
    await start(host, "child", "new")
    for name in ("box", "child"):
        assert await say(host, name, "cksum < /dev/shm/x") == sums


async def test_a_machine_that_is_killed_while_its_copy_is_read(
    host: LocalHost, state: Path, sums: str
) -> None:
    """Either the snapshot is whole, or there is none."""
    pid = next(vm.pid for vm in host.vms.reports() if vm.id == "box")
    task = await keeping(host, state)
    os.kill(pid, signal.SIGKILL)
    await whole_or_none(host, task, sums)
    await eventually(lambda: [vm.state for vm in host.vms.reports() if vm.id == "box"] == [VmState.DEAD])
    await host.stop("box")
    await nothing_is_left(host, state)


async def test_a_fork_server_that_is_killed_while_a_machine_wakes(
    host: LocalHost, state: Path, sums: str
) -> None:
    """It wakes all the same, without the server or with the next, or it is told that it could not."""
    await forget_copy(host, "old")
    servers = zygotes(host)
    for delay in (0.0, 0.005, 0.02, 0.04):
        server = await serving(servers) if servers else None
        waking = asyncio.create_task(start(host, "woken", "old"))
        await eventually((state / "v" / "woken").exists)
        await asyncio.sleep(delay)
        if server is not None:
            os.kill(server.pid, signal.SIGKILL)
        (outcome,) = await asyncio.gather(waking, return_exceptions=True)
        if isinstance(outcome, PandastackError):
            assert not (state / "v" / "woken").exists()
            await start(host, "woken", "old")
        assert await say(host, "woken", "cksum < /dev/shm/x") == sums
        await host.stop("woken")
    await nothing_is_left(host, state, "box")


async def test_an_agent_that_its_guest_wants_to_kill_lives(host: LocalHost) -> None:
    """It is PID 1 of its guest, which no signal of the guest's ends: also while the machine is kept."""
    await start(host, "box")
    line = "kill -9 1; i=0; while :; do kill -9 1; i=$((i+1)); echo $i > /dev/shm/kills; done"
    async with host.guest("box").run(Command(process_id="killer", shell=line, detached=True)) as process:
        await process.detach()
    await say(host, "box", "until test -s /dev/shm/kills; do sleep 0.05; done")
    await keep(host, "s", "box")
    await host.snapshot(SnapshotSpec("t", "box", hold=True))
    await host.resume("box")
    await start(host, "child", "s")
    for name in ("box", "child"):
        assert await say(host, name, "echo well") == "well"
