"""The gate of a new life from its other side: machines that did not pass it, and those that cannot."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from pandastack.errors import BootFailed, MachineError, PandastackError
from pandastack.host.app import LocalHost
from pandastack.host.guest import GuestLink
from pandastack.host.readiness import run_to_end
from pandastack.testing.fixtures import processes_with
from pandastack.testing.machines import gate_facts
from tests.vm.test_snapshots import CHANCE, forget_copy, keep, say, start

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

RESEED = 'python3 -c \'import fcntl; fcntl.ioctl(open("/dev/urandom", "wb"), 0x5207)\''
"""RNDRESEEDCRNG: the kernel does so by itself now and then; the next time is far away behind it."""
CRIPPLE = "python3 -c 'import resource as r; r.prlimit(1, r.RLIMIT_FSIZE, (0, 0))'"
"""The agent, PID 1 of its guest, can write no file any more: a gate stops at the machine's new id."""


@pytest.fixture(params=["copies", "files"])
def from_files(request: pytest.FixtureRequest) -> bool:
    """Whether machines start from what is on the disk, or from the copy of a process, where there is one."""
    return str(request.param) == "files"


@asynccontextmanager
async def ungated(host: LocalHost, name: str, home: Path) -> AsyncIterator[GuestLink]:
    """A machine of snapshot `s` as its host makes it, but only greeted: its gate is open as it was."""
    prepared = host.vms.vault.prepare("s")
    assert prepared.snapshot is not None
    async with AsyncExitStack() as stack:
        home.mkdir()
        machine = await host.vms.driver.restore(prepared.snapshot, prepared.config(name), home)
        stack.push_async_callback(machine.stop, 0)
        link = await stack.enter_async_context(await GuestLink.connect(await machine.dial()))
        entry = await link.hello(os.urandom(16), deadline=30)
        assert entry.adopted
        yield link


async def drawn(link: GuestLink) -> list[str]:
    code, words = await run_to_end(link, CHANCE, os.urandom(4).hex())
    assert code == 0, words
    return words.strip().splitlines()


async def test_without_the_gate_lives_share_chance(
    host: LocalHost, tmp_path: Path, *, from_files: bool
) -> None:
    """The negative control of `test_no_two_lives_of_a_snapshot_share_chance`."""
    await start(host, "parent")
    await say(host, "parent", f"{CHANCE}\n{RESEED}")
    await keep(host, "s", "parent")
    if from_files:
        await forget_copy(host, "s")
    lives = [(await say(host, "parent", CHANCE)).splitlines()]
    for number in range(5):
        async with ungated(host, f"child-{number}", tmp_path / f"child-{number}") as link:
            lives.append(await drawn(link))
    for values in zip(*lives, strict=True):
        assert len(set(values)) < len(lives), values


async def test_a_gate_that_fails_lets_nothing_in(host: LocalHost, tmp_path: Path) -> None:
    """Not even what was let in before it: the machine was open when its snapshot was taken."""
    await start(host, "parent")
    await say(host, "parent", CRIPPLE)
    await keep(host, "s", "parent")
    async with ungated(host, "child", tmp_path / "child") as link:
        assert (await run_to_end(link, "true", "before"))[0] == 0
        fresh = msgspec.structs.replace(gate_facts(), fresh=True)
        with pytest.raises(MachineError, match="machine id"):
            await link.gate(fresh, deadline=20)
        with pytest.raises(PandastackError, match="does not take requests"):
            await run_to_end(link, "true", "behind")
        assert not (await link.hello(os.urandom(16), deadline=10)).adopted


async def test_a_start_whose_gate_fails_leaves_nothing(
    host: LocalHost, state: Path, *, from_files: bool
) -> None:
    await start(host, "parent")
    await say(host, "parent", CRIPPLE)
    await keep(host, "s", "parent")
    if from_files:
        await forget_copy(host, "s")
    with pytest.raises(BootFailed, match="machine id"):
        await start(host, "gated", "s")
    with pytest.raises(BootFailed, match="machine id"):
        await asyncio.wait_for(start(host, "gated-again", "s"), 20)
    assert [home.name for home in (state / "v").iterdir()] == ["parent"]
    assert not processes_with("pandastack-gated")  # a name that no test has beside this one
    assert [vm.id for vm in host.vms.reports()] == ["parent"]
    assert await say(host, "parent", "echo well") == "well"
