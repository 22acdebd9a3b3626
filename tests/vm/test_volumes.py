"""Volumes of real machines: what is on them stays, whoever dies; nobody else writes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from uuid import uuid4

import pytest

from pandastack.errors import Conflict, MachineError, NotSupported, VolumeBusy
from pandastack.host.app import LocalHost
from pandastack.host.driver import Drive
from pandastack.host.qemu_drives import put_in
from pandastack.host.qemu_machine import QemuMachine
from pandastack.host.qemu_record import QMP
from pandastack.model.guest import Command
from pandastack.model.host import SnapshotSpec, VmSpec
from pandastack.model.volume import Mount
from tests.vm.conftest import OpenHost

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(120)]

SIZE_MB = 64


async def say(host: LocalHost, vm: str, line: str) -> str:
    """What a command prints; its exit code, when that is not 0."""
    output = b""
    async with host.guest(vm).run(Command(process_id=uuid4().hex, shell=line)) as process:
        async for piece in process.output():
            output += piece.data
        code = (await process.wait()).exit_code
    return output.decode() if code == 0 else f"{code}: {output.decode()}"


async def volume(host: LocalHost) -> str:
    name = str(uuid4())
    await host.make_volume(name, SIZE_MB)
    return name


def mount(volume: str, path: str = "/mnt/data", *, read_only: bool = False, generation: int = 1) -> Mount:
    return Mount(volume, "data", path, read_only, generation)


async def start(host: LocalHost, vm: str, *mounts: Mount, snapshot: str | None = None) -> None:
    await host.start(VmSpec(vm, "base", volumes=mounts, snapshot=snapshot))


async def test_what_is_written_outlives_the_machine(host: LocalHost) -> None:
    name = await volume(host)
    await start(host, "first", mount(name))
    told = await say(host, "first", "stat -fc %T /mnt/data; stat -c %u:%g:%a /mnt/data")
    assert told == "ext2/ext3\n0:0:755\n"
    free = int(await say(host, "first", "df --output=size -k /mnt/data | tail -1"))
    assert free > 50_000
    await say(
        host, "first", "cd /mnt/data; echo kept > file; mkdir -p deep/er; head -c 8M /dev/urandom > deep/er/r"
    )
    told = await say(host, "first", "sha256sum < /mnt/data/deep/er/r")
    await host.stop("first")  # nobody has flushed anything
    await start(host, "second", mount(name, "/srv/data", generation=2))
    assert await say(host, "second", "cat /srv/data/file") == "kept\n"
    assert await say(host, "second", "sha256sum < /srv/data/deep/er/r") == told
    (report,) = (await host.report()).volumes
    assert 8 << 20 < report.size_bytes < 24 << 20


async def test_open_files_keep_nothing_from_being_flushed(host: LocalHost) -> None:
    one, two = await volume(host), await volume(host)
    await start(host, "first", mount(one, "/mnt/one"), mount(two, "/mnt/two"))
    await say(host, "first", "(exec 3> /mnt/one/open; echo said >&3; sleep 60) > /dev/null 2>&1 & sleep 0.2")
    await say(host, "first", "echo unflushed > /mnt/two/file")
    await host.stop("first")
    again = [mount(each, f"/mnt/{name}", generation=2) for each, name in ((one, "one"), (two, "two"))]
    await start(host, "second", *again)
    assert await say(host, "second", "cat /mnt/one/open /mnt/two/file") == "said\nunflushed\n"


async def test_no_byte_that_was_flushed_is_lost_with_the_machine(host: LocalHost) -> None:
    name = await volume(host)
    await start(host, "first", mount(name))
    writes = "for i in $(seq 40); do echo $i > /mnt/data/$i && sync /mnt/data/$i && echo $i; done"
    assert (await say(host, "first", writes)).split() == [str(number) for number in range(1, 41)]
    os.kill(host.vms.find("first").machine.pid, signal.SIGKILL)
    await host.vms.find("first").machine.wait()
    await host.stop("first")
    await start(host, "second", mount(name, generation=2))
    assert await say(host, "second", "cd /mnt/data && cat $(seq 40) | sort -n | tr '\\n' ' '") == "".join(
        f"{number} " for number in range(1, 41)
    )


async def test_several_volumes_are_each_at_their_place(host: LocalHost) -> None:
    names = [await volume(host) for _ in range(4)]
    await start(host, "all", *(mount(name, f"/mnt/{number}") for number, name in enumerate(names)))
    for number in range(4):
        await say(host, "all", f"echo {number} > /mnt/{number}/which")
    await host.stop("all")
    turned = [mount(name, f"/mnt/{number}", generation=2) for number, name in reversed([*enumerate(names)])]
    await start(host, "turned", *turned)
    assert await say(host, "turned", "cat /mnt/?/which") == "0\n1\n2\n3\n"


async def test_many_read_what_nobody_can_change(host: LocalHost) -> None:
    name = await volume(host)
    await start(host, "writer", mount(name))
    await say(host, "writer", "echo original > /mnt/data/file")
    await host.stop("writer")
    disk = host.volumes.path_of(name)
    before = disk.read_bytes()
    for reader in ("one", "two"):
        await start(host, reader, mount(name, read_only=True))
        assert await say(host, reader, "cat /mnt/data/file") == "original\n"
        assert "Read-only" in await say(host, reader, "echo changed > /mnt/data/file 2>&1")
    hostile = "umount /mnt/data; dd if=/dev/zero of=/dev/vdb bs=1M count=60 conv=fsync"
    assert "60+0 records out" in await say(host, "one", f"({hostile}) 2>&1")
    assert await say(host, "two", "echo 3 > /proc/sys/vm/drop_caches; cat /mnt/data/file") == "original\n"
    assert disk.read_bytes() == before


async def test_a_second_writer_is_refused_whoever_is_asked(host: LocalHost) -> None:
    name = await volume(host)
    await start(host, "writer", mount(name))
    for other in (mount(name, generation=2), mount(name, read_only=True)):
        with pytest.raises(VolumeBusy):
            await start(host, "second", other)
    await start(host, "second")
    second = host.vms.find("second").machine
    assert isinstance(second, QemuMachine)
    drive = Drive(host.volumes.path_of(name), SIZE_MB << 20)
    with pytest.raises(VolumeBusy, match="Another machine"):  # a host that has forgotten who has it
        await put_in(second._quarters, second.home / QMP, 0, drive)
    with pytest.raises(VolumeBusy):
        await host.drop_volume(name)
    await host.stop("writer")
    await put_in(second._quarters, second.home / QMP, 1, drive)  # the control: nobody has it any more


async def test_an_order_of_an_earlier_writer_is_refused(host: LocalHost) -> None:
    name = await volume(host)
    await start(host, "later", mount(name, generation=5))
    await host.stop("later")
    with pytest.raises(Conflict, match="another's to write since"):
        await start(host, "earlier", mount(name, generation=4))
    await start(host, "later", mount(name, generation=5))


async def test_it_sleeps_and_goes_on_with_open_files(host: LocalHost) -> None:
    name = await volume(host)
    await start(host, "box", mount(name))
    await say(host, "box", "(while sleep 0.1; do date >> /mnt/data/log; done) >/dev/null 2>&1 & sleep 0.5")
    await say(host, "box", "echo unflushed > /mnt/data/file")
    kept = await host.snapshot(SnapshotSpec("asleep", "box", hold=True))
    assert kept.held
    await host.stop("box")
    await start(host, "box", mount(name), snapshot="asleep")
    assert await say(host, "box", "cat /mnt/data/file") == "unflushed\n"
    before = int(await say(host, "box", "wc -l < /mnt/data/log"))
    assert int(await say(host, "box", "sleep 1; wc -l < /mnt/data/log")) > before
    await say(host, "box", "echo 3 > /proc/sys/vm/drop_caches; sync")
    assert (
        await say(host, "box", "cat /mnt/data/file; dmesg | grep -ic 'ext4.*error'; true") == "unflushed\n0\n"
    )
    await host.stop("box")
    await start(host, "thief", mount(name, generation=2))
    await host.stop("thief")
    with pytest.raises(Conflict):  # its memory knows the volume as it was before
        await start(host, "box", mount(name), snapshot="asleep")


async def test_it_grows_while_it_is_written(host: LocalHost) -> None:
    name = await volume(host)
    await start(host, "box", mount(name))
    size = "df --output=size -m /mnt/data | tail -1"
    before = int(await say(host, "box", size))
    fill = "cd /mnt/data; head -c 80M /dev/zero 2>&1 > zeros; rm zeros"
    assert "No space left" in await say(host, "box", fill)
    await host.grow_volume(name, 256)
    assert int(await say(host, "box", size)) > before + 150
    assert await say(host, "box", "head -c 80M /dev/zero > /mnt/data/zeros && sync && echo fits") == "fits\n"
    await host.stop("box")
    await host.grow_volume(name, 300)  # while nobody has it
    await start(host, "box", mount(name, generation=2))
    assert int(await say(host, "box", size)) > before + 190
    assert await say(host, "box", "stat -c %s /mnt/data/zeros") == f"{80 << 20}\n"


async def test_what_a_machine_could_not_write_to_its_end_is_refused(host: LocalHost) -> None:
    """Its process may write no larger files; what is smaller is written to its end."""
    name = str(uuid4())
    await host.make_volume(name, 5000)
    await start(host, "box", mount(name))
    with pytest.raises(NotSupported, match="at most 5120"):
        await host.grow_volume(name, 6000)
    await host.grow_volume(name, 5120)
    last = "umount /mnt/data && dd if=/dev/zero of=/dev/vdb bs=1M seek=5119 count=1 conv=fsync 2>&1"
    assert "1+0 records out" in await say(host, "box", last)
    await host.stop("box")
    await host.grow_volume(name, 6000)
    with pytest.raises(NotSupported, match="6000 MiB"):
        await start(host, "box", mount(name, generation=2))
    await start(host, "reader", mount(name, read_only=True, generation=2))
    assert "lost+found" in await say(host, "reader", "ls /mnt/data")


async def test_a_copy_goes_its_own_way(host: LocalHost) -> None:
    name, copy = await volume(host), str(uuid4())
    await start(host, "box", mount(name))
    await say(host, "box", "echo first > /mnt/data/file")
    with pytest.raises(VolumeBusy):
        await host.copy_volume(name, copy, SIZE_MB)
    await host.stop("box")
    await host.copy_volume(name, copy, 2 * SIZE_MB)
    await start(host, "both", mount(name, generation=2), Mount(copy, "copy", "/mnt/copy", generation=1))
    told = "cat /mnt/data/file /mnt/copy/file; echo second > /mnt/copy/file; cat /mnt/data/file"
    assert await say(host, "both", told) == "first\nfirst\nfirst\n"
    assert int(await say(host, "both", "df --output=size -m /mnt/copy | tail -1")) > SIZE_MB * 3 // 2


async def test_a_server_that_starts_finds_who_has_them(open_state: OpenHost) -> None:
    async with open_state() as host:
        name = await volume(host)
        await start(host, "box", mount(name))
        await say(host, "box", "echo kept > /mnt/data/file")
    async with open_state() as host:
        assert await say(host, "box", "cat /mnt/data/file") == "kept\n"
        with pytest.raises(VolumeBusy):
            await start(host, "other", mount(name, generation=2))
        await host.stop("box")
        await start(host, "other", mount(name, generation=2))
        assert await say(host, "other", "cat /mnt/data/file") == "kept\n"
        await host.end_all()


async def test_what_is_no_file_system_is_said_to_be_none(host: LocalHost) -> None:
    name = await volume(host)
    disk: Path = host.volumes.path_of(name)
    with disk.open("r+b") as file:
        file.write(b"\xff" * (1 << 20))
    with pytest.raises(MachineError, match="file system is damaged"):
        await start(host, "box", mount(name))
    assert (await host.report()).vms == []
    await host.drop_volume(name)
