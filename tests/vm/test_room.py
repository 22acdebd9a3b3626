"""Snapshots for which the disk is too small by a little: told, undone, and the machines go on."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from pandastack.errors import NoSpace
from pandastack.host import sparse
from pandastack.host.app import LocalHost, open_host
from pandastack.model.guest import Command
from pandastack.model.host import SnapshotSpec, VmState
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.real import small_host
from tests.vm.conftest import quiet
from tests.vm.test_host import small_disk
from tests.vm.test_snapshots import forget_copy, keep, say, start

STEP = 4096
"""Bytes: the least that a file system gives."""

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(300)]

FILL = "seq 9999999 | head -c 20000000 | tee /dev/shm/x > /root/x; sync; cksum < /root/x"
LOOK = "cksum < /dev/shm/x; echo 3 > /proc/sys/vm/drop_caches; cksum < /root/x"
WRITE = "i=0; while :; do i=$((i+1)); head -c 65536 /dev/urandom > /root/$i; sync; echo $i > /dev/shm/i; done"


@pytest.fixture
async def small(leak_check: LeakCheck, tmp_path: Path, images: None) -> AsyncIterator[tuple[LocalHost, Path]]:
    """A host on a file system of its own, and a machine `box`, of which there is a snapshot `old`."""
    with small_disk(tmp_path / "small", "1200m") as folder:
        async with open_host(small_host(folder), quiet) as host:
            try:
                await start(host, "box")
                await say(host, "box", FILL)
                await keep(host, "old", "box")
                yield host, folder
            finally:
                await host.end_all()


async def need(host: LocalHost, folder: Path, *, hold: bool = False) -> int:
    """Bytes that a snapshot of `box` takes now."""
    await host.snapshot(SnapshotSpec("probe", "box", hold=hold))
    await host.resume("box")
    made = [path.stat() for path in (folder / "s" / "probe").iterdir()]
    await host.drop_snapshot("probe")
    return sum(file.st_blocks * 512 for file in made if file.st_nlink == 1)


def leave(folder: Path, size: int) -> None:
    """Fill the disk so that so many bytes are free; again, when a machine writes meanwhile."""
    for _ in range(10):
        with suppress(OSError), (folder / "filler").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, shutil.disk_usage(folder).free - size)
            return


@pytest.mark.parametrize("hold", [False, True])
async def test_a_snapshot_that_lacks_a_little_room_is_undone(
    small: tuple[LocalHost, Path], *, hold: bool
) -> None:
    """Its end is where a short disk is easiest to overlook: from 64 KiB too little on, to enough."""
    host, folder = small
    held = await say(host, "box", LOOK)
    needed = await need(host, folder, hold=hold)
    refused = 0
    for short in range(64 << 10, 0, -STEP):
        if await taken(host, folder, needed - short, hold=hold):
            break
        assert [report.id for report in host.vms.vault.reports()] == ["old"]
        assert [path.name for path in (folder / "s").iterdir()] == ["old"]
        assert [vm.state for vm in host.vms.reports()] == [VmState.RUNNING]
        assert refused % 4 or await say(host, "box", LOOK) == held
        refused += 1
    assert refused >= 4
    await host.snapshot(SnapshotSpec("new", "box"))
    for name in ("old", "new"):
        await forget_copy(host, name)
        await start(host, f"from-{name}", name)
        assert await say(host, f"from-{name}", LOOK) == held
        await host.stop(f"from-{name}")
    assert await say(host, "box", LOOK) == held


async def test_a_disk_too_full_for_the_state_of_the_devices(small: tuple[LocalHost, Path]) -> None:
    """Some kilobytes, which a process that is not ours writes, and which does not tell why it could not."""
    host, folder = small
    held = await say(host, "box", LOOK)
    (layer,) = folder.glob("b/*/empty.qcow2")
    sparse.copy(layer, folder / "layer")
    size = (folder / "layer").stat().st_blocks * 512
    (folder / "layer").unlink()
    for room in range(size, size + 5 * STEP, STEP):
        assert not await taken(host, folder, room, hold=True)
        assert [path.name for path in (folder / "s").iterdir()] == ["old"]
    assert [vm.state for vm in host.vms.reports()] == [VmState.RUNNING]
    assert await say(host, "box", LOOK) == held


async def taken(host: LocalHost, folder: Path, room: int, *, hold: bool) -> bool:
    """Whether so much room is enough for a snapshot of `box`, which runs behind it."""
    await host.vms.find("box").machine.prepare()  # its next layer is there, whoever thinks of it first
    leave(folder, room)
    try:
        await host.snapshot(SnapshotSpec("new", "box", hold=hold))
    except NoSpace as error:
        assert "full" in error.message
        return False
    finally:
        (folder / "filler").unlink()
        await host.resume("box")
    return True


async def test_machines_that_wrote_meanwhile_go_on(small: tuple[LocalHost, Path]) -> None:
    """A disk that a snapshot fills for a moment stops whoever writes to it; nobody else sees the moment."""
    host, folder = small
    await start(host, "busy")
    async with host.guest("busy").run(Command(process_id="writes", shell=WRITE, detached=True)) as process:
        await process.detach()
    await say(host, "busy", "until test -s /dev/shm/i; do sleep 0.05; done")
    for _ in range(2):
        leave(folder, await need(host, folder) // 2)
        with pytest.raises(NoSpace, match="full"):
            await keep(host, "new", "box")
        (folder / "filler").unlink()
        before = int(await asyncio.wait_for(say(host, "busy", "cat /dev/shm/i"), 10))
        await asyncio.sleep(1)
        assert int(await asyncio.wait_for(say(host, "busy", "cat /dev/shm/i"), 10)) > before
