"""The process itself: who it is, what it holds, how it ends, and how it is started anew."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pandastack.errors import MachineError, OutcomeUnknown
from pandastack.host.egress.client import EgressProcess
from pandastack.host.egress.orders import Attach, Begin
from pandastack.model.egress import BoundSecret, Egress
from pandastack.testing.fixtures import LeakCheck, descriptors
from tests.descriptors import targets

from .wire import get, hello
from .world import OURS, OWN, PUBLIC, SLOT, World, all_of, namespace, server, world

pytestmark = [pytest.mark.anyio, pytest.mark.root]

PLACE = "127.10.0.1"
ZONE = {"good.test": [[PLACE]]}
ONE = Egress(allow_domains=("good.test",))
NOBODY = 65534

LOOK = """
import ctypes, sys
pid, done = int(sys.argv[1]), []
try:
    at = int(open(f"/proc/{pid}/maps").readline().split("-")[0], 16)
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(at)
        done += ["read"] if memory.read(16) else []
except OSError:
    pass
libc = ctypes.CDLL(None)
if libc.ptrace(0x4206, pid, 0, 0) == 0:  # PTRACE_SEIZE, which stops nothing
    done.append("trace")
print(*done)
"""
PLAIN = """
import ctypes, time
ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)  # where Yama asks for it
print("ready")
time.sleep(60)  # to be looked into; it is ended before
"""


async def waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say hello, and wait for the end."""
    writer.write(b"hello")
    while await reader.read(4096):
        pass


def sockets_of(pid: int) -> int:
    """How many sockets a process holds."""
    return sum(target.startswith("socket:") for target in targets(pid))


async def test_it_is_killed_and_started_anew(leak_check: LeakCheck, tmp_path: Path) -> None:
    """Its end is noticed, orders fail, its guests are cut off; another one takes the slots over."""
    log = tmp_path / "log"
    async with server(PLACE, 0, waiting) as port, world(ZONE, tmp_path) as made:
        await killed(made, made.process, port)
        async with EgressProcess(log) as another:
            await another.begin(Begin((made.names.address,), reachable=(PUBLIC,)))
            await killed(World(made.guest, made.names, another, log), another, port)


