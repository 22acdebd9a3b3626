"""Snapshots of machines that run: memory, disk and processes as they were, and yet each its own."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from pandastack.errors import SnapshotNotFound, SnapshotRefused
from pandastack.host import fsck, layers, memory
from pandastack.host.app import LocalHost, open_host
from pandastack.host.fsck import State
from pandastack.host.readiness import run_to_end
from pandastack.host.scrub import Scrub
from pandastack.model.guest import Command
from pandastack.model.host import SnapshotReport, SnapshotSpec, VmReport, VmSpec, VmState
from pandastack.testing.real import small_host
from tests.vm.conftest import OpenHost, quiet

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

FILL = "head -c {0} /dev/urandom > {1}; sha256sum < {1}"
TICK = (
    "i=0; while :; do i=$((i+1)); echo $i > /dev/shm/next; mv /dev/shm/next /dev/shm/ticks; sleep 0.05; done"
)
"""By a name of its own first: who reads meets a whole number."""


@pytest.fixture
def open_state(state: Path, images: None) -> OpenHost:
    return lambda: open_host(small_host(state), quiet)


async def say(host: LocalHost, vm_id: str, line: str) -> str:
    code, words = await run_to_end(host.guest(vm_id), line, os.urandom(4).hex())
    assert code == 0, words
    return words.strip()


async def start(host: LocalHost, vm_id: str, snapshot: str | None = None) -> VmReport:
    return await host.start(VmSpec(vm_id, "base", snapshot=snapshot))


async def keep(host: LocalHost, name: str, vm_id: str, *, durable: bool = True) -> SnapshotReport:
    return await host.snapshot(SnapshotSpec(name, vm_id, durable=durable))


async def tick(host: LocalHost, vm_id: str) -> None:
    """A process that counts, which a snapshot finds at work."""
    command = Command(process_id="ticker", shell=TICK, detached=True)
    async with host.guest(vm_id).run(command) as process:
        await process.detach()
    await say(host, vm_id, "until test -s /dev/shm/ticks; do sleep 0.05; done")


async def ticks(host: LocalHost, vm_id: str) -> int:
    return int(await say(host, vm_id, "cat /dev/shm/ticks"))


async def forget_copy(host: LocalHost, name: str) -> None:
    """Restores of this snapshot start from its files from now on, as after a restart."""
    await host.vms.driver.release(name)


@pytest.fixture(params=["copies", "files"])
def from_files(request: pytest.FixtureRequest) -> bool:
    """Whether machines start from what is on the disk, or from the copy of a process, where there is one."""
    return str(request.param) == "files"


async def test_a_machine_goes_on_from_its_snapshot(host: LocalHost, *, from_files: bool) -> None:
    await start(host, "parent")
    in_memory = await say(host, "parent", FILL.format(20_000_000, "/dev/shm/x"))
    on_disk = await say(host, "parent", FILL.format(5_000_000, "/root/x"))
    await tick(host, "parent")
    report = await keep(host, "s", "parent")
    if from_files:
        await forget_copy(host, "s")
    seen = await ticks(host, "parent")
    await say(host, "parent", "rm /dev/shm/x /root/x; echo later > /root/later")
    child = await start(host, "child", "s")
    assert await say(host, "child", "sha256sum < /dev/shm/x") == in_memory
    assert await say(host, "child", "sha256sum < /root/x") == on_disk
    assert await say(host, "child", "ls /root") == "x"
    assert await ticks(host, "child") <= seen + 20
    before = await ticks(host, "child")
    await asyncio.sleep(0.5)
    assert await ticks(host, "child") > before
    assert child.snapshot == "s"
    assert report.layers in {1, 2}  # two when a thread of the machine was on its way as it was copied
    await say(host, "child", "echo mine > /root/y; sync")
    assert await say(host, "parent", "ls /root") == "later"


CHANCE = """
cat /proc/sys/kernel/random/boot_id /etc/machine-id /proc/sys/kernel/random/uuid
head -c 16 /dev/urandom | od -An -tx8
openssl rand -hex 16
python3 -c 'import os, random, uuid; print(random.random()); print(uuid.uuid4()); print(os.urandom(8).hex())'
"""


async def test_no_two_lives_of_a_snapshot_share_chance(host: LocalHost, *, from_files: bool) -> None:
    await start(host, "parent")
    await say(host, "parent", "true")
    await keep(host, "s", "parent")
    if from_files:
        await forget_copy(host, "s")
    names = [f"child-{number}" for number in range(5)]
    reports = [await start(host, name, "s") for name in names]
    drawn = [(await say(host, name, CHANCE)).splitlines() for name in ("parent", *names)]
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == len(drawn), values
    assert {await say(host, name, "hostname") for name in names} == {f"sandbox-{name[:8]}" for name in names}
    proofs = [report.proof for report in reports]
    assert all(proof and proof.origin == "s" and proof.entropy_bytes >= 32 for proof in proofs)
    assert len({proof.boot_id for proof in proofs if proof}) == len(names)
    assert [proof.hostname for proof in proofs if proof] == [f"sandbox-{name[:8]}" for name in names]


async def test_clocks_are_right_after_a_rest(host: LocalHost) -> None:
    await start(host, "parent")
    await host.snapshot(SnapshotSpec("s", "parent", hold=True))
    await host.stop("parent")
    await asyncio.sleep(3)
    await forget_copy(host, "s")
    report = await start(host, "parent", "s")
    assert report.proof
    assert report.proof.clock_step_ms > 2000
    now = await host.guest("parent").metrics()
    assert now.uptime_ms > 0
    ours = time.time_ns() // 1_000_000
    theirs = int(await say(host, "parent", "date +%s%3N"))
    assert abs(theirs - ours) < 1000  # what the command itself takes is part of it


async def test_a_chain_of_lives_keeps_everything(host: LocalHost, *, from_files: bool) -> None:
    """The oldest complaint of the field: files that are lost after the second resume."""
    await start(host, "box")
    for number in range(4):
        await say(host, "box", f"echo {number} | tee /root/d{number} > /dev/shm/m{number}")
        await host.snapshot(SnapshotSpec(f"s{number}", "box", hold=True))
        await host.stop("box")
        if from_files:
            await forget_copy(host, f"s{number}")
        await start(host, "box", f"s{number}")
        found = await say(host, "box", "cat /root/d* /dev/shm/m*")
        assert found.split() == [str(n) for n in range(number + 1)] * 2


async def test_snapshots_need_nobody(host: LocalHost) -> None:
    """Neither the machine that they were taken of, nor earlier ones, nor the cache."""
    await start(host, "a")
    await say(host, "a", "echo first > /root/f")
    await keep(host, "s0", "a")
    await say(host, "a", "echo second >> /root/f")
    await keep(host, "s1", "a")
    await host.stop("a")
    await host.drop_snapshot("s0")
    await forget_copy(host, "s1")
    await start(host, "b", "s1")
    assert await say(host, "b", "cat /root/f") == "first\nsecond"
    with pytest.raises(SnapshotNotFound):
        await start(host, "c", "s0")


async def test_a_restarted_host_has_its_durable_snapshots(open_state: OpenHost) -> None:
    async with open_state() as host:
        await start(host, "a")
        await say(host, "a", "echo kept > /root/f; echo kept > /dev/shm/f")
        await keep(host, "lasting", "a")
        await keep(host, "passing", "a", durable=False)
    async with open_state() as host:
        try:
            assert [report.id for report in host.vms.vault.reports()] == ["lasting"]
            await start(host, "b", "lasting")
            assert await say(host, "b", "cat /root/f /dev/shm/f") == "kept\nkept"
            assert await say(host, "a", "cat /root/f") == "kept"
            await keep(host, "again", "a")
        finally:
            await host.end_all()


async def test_a_snapshot_takes_what_differs(host: LocalHost) -> None:
    report = await start(host, "a")
    await say(host, "a", "head -c 8000000 /dev/urandom > /dev/shm/x")
    kept = await keep(host, "s", "a")
    files = host.vms.vault.prepare("s").snapshot
    assert files is not None
    assert files.base is not None
    pages = sum(count for _, count in memory.read_runs(files.memory))
    disk = sum(layer.stat().st_blocks * 512 for layer in files.layers)
    assert kept.size_bytes <= (pages * memory.PAGE + disk) * 1.05
    assert 8_000_000 < pages * memory.PAGE < 60_000_000
    assert report.memory_mb << 20 > 8 * pages * memory.PAGE


async def test_damaged_files_are_not_loaded(host: LocalHost, state: Path) -> None:
    """Neither cut ones, told at once, nor those of which one bit is wrong, once that was found."""
    await start(host, "a")
    await say(host, "a", "head -c 9000000 /dev/urandom > /dev/shm/x; echo well > /root/f")
    for name in ("s", "t", "u"):
        await keep(host, name, "a")
        await forget_copy(host, name)
    cut, flipped = (state / "s" / name / "pages" for name in "tu")
    os.truncate(cut, cut.stat().st_size - 1)
    with flipped.open("r+b") as file:
        place = os.pread(file.fileno(), 1, 5_000_000)[0]
        os.pwrite(file.fileno(), bytes([place ^ 4]), 5_000_000)
    with pytest.raises(SnapshotRefused, match=r"t: pages: chunk \d+ is not whole.* had \d+\. The one "):
        await start(host, "b", "t")
    os.utime(state / "s" / "u" / "snapshot.json", (0, 0))
    await Scrub(host.vms.vault, time.time_ns, bytes_per_second=1 << 40).look_through()
    with pytest.raises(SnapshotRefused, match=r"u: pages: chunk 1 .* is damaged\. The one before, s of"):
        await start(host, "b", "u")
    told = {report.id: report.damaged for report in (await host.report()).snapshots}
    assert (told["s"], told["t"]) == (None, None)  # that one was read within the day
    assert told["u"]
    found = {finding.id: finding for finding in fsck.check(state, lambda *_: None, in_use=True)}
    assert {name: (found[name].file, found[name].chunk) for name in "su"} == {
        "s": (None, None),
        "u": ("pages", 1),
    }
    assert found["t"].state is State.DAMAGED
    (base,) = [finding for finding in found.values() if finding.kind == "base"]
    assert base.state is State.OK
    assert (Path(base.path) / "image.json").exists()  # its root disk was read too
    assert [vm.id for vm in host.vms.reports()] == ["a"]
    assert sorted(path.name for path in (state / "v").iterdir()) == ["a"]
    await start(host, "b", "s")
    assert await say(host, "b", "cat /root/f") == "well"
    assert await say(host, "a", "cat /root/f") == "well"


async def test_a_disk_is_booted_when_the_memory_cannot_be_used(host: LocalHost, state: Path) -> None:
    await start(host, "a")
    on_disk = await say(host, "a", FILL.format(3_000_000, "/root/x"))
    await say(host, "a", "sync; echo gone > /dev/shm/f")
    await tick(host, "a")
    await keep(host, "s", "a")
    await say(host, "a", "echo later > /root/later; sync")
    await host.stop("a")
    await forget_copy(host, "s")
    for name in ("pages", "state"):
        os.truncate(state / "s" / "s" / name, 0)
    with pytest.raises(SnapshotRefused, match=r"s: .* is not whole"):
        await start(host, "b", "s")
    report = await host.start(VmSpec("b", "base", snapshot="s", cold=True))
    assert (report.boot_mode, report.snapshot) == ("cold", "s")
    assert await say(host, "b", "ls /root; ls /dev/shm; sha256sum < /root/x") == f"x\n{on_disk}"
    assert await say(host, "b", "hostname") == "sandbox-b"
    await say(host, "b", "echo more > /root/more; sync")
    await host.pause("b")
    await host.resume("b")
    await keep(host, "t", "b")
    assert await say(host, "b", "cat /root/more") == "more"
    with (state / "s" / "s" / "layer-0.qcow2").open("r+b") as file:
        file.seek(1_500_000)
        file.write(b"damage")
    with pytest.raises(SnapshotRefused, match=r"layer-0\.qcow2: chunk 0 "):
        await host.start(VmSpec("c", "base", snapshot="s", cold=True))
    assert [vm.id for vm in host.vms.reports()] == ["b"]


async def test_what_nothing_lies_over_goes(host: LocalHost, state: Path) -> None:
    await start(host, "a")
    await keep(host, "s", "a")
    await start(host, "b", "s")
    await host.drop_snapshot("s")
    await host.vms.look_after()
    (held,) = (state / "b").iterdir()
    await keep(host, "t", "b")  # it lies over the same
    await host.drop_snapshot("t")
    await host.stop("b")
    await host.vms.look_after()
    assert not held.exists()
    await keep(host, "u", "a")
    assert held.exists()


async def test_a_held_machine_stands_still_and_goes_on(host: LocalHost) -> None:
    await start(host, "a")
    await tick(host, "a")
    await host.snapshot(SnapshotSpec("s", "a", hold=True))
    assert [vm.state for vm in host.vms.reports()] == [VmState.PAUSED]
    await host.resume("a")
    before = await ticks(host, "a")
    await say(host, "a", "echo writes > /root/f; sync")
    await asyncio.sleep(0.3)
    assert await ticks(host, "a") > before


async def test_a_machine_is_replaced_by_what_it_was(host: LocalHost) -> None:
    first = await start(host, "a")
    await say(host, "a", "echo good > /root/f; echo good > /dev/shm/f")
    await keep(host, "s", "a")
    await say(host, "a", "echo bad > /root/f; rm /dev/shm/f")
    second = await host.replace(VmSpec("a", "base", snapshot="s"))
    assert second.pid != first.pid
    assert await say(host, "a", "cat /root/f /dev/shm/f") == "good\ngood"
    await keep(host, "t", "a")


async def test_a_replacement_that_fails_leaves_the_machine(host: LocalHost) -> None:
    await start(host, "a")
    await say(host, "a", "echo here > /root/f")
    with pytest.raises(SnapshotNotFound):
        await host.replace(VmSpec("a", "base", snapshot="nothing"))
    assert await say(host, "a", "cat /root/f") == "here"


async def test_sixteen_at_once_and_their_children(host: LocalHost) -> None:
    await start(host, "root")
    await say(host, "root", "head -c 4000000 /dev/urandom > /dev/shm/x; sync")
    sum_of = await say(host, "root", "sha256sum < /dev/shm/x")
    await keep(host, "s", "root", durable=False)
    names = [f"child-{number}" for number in range(16)]
    await asyncio.gather(*(start(host, name, "s") for name in names))
    for name in names:
        assert await say(host, name, f"echo {name} > /root/name; sha256sum < /dev/shm/x") == sum_of
    await keep(host, "t", "child-3", durable=False)
    await start(host, "grandchild", "t")
    assert await say(host, "grandchild", "cat /root/name; sha256sum < /dev/shm/x") == f"child-3\n{sum_of}"
    await host.drop_snapshot("s")
    await host.drop_snapshot("t")
    assert await say(host, "grandchild", "cat /root/name") == "child-3"


async def test_a_busy_machine_is_copied_again_and_again(host: LocalHost) -> None:
    """Threads of the block layer come and go while it is."""
    await start(host, "root")
    load = (
        "while :; do head -c 3000000 /dev/urandom > /root/busy; sync; sha256sum /root/busy > /dev/shm/s; done"
    )
    async with host.guest("root").run(Command(process_id="load", shell=load, detached=True)) as process:
        await process.detach()
    for number in range(8):
        await asyncio.sleep(0.1)
        await keep(host, f"s{number}", "root", durable=False)
        await start(host, f"child-{number}", f"s{number}")
        await host.drop_snapshot(f"s{number}")
        before = await say(host, f"child-{number}", "test -e /root/busy && sync && ls /root")
        assert before == "busy"
    alive = [vm.state for vm in host.vms.reports()]
    assert alive == [VmState.RUNNING] * 9
    root = next(vm.pid for vm in host.vms.reports() if vm.id == "root")
    assert "overlay-8.qcow2" in {path.name for path in Path(f"/proc/{root}/cwd").iterdir()}


async def test_layers_are_made_one_while_the_machine_runs(host: LocalHost) -> None:
    await start(host, "root")
    for number in range(12):
        await say(host, "root", f"head -c 300000 /dev/urandom > /root/f{number}; sync")
        await keep(host, f"s{number}", "root", durable=False)
        report = host.vms.vault.find(f"s{number}")
        assert report
        assert report.layers <= 8
    sums = await say(host, "root", "cd /root; sha256sum f*")
    await keep(host, "last", "root")
    await host.vms.look_after()
    assert await say(host, "root", "cd /root; echo 3 > /proc/sys/vm/drop_caches; sha256sum f*") == sums
    home = Path(f"/proc/{next(vm.pid for vm in host.vms.reports())}/cwd")
    files = [path for path in home.iterdir() if path.suffix == ".qcow2"]
    assert len(files) <= layers.COMFORTABLE + 1, "one is there for the next snapshot"
    await keep(host, "flat", "root")
    for name in ("last", "flat"):
        await forget_copy(host, name)
        await start(host, f"from-{name}", name)
        line = "cd /root; echo 3 > /proc/sys/vm/drop_caches; sha256sum f*"
        assert await say(host, f"from-{name}", line) == sums
