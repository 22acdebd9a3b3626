"""Machines that are forks of a fork server: as separate as if each had been restored."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pandastack.config import HostConfig
from pandastack.errors import MachineError, NotSupported
from pandastack.host import procfs
from pandastack.host.app import LocalHost, open_host
from pandastack.host.qemu import QemuDriver
from pandastack.host.readiness import run_to_end
from pandastack.host.zygote import NAME_PLACEHOLDER, Zygote
from pandastack.host.zygotes import Zygotes
from pandastack.model.guest import Command
from pandastack.model.host import VmReport, VmSpec
from pandastack.testing.fixtures import eventually
from pandastack.testing.real import CACHE, small_host
from tests.descriptors import opened, sockets
from tests.vm.conftest import OpenHost, quiet

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

READY_SECONDS = 120.0
CHANCE = """
cat /proc/sys/kernel/random/boot_id /etc/machine-id
head -c 8 /dev/urandom | od -An -tx8
openssl rand -hex 8
python3 -c 'import random, uuid; print(random.random()); print(uuid.uuid4())'
"""


@pytest.fixture
def open_state(state: Path, images: None) -> OpenHost:
    """Emulated, also where KVM works: that has no fork servers."""
    return lambda: open_host(small_host(state, emulate=True), quiet)


@pytest.fixture
async def host(host: LocalHost) -> LocalHost:
    """One that has a fork server for `base`."""
    await until_forked(host)
    return host


async def until_forked(host: LocalHost) -> None:
    """Return when a machine of `base` would be a fork."""
    await host.bake("base")
    async with asyncio.timeout(READY_SECONDS):
        while find(host) is None:
            await asyncio.sleep(0.2)


def zygotes(host: LocalHost) -> Zygotes:
    driver = host.vms.driver
    assert isinstance(driver, QemuDriver)
    assert driver.zygotes is not None
    return driver.zygotes


def find(host: LocalHost) -> Zygote | None:
    return zygotes(host).find(key(host)) if zygotes(host).keys() else None


def key(host: LocalHost) -> str:
    """There is one: that of `base`."""
    (only,) = zygotes(host).keys()
    return only


def the_zygote(host: LocalHost) -> Zygote:
    zygote = find(host)
    assert zygote is not None
    return zygote


async def start(host: LocalHost, vm_id: str) -> VmReport:
    return await host.start(VmSpec(vm_id, "base"))


async def say(host: LocalHost, vm_id: str, line: str) -> str:
    code, words = await run_to_end(host.guest(vm_id), line, os.urandom(4).hex())
    assert code == 0, words
    return words


def events(pid: int) -> set[str]:
    """The kernel's names of the event descriptors that a process holds."""
    found = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed since: a server opens some while it forks
            words = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
            if "eventfd-id" in words:
                found.add(words["eventfd-id"].strip())
    return found


def ahead(zygote: Zygote) -> set[int]:
    """The child that waits for its order, if there is one: it has no name yet."""
    return {pid for pid in procfs.children(zygote.pid) if NAME_PLACEHOLDER in _arguments(pid)}


async def one_ahead(zygote: Zygote) -> int:
    await eventually(lambda: len(ahead(zygote)) == 1)
    (pid,) = ahead(zygote)
    return pid