async def killed(made: World, process: EgressProcess, port: int) -> None:
    """A guest reaches its server, until the process is no more."""
    sockets = made.guest.listeners()
    await process.attach(Attach(SLOT, "vm", ONE), sockets)
    for each in sockets:
        each.close()
    reader, writer = await made.connect(PLACE, port)
    writer.write(get("good.test"))
    assert await reader.readexactly(5) == b"hello"
    os.kill(process.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        assert await process.ended() == -signal.SIGKILL
    assert await all_of(reader) == b""
    writer.close()
    with pytest.raises(MachineError):
        await process.receipts(SLOT)


async def test_it_ends_with_its_host(leak_check: LeakCheck, tmp_path: Path) -> None:
    """The channel alone holds it: a host that dies takes it along."""
    program = (
        "import asyncio, pathlib, sys\n"
        "from pandastack.host.egress.client import EgressProcess\n"
        "async def main():\n"
        "    async with EgressProcess(pathlib.Path(sys.argv[1])) as process:\n"
        "        print(process.pid, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    host = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(tmp_path / "log")), stdout=asyncio.subprocess.PIPE
    )
    assert host.stdout
    pid = int(await host.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    host.kill()
    await host.wait()
    async with asyncio.timeout(5):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.01)


async def test_it_has_a_user_of_its_own_no_rights_and_what_it_was_given(
    leak_check: LeakCheck, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    async with EgressProcess(log, account=OWN) as process:
        await process.begin(Begin(("127.0.0.1",), authority=OURS))
        status = Path(f"/proc/{process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        assert fields["Uid"].split() == fields["Gid"].split() == [str(OWN.uid)] * 4
        assert not fields["Groups"].split() and int(fields["NoNewPrivs"]) == 1
        for kept in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(fields[kept], 16) == 0, kept
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
        files = {each for each in targets(process.pid) if each.startswith("/")}
        assert files <= {"/dev/null", str(log)}


def looked_into(pid: int, user: int) -> str:
    """What a program that runs as `user` can do to the process: `read` its memory, `trace` it."""
    return subprocess.run(
        ["python3", "-c", LOOK, str(pid)],
        user=user,
        group=user,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
        cwd="/",
    ).stdout.strip()


async def test_nobody_looks_into_it(leak_check: LeakCheck, tmp_path: Path) -> None:
    """Neither whom services of a system run as, nor a machine's user, nor who would have its own."""
    async with EgressProcess(tmp_path / "log", account=OWN) as process:
        await process.begin(Begin(("127.0.0.1",), authority=OURS))
        for user in (NOBODY, OWN.uid + 1, OWN.uid):
            assert looked_into(process.pid, user) == "", user
        assert looked_into(process.pid, 0) == "read trace"


def test_a_plain_process_is_looked_into_by_its_user(leak_check: LeakCheck) -> None:
    """The negative control: without a user of its own, or dumpable."""
    with subprocess.Popen(
        ["python3", "-u", "-c", PLAIN], user=NOBODY, group=NOBODY, stdout=subprocess.PIPE, cwd="/"
    ) as plain:
        assert plain.stdout and plain.stdout.readline()
        try:
            assert looked_into(plain.pid, NOBODY) == "read trace"
            assert looked_into(plain.pid, OWN.uid) == ""
        finally:
            plain.kill()


async def test_a_slot_is_attached_again_and_detached(leak_check: LeakCheck, tmp_path: Path) -> None:
    """Nothing of a slot is left: neither its connections nor its descriptors, and its ports are free."""
    async with server(PLACE, 0, waiting) as port, world(ZONE, tmp_path) as made:
        await made.attach(ONE)
        await made.process.detach(SLOT)
        before = sockets_of(made.process.pid)
        for _ in range(5):
            await made.attach(ONE)
            flows = [await made.connect(PLACE, port) for _ in range(10)]
            for reader, writer in flows:
                writer.write(hello("good.test"))
                assert await reader.readexactly(5) == b"hello"
            unfinished = await made.connect(PLACE, port)
            unfinished[1].write(hello("good.test")[:30])
            await made.process.detach(SLOT)
            for reader, writer in [*flows, unfinished]:
                assert await all_of(reader) == b""
                writer.close()
            with pytest.raises(ConnectionRefusedError):
                await made.connect(PLACE, port)
        await made.process.detach(SLOT)
        async with asyncio.timeout(5):
            while sockets_of(made.process.pid) > before:
                await asyncio.sleep(0.01)
    assert not [what for what in descriptors().values() if "netns" in what]


async def test_orders_that_cannot_be_carried_out_are_refused(leak_check: LeakCheck, tmp_path: Path) -> None:
    with namespace() as guest:
        async with EgressProcess(tmp_path / "log") as process:
            sockets = guest.listeners()
            for order in (
                process.attach(Attach(SLOT, "vm", ONE), sockets),  # before `begin`
                process.attach(Attach(SLOT, "vm", ONE), sockets[:2]),
                process.change(SLOT, ONE),
                process.receipts(SLOT),
                process.begin(Begin((), trust="no certificate")),
            ):
                with pytest.raises(MachineError):
                    await order
            await process.begin(Begin(("127.0.0.1",)))
            await process.attach(Attach(SLOT, "vm", ONE), sockets)
            for each in sockets:
                each.close()
            assert (await process.receipts(SLOT)).vm == "vm"


async def test_a_host_that_stood_still_does_not_blame_the_process(
    leak_check: LeakCheck, tmp_path: Path
) -> None:
    async with EgressProcess(tmp_path / "log") as process:
        await process.begin(Begin(("127.0.0.1",)))
        process.deadline = 0.5
        for _ in range(3):
            order = asyncio.create_task(process.detach(SLOT))
            await asyncio.sleep(0)  # it is on its way
            time.sleep(1)  # noqa: ASYNC251  # nothing of this program runs meanwhile
            await order


async def test_an_answer_that_does_not_come_is_an_unknown_outcome(
    leak_check: LeakCheck, tmp_path: Path
) -> None:
    """And the next one is not taken for it."""
    async with EgressProcess(tmp_path / "log", deadline=0.3) as process:
        while True:
            with suppress(OutcomeUnknown):
                await process.detach(SLOT)
                break
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(OutcomeUnknown):
            await process.begin(Begin(("127.0.0.1",)))
        os.kill(process.pid, signal.SIGCONT)
        with pytest.raises(MachineError, match="not attached"):
            await process.receipts(SLOT)


async def test_the_largest_policy_fits(leak_check: LeakCheck, tmp_path: Path) -> None:
    labels = ".".join(["x" * 60] * 3)
    egress = Egress(allow_domains=tuple(f"{number}.{labels}.test" for number in range(500)))
    secrets = tuple(BoundSecret(f"s{n}", ("a.test",), f"placeholder-{n:06}", "v" * 8000) for n in range(40))
    async with world(ZONE, tmp_path) as made:
        await made.attach(egress, *secrets)
        assert (await made.process.receipts(SLOT)).receipts == ()
