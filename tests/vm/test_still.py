"""Programs that run while their machine is kept: not one instruction of theirs lies between the snapshot and
the gate, so what they draw from the kernel is drawn by nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import combinations, pairwise
from pathlib import Path

import msgspec
import pytest

from pandastack.host.app import LocalHost
from pandastack.host.guest import GuestLink
from pandastack.host.readiness import run_to_end
from pandastack.model.guest import Command
from pandastack.model.host import SnapshotSpec
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.machines import enter
from pandastack.testing.real import real_machine
from tests.vm.test_snapshots import forget_copy, keep, say, start

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

LIVES = 5
TRIES = 8
APART_SECONDS = 2.0
"""From the snapshot to the lives: their clocks are set by so much, which tells what was drawn before."""
DRAWS = """\
import os, time
with open("/dev/shm/draws", "wb", buffering=0) as log:
    while True:
        log.write(b"%s %d\\n" % (os.urandom(8).hex().encode(), time.time_ns()))
"""

GAPS = """\
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
longest, last = 0.0, time.monotonic()
while True:
    now = time.monotonic()
    if now - last > longest:
        longest = now - last
        with open(f"/dev/shm/{sys.argv[1]}", "w") as file:
            file.write(f"{longest}\\n")
    last = now
"""
"""The longest time that it did not run, of its one processor."""
STILL_SECONDS = 0.6
TIMES = 20

Draw = tuple[str, int]


@pytest.fixture(params=["copies", "files"])
def from_files(request: pytest.FixtureRequest) -> bool:
    """Whether machines start from what is on the disk, or from the copy of a process, where there is one."""
    return str(request.param) == "files"


async def draw(host: LocalHost, vm_id: str) -> None:
    command = Command(process_id="drawer", argv=("python3", "-c", DRAWS), detached=True)
    async with host.guest(vm_id).run(command) as process:
        await process.detach()
    await say(host, vm_id, "until test -s /dev/shm/draws; do sleep 0.05; done")


async def drawn(host: LocalHost, vm_id: str) -> list[Draw]:
    """What it has drawn until now, and when by its own clock."""
    lines = (await say(host, vm_id, "cp /dev/shm/draws /tmp/draws; cat /tmp/draws")).splitlines()
    pairs = [line.split() for line in lines]
    return [(pair[0], int(pair[1])) for pair in pairs if len(pair) == 2]


def before_the_gate(draws: list[Draw]) -> list[Draw]:
    """Those before the clock was set."""
    gaps = [other[1] - one[1] for one, other in pairwise(draws)]
    widest = max(gaps)  # a host that stalls makes further ones
    assert widest > APART_SECONDS * 5e8
    return draws[: gaps.index(widest) + 1]


def shared(one: list[Draw], other: list[Draw]) -> int:
    """How many of their values, from the first on, are the same."""
    same = [mine == its for (mine, _), (its, _) in zip(one, other, strict=False)]
    return (*same, False).index(False)


async def lives(host: LocalHost, *, from_files: bool, kept: str = "s") -> list[list[Draw]]:
    """What machines have drawn that went on from a snapshot, each until it was asked, and its end."""
    if from_files:
        await forget_copy(host, kept)
    await asyncio.sleep(APART_SECONDS)
    names = [f"child-of-{kept}-{number}" for number in range(LIVES)]
    for name in names:
        await start(host, name, kept)
    found = []
    for name in names:
        found.append(await drawn(host, name))
        await host.stop(name)
    return found


async def test_no_program_runs_between_a_snapshot_and_its_gate(host: LocalHost, *, from_files: bool) -> None:
    await start(host, "parent")
    await draw(host, "parent")
    await keep(host, "s", "parent")
    found = await lives(host, from_files=from_files)
    kept = before_the_gate(found[0])
    assert all(before_the_gate(each) == kept for each in found)
    parent = await drawn(host, "parent")
    assert parent[: len(kept)] == kept
    begun = len(kept) + 1  # the first may have been drawn before, and written down behind the gate
    own = [value for each in (*found, parent) for value, _ in each[begun:]]
    assert len(own) > 100 * LIVES
    assert len(set(own)) == len(own)


@asynccontextmanager
async def frozen_alone(guest: GuestLink) -> AsyncIterator[Callable[[], None]]:
    """What keeps a disk consistent, while programs run on."""
    await guest.freeze(20_000, deadline=20)
    yield lambda: None
    await guest.thaw(deadline=20)


async def test_programs_that_do_not_stand_still_run_before_the_gate(
    host: LocalHost, *, from_files: bool
) -> None:
    """The negative control: they draw in each life, and the same. How much depends on who gets the processor
    first, so it may be the same in all of a few lives; some draw behind the new entropy too, before the clock
    is set.
    """
    lengths: set[int] = set()
    for number in range(TRIES):
        kept, parent = f"s{number}", f"parent-{number}"  # the log of one that has drawn for long is long
        await start(host, parent)
        await draw(host, parent)
        vm, guest = host.vms.find(parent), host.vms.guest(parent)
        await host.vms.vault.keep(SnapshotSpec(kept, parent), vm, frozen_alone(guest))
        await host.stop(parent)
        found = [before_the_gate(each) for each in await lives(host, from_files=from_files, kept=kept)]
        lengths = {shared(one, other) for one, other in combinations(found, 2)}
        if len(lengths) > 1:  # two lives share what another does not
            return
    raise AssertionError(f"No program has run before the gate in {TRIES} times {LIVES} lives: {lengths}")


async def watch(guest: GuestLink, processor: int) -> None:
    argv = ("python3", "-c", GAPS, str(processor))
    async with guest.run(Command(process_id=f"watch-{processor}", argv=argv, detached=True)) as process:
        await process.detach()
    await run_to_end(guest, f"until test -s /dev/shm/{processor}; do sleep 0.05; done", f"until-{processor}")


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("still", [True, False])
async def test_a_guest_stands_still_on_all_its_processors(
    tmp_path: Path, leak_check: LeakCheck, cpus: int, *, still: bool
) -> None:
    """Until it is told to go; without the question it does not."""
    driver, config = await real_machine()
    machine = await driver.boot(msgspec.structs.replace(config, cpus=cpus), tmp_path)
    try:
        async with await enter(machine, deadline=60) as guest:
            for processor in range(cpus):
                await watch(guest, processor)
            for _ in range(TIMES * still):  # it gets them although they are busy
                await guest.still(900, deadline=5)
                guest.go()
            if still:
                await guest.still(900, deadline=5)
            await asyncio.sleep(STILL_SECONDS)
            guest.go()
            code, words = await run_to_end(guest, "sleep 0.2; cat /dev/shm/[0-9]*", "gaps")
    finally:
        await machine.stop(0)
    gaps = [float(word) > STILL_SECONDS * 0.8 for word in words.split()]
    assert (code, gaps) == (0, [still] * cpus), words
