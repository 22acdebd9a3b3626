"""A host's verbs on real machines: nothing half made, nothing lost, every death with its cause."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from pandastack.errors import Conflict, NoSpace, SandboxNotFound, TemplateNotFound
from pandastack.host.app import LocalHost, open_host
from pandastack.host.paths import Cache
from pandastack.host.probe import choose_vmm
from pandastack.host.qemu_install import find_qemu
from pandastack.host.qmp import monitor
from pandastack.model.guest import Command
from pandastack.model.host import VmReport, VmSpec, VmState
from pandastack.model.sandbox import Isolation
from pandastack.testing.fixtures import eventually, processes_with
from pandastack.testing.real import CACHE, small_host
from tests.vm.conftest import OpenHost, quiet

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

BASE = VmSpec("vm-1", "base")


async def say(host: LocalHost, line: str, vm_id: str = "vm-1") -> str:
    """What a shell line prints in the machine."""
    command = Command(process_id=os.urandom(8).hex(), shell=line)
    async with host.guest(vm_id).run(command) as process:
        return b"".join([piece.data async for piece in process.output()]).decode().strip()


@asynccontextmanager
async def death_of(host: LocalHost) -> AsyncIterator[asyncio.Future[VmReport]]:
    """The next death, awaited while the block runs."""
    async with host.deaths() as deaths:
        first = asyncio.ensure_future(anext(deaths))
        yield first
        await asyncio.wait_for(first, 15)


async def test_a_machine_runs_and_leaves_nothing(host: LocalHost, state: Path) -> None:
    report = await host.start(BASE)
    assert (report.state, report.boot_mode) == (VmState.RUNNING, "snapshot")
    started = "fork" if host.vms.driver.isolation is Isolation.EMULATED else "spawn"
    assert {"overlay", started, "answer", "gate"} <= set(report.phases_ms)
    assert await say(host, "echo $((6 * 7)) from $(hostname)") == "42 from sandbox-vm-1"
    await host.stop("vm-1")
    await host.stop("vm-1")
    assert list((state / "v").iterdir()) == []
    assert not processes_with("pandastack-vm-1")
    with pytest.raises(SandboxNotFound):
        host.guest("vm-1")


async def test_the_same_order_twice_is_one_machine(host: LocalHost) -> None:
    first, second = await asyncio.gather(host.start(BASE), host.start(BASE))
    assert first == second == await host.start(BASE)


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.02, 0.05])
async def test_a_cancelled_start_leaves_nothing(host: LocalHost, state: Path, delay: float) -> None:
    await host.bake("base")
    task = asyncio.ensure_future(host.start(BASE))
    await asyncio.sleep(delay)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        await host.stop("vm-1")
    assert list((state / "v").iterdir()) == []
    assert not processes_with("pandastack-vm-1")


async def test_a_stop_overtakes_a_start(host: LocalHost, state: Path) -> None:
    await host.bake("base")
    task = asyncio.ensure_future(host.start(BASE))
    while not (state / "v" / "vm-1").exists():  # a start takes some ten milliseconds
        await asyncio.sleep(0)
    await host.stop("vm-1")
    with pytest.raises(Conflict, match="stopped while it started"):
        await task
    assert list((state / "v").iterdir()) == []


async def test_a_killed_vmm_is_reported_with_its_cause(host: LocalHost, state: Path) -> None:
    report = await host.start(BASE)
    async with death_of(host) as died:
        os.kill(report.pid, signal.SIGKILL)
    assert died.result().state is VmState.DEAD
    assert "killed by signal 9 (SIGKILL)" in str(died.result().cause)
    with pytest.raises(Conflict, match="SIGKILL"):
        host.guest("vm-1")
    assert [vm.state for vm in (await host.report()).vms] == [VmState.DEAD]
    await host.stop("vm-1")
    assert list((state / "v").iterdir()) == []


async def test_a_guest_that_panics(host: LocalHost) -> None:
    await host.start(BASE)
    async with death_of(host) as died:
        with pytest.raises(Exception, match=r"agent|machine|connection"):
            await say(host, "echo c > /proc/sysrq-trigger; sleep 10")
    assert "kernel panicked" in str(died.result().cause)
    assert "sysrq" in died.result().console


async def test_a_guest_that_powers_off(host: LocalHost) -> None:
    await host.start(BASE)
    async with death_of(host) as died:
        with pytest.raises(Exception, match=r"agent|machine|connection"):
            await say(host, "echo o > /proc/sysrq-trigger; sleep 10")
    assert died.result().cause == "The guest powered itself off."


async def test_a_frozen_guest_holds_nobody_up(host: LocalHost) -> None:
    await host.start(BASE)
    await host.pause("vm-1")
    task = asyncio.ensure_future(say(host, "true"))
    await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.wait_for(asyncio.wait([task]), 5)
    assert task.cancelled()
    await asyncio.wait_for(host.stop("vm-1"), 5)


async def test_a_restarted_server_adopts(open_state: OpenHost) -> None:
    async with open_state() as host:
        before = await host.start(BASE)
        kept = Command(process_id="kept", argv=("sleep", "300"), detached=True)
        async with host.guest("vm-1").run(kept):
            pass
        await say(host, "echo there > /root/note")
    async with open_state() as host:
        (after,) = (await host.report()).vms
        assert after == before
        assert await say(host, "cat /root/note") == "there"
        assert [process.running for process in await host.guest("vm-1").processes() if process.id == "kept"]
        os.kill(after.pid, signal.SIGKILL)
        await eventually(lambda: not processes_with("pandastack-vm-1"))
        await host.end_all()


async def test_a_paused_machine_is_adopted_paused(open_state: OpenHost) -> None:
    async with open_state() as host:
        await host.start(BASE)
        await host.pause("vm-1")
        await host.pause("vm-1")
    async with open_state() as host:
        assert [vm.state for vm in (await host.report()).vms] == [VmState.PAUSED]
        await host.resume("vm-1")
        assert await say(host, "echo awake") == "awake"
        await host.end_all()


async def test_a_machine_that_died_while_nobody_watched(open_state: OpenHost) -> None:
    async with open_state() as host:
        report = await host.start(BASE)
    os.kill(report.pid, signal.SIGKILL)
    await eventually(lambda: not processes_with("pandastack-vm-1"))
    async with open_state() as host:
        (found,) = (await host.report()).vms
        assert found.state is VmState.DEAD
        assert "ended when the server started" in str(found.cause)
        await host.end_all()


async def test_what_was_never_acknowledged_is_removed(open_state: OpenHost, state: Path) -> None:
    async with open_state() as host:
        report = await host.start(BASE)
    (state / "v" / "vm-1" / "vm.json").unlink()
    async with open_state() as host:
        assert (await host.report()).vms == []
        assert list((state / "v").iterdir()) == []
    await eventually(lambda: not Path(f"/proc/{report.pid}").exists())


async def test_two_restores_are_two_machines(host: LocalHost) -> None:
    names = "cat /etc/machine-id /proc/sys/kernel/random/boot_id; hostname"
    facts = f"head -c 16 /dev/urandom | od -An -tx1; {names}"
    for vm_id in ("vm-1", "vm-2"):
        await host.start(VmSpec(vm_id, "base"))
    first = (await say(host, facts, "vm-1")).splitlines()
    second = (await say(host, facts, "vm-2")).splitlines()
    assert len(first) == len(second) == 4
    assert all(one != two for one, two in zip(first, second, strict=True))


async def test_the_guest_knows_what_time_it_is(host: LocalHost) -> None:
    await host.start(BASE)
    told = float(await say(host, "date +%s.%N"))
    assert abs(time.time() - told) < 2.0


async def test_the_network_is_closed_to_the_host(host: LocalHost) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    knock = "timeout 3 bash -c 'exec 3<>/dev/tcp/{}/{}' 2>/dev/null && echo open || echo closed"
    await host.start(BASE)
    async with server:
        assert await say(host, knock.format("10.0.2.2", port)) == "closed"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()
        assert await reader.read() == b""
    listening = "python3 -m http.server 8123 --bind 127.0.0.1 >/dev/null 2>&1 & for try in $(seq 60); do "
    knocking = knock.format("127.0.0.1", 8123)
    assert await say(host, f"{listening} {knocking} | grep open && break; sleep 0.5; done") == "open"


async def test_an_unknown_template_names_the_known_ones(host: LocalHost) -> None:
    with pytest.raises(TemplateNotFound, match=r'unknown template "nope": this server has base'):
        await host.start(VmSpec("vm-1", "nope"))


async def test_a_vmm_knows_none_of_the_servers_secrets(images: None) -> None:
    install = find_qemu(Cache(CACHE))
    assert install is not None
    env = {"PATH": "/bin", "PANDASTACK_BOOTSTRAP_TOKEN": "secret"}
    vmm = await choose_vmm(install, Cache(CACHE), env, taps=False)
    assert vmm.env == {"PATH": "/bin", **install.env}


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of so many bytes."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.root
async def test_a_full_disk_creates_nothing(tmp_path: Path, images: None) -> None:
    with small_disk(tmp_path / "small", "1m") as small:
        async with open_host(small_host(small), quiet) as host:
            await host.bake("base")
            (small / "filler").write_bytes(bytes(shutil.disk_usage(small).free - 8192))
            with pytest.raises(NoSpace, match="disk is full"):
                await host.start(BASE)
            assert list((small / "v").iterdir()) == []
            (small / "filler").unlink()
            await host.start(BASE)
            await host.end_all()


@pytest.mark.root
async def test_a_machine_that_a_full_disk_stopped_goes_on(tmp_path: Path, images: None) -> None:
    with small_disk(tmp_path / "small", "8m") as small:
        async with open_host(small_host(small), quiet) as host:
            await host.start(BASE)
            (small / "filler").write_bytes(bytes(shutil.disk_usage(small).free - (1 << 20)))
            line = "dd if=/dev/urandom of=/root/x bs=64k count=32 conv=fsync && md5sum < /root/x"
            writing = asyncio.ensure_future(say(host, f"({line}) 2>/dev/null | wc -c"))
            async with asyncio.timeout(20):
                while await status(small / "v" / "vm-1") != "io-error":
                    await asyncio.sleep(0.05)
            await host.vms.look_after()
            assert not writing.done()
            (small / "filler").unlink()
            await host.vms.look_after()
            assert await asyncio.wait_for(writing, 20) == "36"
            await host.end_all()


async def status(home: Path) -> str:
    """QEMU's word for what the machine does."""
    async with monitor(home / "qmp") as qmp:
        return str((await qmp.execute("query-status"))["status"])