def _arguments(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def sockets_and_files(pid: int) -> set[str]:
    """What a process has open that belongs to one machine alone: files of its home by what they are."""
    home = {path.stat().st_ino for path in Path(f"/proc/{pid}/cwd").iterdir()}
    return {str(status.st_ino) for _, status in opened(pid) if status.st_ino in home} | sockets(pid)


def confinement(pid: int) -> set[tuple[str, str]]:
    """Seccomp mode and no-new-privileges of every thread."""
    return {
        (_status(task, "Seccomp"), _status(task, "NoNewPrivs"))
        for task in Path(f"/proc/{pid}/task").iterdir()
    }


def _status(task: Path, name: str) -> str:
    lines = (task / "status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


async def test_forks_share_nothing_that_they_write(host: LocalHost) -> None:
    reports = [await start(host, f"vm-{number}") for number in range(3)]
    assert all("fork" in report.phases_ms for report in reports)
    for report in reports:
        await say(
            host, report.id, f"echo {report.id} > /root/mine && sync && echo {report.id} > /dev/shm/mine"
        )
    for report in reports:
        assert await say(host, report.id, "cat /root/mine /dev/shm/mine") == f"{report.id}\n" * 2
    later = await start(host, "later")
    assert "fork" in later.phases_ms
    assert await say(host, "later", "ls /root /dev/shm") == "/dev/shm:\n\n/root:\n"


async def test_forks_have_chance_names_and_time_of_their_own(host: LocalHost) -> None:
    await asyncio.sleep(3)  # the guest must not notice how long the server has stood still
    said = []
    for number in range(4):
        await start(host, f"vm-{number}")
        said.append((await say(host, f"vm-{number}", CHANCE)).splitlines())
    assert all(len(set(answers)) == 4 for answers in zip(*said, strict=True)), said
    assert abs(float(await say(host, "vm-3", "date +%s.%N")) - time.time()) < 1
    assert "soft lockup" not in await say(host, "vm-3", "dmesg")


async def test_forks_share_no_descriptor_and_are_confined(host: LocalHost) -> None:
    server = the_zygote(host).pid
    one, two = await start(host, "one"), await start(host, "two")
    assert len(events(one.pid)) > 3
    assert not events(one.pid) & events(two.pid)
    assert not events(one.pid) & events(server)
    held = [sockets_and_files(pid) for pid in (server, one.pid, two.pid)]
    assert all(len(links) > 4 for links in held)
    assert not held[0] & held[1]
    assert not held[1] & held[2]
    assert confinement(one.pid) == {("2", "1")}
    assert {seccomp for seccomp, _ in confinement(server)} == {"0"}  # what the others are told apart from


async def test_a_fork_does_what_machines_do(host: LocalHost, state: Path, tmp_path: Path) -> None:
    report = await start(host, "vm")
    await say(host, "vm", "dd if=/dev/urandom of=/root/data bs=1M count=30 status=none && sync")
    await host.pause("vm")
    await host.resume("vm")
    digest = await say(host, "vm", "echo 3 > /proc/sys/vm/drop_caches; md5sum < /root/data")
    assert digest == await say(host, "vm", "md5sum < /root/data")
    assert (await host.stats("vm")).threads >= 3
    machine = await host.vms.driver.adopt(state / "v" / "vm")
    assert machine is not None
    with pytest.raises(NotSupported):
        await machine.snapshot(tmp_path)
    machine.forget()
    async with host.deaths() as deaths:
        os.kill(report.pid, signal.SIGKILL)
        assert "killed" in str((await anext(deaths)).cause)


async def test_forks_outlive_the_program_and_are_adopted(open_state: OpenHost) -> None:
    async with open_state() as host:
        await until_forked(host)
        server = the_zygote(host).pid
        report = await start(host, "vm")
        kept = Command(process_id="kept", argv=("sleep", "300"), detached=True)
        async with host.guest("vm").run(kept) as process:
            await process.detach()
    assert procfs.start_ticks(server) is None
    async with open_state() as host:
        try:
            assert [found.pid for found in (await host.report()).vms] == [report.pid]
            assert [process.running for process in await host.guest("vm").processes()] == [True]
            assert await say(host, "vm", "echo still here") == "still here\n"
        finally:
            await host.end_all()


async def test_machines_start_without_a_server_that_has_died_and_one_is_made_again(host: LocalHost) -> None:
    first = await start(host, "first")
    os.kill(the_zygote(host).pid, signal.SIGKILL)
    second = await start(host, "second")
    assert "spawn" in second.phases_ms
    assert await say(host, "first", "echo alive") == await say(host, "second", "echo alive")
    await until_forked(host)
    assert "fork" in (await start(host, "third")).phases_ms
    assert first.pid != second.pid


NUMBERS = (
    "sh -c 'echo $PPID $$'; ls -A /root /tmp /usr/local/share /etc/ssl/certs; "
    "sha256sum /etc/ssl/certs/ca-certificates.crt"
)
"""Numbers that the guest's kernel gives one after the other, and what programs leave on the disk."""


async def test_a_server_that_has_rehearsed_programs_takes_the_place_of_the_first(
    state: Path, images: None
) -> None:
    """Nothing of the programs is in its forks. The first stays as long as machines whose end it tells."""
    config = HostConfig(state_dir=state, cache_dir=CACHE, emulate=True)
    async with open_host(config, quiet) as host:
        await until_forked(host)
        first = the_zygote(host)
        old = await start(host, "old")
        numbers = await say(host, "old", NUMBERS)
        async with asyncio.timeout(READY_SECONDS):
            while find(host) is first:
                await asyncio.sleep(0.2)
        new = await start(host, "new")
        assert "fork" in new.phases_ms
        assert await say(host, "new", NUMBERS) == numbers
        assert await say(host, "new", NUMBERS) != numbers
        async with host.deaths() as deaths:
            os.kill(old.pid, signal.SIGKILL)
            assert "SIGKILL" in str((await anext(deaths)).cause)
        await eventually(lambda: procfs.start_ticks(first.pid) is None)
        assert await say(host, "new", "echo alive") == "alive\n"
        await host.end_all()


async def test_a_server_that_hangs_costs_one_create_some_seconds_and_the_others_nothing(
    host: LocalHost,
) -> None:
    os.kill(the_zygote(host).pid, signal.SIGSTOP)
    starting = asyncio.ensure_future(start(host, "first"))
    began = time.monotonic()
    await asyncio.sleep(0.1)
    assert time.monotonic() - began < 1
    assert "spawn" in (await starting).phases_ms
    assert "spawn" in (await start(host, "second")).phases_ms


async def test_a_cancelled_fork_is_undone(host: LocalHost, state: Path) -> None:
    zygote = the_zygote(host)
    for turns in range(8):
        starting = asyncio.ensure_future(start(host, "vm"))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        await host.stop("vm")
    assert procfs.children(zygote.pid) == ahead(zygote)
    assert "fork" in (await start(host, "vm")).phases_ms


async def test_a_child_that_was_forked_ahead_becomes_the_next_machine(host: LocalHost) -> None:
    zygote = the_zygote(host)
    lives = []
    for number in range(3):
        before = ahead(zygote)
        report = await start(host, f"vm-{number}")
        assert {report.pid} == before or not before
        assert confinement(report.pid) == {("2", "1")}
        assert _status(Path(f"/proc/{report.pid}"), "CapEff").strip("0") == ""
        lives.append((await say(host, report.id, CHANCE)).split())
        await one_ahead(zygote)
    for values in zip(*lives, strict=True):
        assert len(set(values)) == len(lives), values
    waits = await one_ahead(zygote)
    assert _status(Path(f"/proc/{waits}"), "Threads") == "1"
    assert {row.pid for row in host.vms.reports()} == procfs.children(zygote.pid) - {waits}


async def test_a_child_ahead_that_is_killed_is_not_missed(host: LocalHost) -> None:
    zygote = the_zygote(host)
    await start(host, "vm")
    for number, pause in enumerate((0.0, 0.5)):
        waits = await one_ahead(zygote)
        os.kill(waits, signal.SIGKILL)
        while procfs.state(waits) not in ("", "Z"):
            await asyncio.sleep(0)
        await asyncio.sleep(pause)
        assert "fork" in (await start(host, f"later-{number}")).phases_ms
    assert the_zygote(host) is zygote


async def test_a_child_ahead_ends_with_its_server(host: LocalHost) -> None:
    zygote = the_zygote(host)
    report = await start(host, "vm")
    waits = await one_ahead(zygote)
    os.kill(zygote.pid, signal.SIGKILL)
    await eventually(lambda: procfs.state(waits) in ("", "Z"))
    assert procfs.state(report.pid) not in ("", "Z")


async def test_a_server_whose_children_cannot_go_on_is_given_up(host: LocalHost) -> None:
    zygote = the_zygote(host)
    read, write = os.pipe()
    with suppress(MachineError):  # it may have ended before it could be held
        child = await zygote.fork("lost", home=read, own=(read, write, read, write), file_size_limit=1 << 30)
        assert await child.wait() == 111
        child.close()
    os.close(read)
    os.close(write)
    async with asyncio.timeout(5):
        while zygote.alive():
            await asyncio.sleep(0.01)
    assert "spawn" in (await start(host, "vm")).phases_ms
