"""Machines that take all they can, on a real server, and what a neighbour notices of it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pandastack.cli.state import holder
from pandastack.host import procfs
from pandastack.host.groups import MAX_THREADS, OVERHEAD_BYTES
from pandastack.host.link import MAX_OTHERS
from pandastack.host.vm import CONSOLE
from pandastack.host.watch import LOG_LIMIT
from pandastack.testing.fixtures import eventually
from tests.api.conftest import TOKEN
from tests.api.test_kills import ALL
from tests.attacks import flood
from tests.attacks.neighbour import ENOUGH, MOST, TRIED_AGAIN, Neighbour, times_as_long
from tests.vm.yard import Yard

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(180), TRIED_AGAIN]

GROUPS = Path("/sys/fs/cgroup")
FORK_BOMB = ":() { : | : & }; :; sleep 60"
HOG = "python3 -c 'x = []\nwhile True: x.append(bytearray(b\"x\") * (1 << 20))'"
FILL = """
free=$(df --output=avail -k /root | tail -1)
fallocate -l $((free - 102400))K /root/most
dd if=/dev/zero of=/root/rest bs=1M 2>&1 | grep -o 'No space left on device'
rm /root/most /root/rest
echo still > /root/note; sync; cat /root/note
"""
MOST_OF_SERIAL = 4 << 20
"""Bytes a second: each is one write of the machine's process, and a hundredth of what the template's disk may
have (`disk_mb_per_second`).
"""
SERIAL = "timeout {} cat /dev/zero > /dev/ttyS0; true"
AT_ONCE = 200
IMPOSTOR = """
import ctypes, os, struct, time
libc = ctypes.CDLL(None)
agent = libc.syscall(434, 1, 0)
number = next(n for n in os.listdir("/proc/1/fd") if "vport" in os.readlink(f"/proc/1/fd/{n}"))
line = libc.syscall(438, agent, int(number), 0)
tiny = struct.pack("<IBII", 9, 0x14, 77, 1) * 5000
ways = [struct.pack("<IBI", (1 << 32) - 1, 0x18, 1) + bytes(1 << 16), tiny, bytes([255]) * (1 << 16)]
end = time.monotonic() + 8
while time.monotonic() < end:
    for way in ways:
        try:
            os.write(line, way)
        except BlockingIOError:
            time.sleep(0.001)
"""
"""Takes a copy of the descriptor of the agent, which is process 1, by `pidfd_getfd`."""


@asynccontextmanager
async def street(yard: Yard, *, attackers: int = 1) -> AsyncIterator[tuple[Neighbour, list[str]]]:
    """A server with a neighbour, and machines that will attack."""
    async with yard.life(leave="destroy"):
        made = [await yard.call("POST", ALL, {"template": "base"}, 201) for _ in range(1 + attackers)]
        neighbour = Neighbour(yard.http, made[0]["id"])
        await neighbour.live(30)
        yield neighbour, [each["id"] for each in made[1:]]


async def run(yard: Yard, box: str, line: str, status: int = 200) -> dict[str, Any]:
    """The outcome of an attack."""
    return await yard.call("POST", f"{ALL}/{box}/exec", {"cmd": line, "timeout_seconds": 60}, status)


def group_of(pid: int, controller: str) -> Path:
    """The folder of a machine's control group, of version 1 or 2."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return GROUPS / controller / path.lstrip("/")
        if not names and (GROUPS / "cgroup.controllers").exists():
            return GROUPS / path.lstrip("/")
    raise AssertionError(f"{pid} is in no group of {controller}")


def set_limit(pid: int, controller: str, first: tuple[str, int], second: tuple[str, int]) -> None:
    """Change a limit of a machine's group: its name and value in version 1 and in 2."""
    group = group_of(pid, controller)
    name, value = first if (group / first[0]).exists() else second
    (group / name).write_text(str(value))


async def bombs(yard: Yard, boxes: list[str]) -> list[asyncio.Task[Any]]:
    """A fork bomb in each, which goes on until its sandbox is deleted."""
    body = {"cmd": FORK_BOMB, "timeout_seconds": 60}
    attacks: list[asyncio.Task[Any]] = [yard.ask("POST", f"{ALL}/{box}/exec", body) for box in boxes]
    await asyncio.sleep(2)
    return attacks


async def delete(yard: Yard, boxes: list[str]) -> None:
    """They go at once, whatever they are at."""
    async with asyncio.timeout(10):
        await asyncio.gather(*(yard.call("DELETE", f"{ALL}/{box}", status=204) for box in boxes))


async def test_a_fork_bomb(yard: Yard) -> None:
    async with street(yard) as (neighbour, boxes):
        async with neighbour.attacked():
            attacks = await bombs(yard, boxes)
            await neighbour.sees_enough()
            for box in boxes:
                pid = yard.process_of(box)
                assert len(list(Path(f"/proc/{pid}/task").iterdir())) <= MAX_THREADS
                assert procfs.stats(pid).rss_bytes < (512 << 20) + OVERHEAD_BYTES
            await delete(yard, boxes)
        await asyncio.wait(attacks)
        assert neighbour.factor() < MOST, neighbour.said()


@pytest.mark.parametrize(
    ("peace_ms", "meanwhile_ms", "noticed"), [(2, 14, False), (2, 20, True), (8, 30, True)]
)
def test_a_quick_neighbour_that_is_held_up_is_noticed_too(
    peace_ms: float, meanwhile_ms: float, *, noticed: bool
) -> None:
    """What counts as peace at least must hide nothing."""
    peace, meanwhile = ([each / 1000] * ENOUGH for each in (peace_ms, meanwhile_ms))
    assert (times_as_long(peace, meanwhile) > MOST) is noticed


async def test_machines_that_were_given_more_than_their_share_are_noticed(yard: Yard) -> None:
    """The negative control: the groups prefer those who attack."""
    async with street(yard, attackers=3) as (neighbour, boxes):
        for box in boxes:
            set_limit(yard.process_of(box), "cpu", ("cpu.shares", 1 << 18), ("cpu.weight", 10_000))
        async with neighbour.attacked():
            attacks = await bombs(yard, boxes)
            await asyncio.sleep(10)
            await delete(yard, boxes)
        await asyncio.wait(attacks)
        assert neighbour.factor() > MOST, neighbour.said()


async def test_a_memory_hog_meets_the_end_of_its_own_memory(yard: Yard) -> None:
    async with street(yard) as (neighbour, (box,)):
        async with neighbour.attacked():
            while not neighbour.has_seen_enough:
                assert (await run(yard, box, HOG))["exit_code"] == 137
        assert procfs.stats(yard.process_of(box)).rss_bytes < (512 << 20) + OVERHEAD_BYTES
        assert (await run(yard, box, "echo still"))["stdout"] == "still\n"
        assert neighbour.factor() < MOST, neighbour.said()


async def test_a_machine_that_takes_more_of_the_host_than_it_may_is_ended(yard: Yard) -> None:
    """The limit is the host's, not the guest's: set below what the guest believes to have, it holds too."""
    async with street(yard) as (neighbour, (box,)):
        pid, most = yard.process_of(box), 200 << 20
        set_limit(pid, "memory", ("memory.limit_in_bytes", most), ("memory.max", most))
        await run(yard, box, HOG, status=500)
        await eventually(lambda: not Path(f"/proc/{pid}").exists())
        row = await yard.row(box)
        assert (row["status"], "SIGKILL" in row["cause"]) == ("failed", True)
        await neighbour.live(1)


async def test_a_disk_that_is_filled(yard: Yard) -> None:
    async with street(yard) as (neighbour, (box,)):
        async with neighbour.attacked():
            while not neighbour.has_seen_enough:
                filled = await run(yard, box, FILL)
                assert filled["stdout"] == "No space left on device\nstill\n"
        assert neighbour.factor() < MOST, neighbour.said()


async def test_a_flood_on_the_serial_port(yard: Yard) -> None:
    async with street(yard) as (neighbour, (box,)):
        console, sizes = yard.state / "v" / box / CONSOLE, []
        async with neighbour.attacked():
            flooding = asyncio.ensure_future(run(yard, box, SERIAL.format(10)))
            while not (flooding.done() and neighbour.has_seen_enough):
                if flooding.done():
                    flooding = asyncio.ensure_future(run(yard, box, SERIAL.format(10)))
                sizes.append(console.stat().st_size)
                await asyncio.sleep(0.05)
        assert LOG_LIMIT // 2 < max(sizes) < 2 * LOG_LIMIT
        assert any(later < sooner for sooner, later in pairwise(sizes)), "it was cut"
        assert neighbour.factor() < MOST, neighbour.said()


async def test_a_flood_while_no_server_looks_is_cut_by_the_next_one(yard: Yard) -> None:
    """The negative control too: it is the server that keeps the log short."""
    async with yard.life():
        box = (await yard.call("POST", ALL, {"template": "base"}, 201))["id"]
        await yard.call("POST", f"{ALL}/{box}/processes", {"cmd": SERIAL.format(60)}, 201)
    console = yard.state / "v" / box / CONSOLE
    async with asyncio.timeout(30):
        while console.stat().st_size < 2 * LOG_LIMIT:
            await asyncio.sleep(0.1)
    async with yard.life(leave="destroy"):
        async with asyncio.timeout(5):
            while console.stat().st_size > LOG_LIMIT:
                await asyncio.sleep(0.1)


def written(pid: int) -> int:
    """Bytes of files that a process has changed in memory, less those that it cut off before they reached a
    disk.
    """
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    told = {name: int(count) for name, count in (line.split(": ") for line in lines)}
    return told["write_bytes"] - told["cancelled_write_bytes"]


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_a_flood_on_the_serial_port_is_slow_and_hardly_reaches_the_disk(yard: Yard) -> None:
    """It is limited by what the machine pays for each byte, and cut off before the kernel writes it. While no
    server looks it would be written: the negative control.
    """
    async with yard.life():
        box = (await yard.call("POST", ALL, {"template": "base"}, 201))["id"]
        await yard.call("POST", f"{ALL}/{box}/processes", {"cmd": SERIAL.format(90)}, 201)
        pid, server = yard.process_of(box), server_pid(yard)
        console = yard.state / "v" / box / CONSOLE
        await eventually(lambda: console.stat().st_size > LOG_LIMIT // 2, deadline=30)
        flooded, kept, spent = written(pid), written(pid) + written(server), processor_seconds(server)
        begun = time.monotonic()
        await eventually(lambda: written(pid) - flooded > 4 * LOG_LIMIT, deadline=60)
        seconds, flooded = time.monotonic() - begun, written(pid) - flooded
        kept = written(pid) + written(server) - kept
        assert (processor_seconds(server) - spent) / seconds < 0.2
    assert flooded / seconds < MOST_OF_SERIAL
    assert kept < 2 * LOG_LIMIT, "however long it lasts"
    alone = written(pid)
    await eventually(lambda: console.stat().st_size > 3 * LOG_LIMIT, deadline=30)
    assert written(pid) - alone > LOG_LIMIT
    async with yard.life(leave="destroy"):
        pass


async def test_a_flood_of_commands(yard: Yard) -> None:
    async with street(yard) as (neighbour, (box,)):
        key = (await yard.call("POST", "/v1/me/tokens", {"name": "second"}))["token"]
        words = [f"{yard.http.base_url}{ALL}/{box}/exec".replace("//v1", "/v1"), f"{TOKEN},{key}"]
        before = procfs.stats(server_pid(yard)).rss_bytes
        async with neighbour.attacked():
            flooding = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", flood.__name__, *words, str(AT_ONCE)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            await neighbour.sees_enough()
            told, _ = await flooding.communicate(b"enough")
        came = json.loads(told)
        assert came.keys() <= {"200", "429", "503"}, "done, or to be asked again"
        assert came["200"] > 50
        assert came["429"] >= AT_ONCE - MAX_OTHERS
        assert procfs.stats(server_pid(yard)).rss_bytes < before + (32 << 20)
        assert neighbour.factor() < MOST, neighbour.said()


async def test_a_guest_that_speaks_for_its_agent(yard: Yard) -> None:
    """Root of a guest takes the line of its agent, and breaks the protocol on it in all ways."""
    async with street(yard) as (neighbour, (box,)):
        before = procfs.stats(server_pid(yard)).rss_bytes
        source = base64.b64encode(IMPOSTOR.encode()).decode()
        line = f"echo {source} | base64 -d > /root/i.py; exec python3 /root/i.py"
        async with neighbour.attacked():
            told = await run(yard, box, line, status=500)
            assert "broke its protocol" in told["error"]
            await neighbour.sees_enough()
        assert procfs.stats(server_pid(yard)).rss_bytes < before + (10 << 20)
        assert neighbour.factor() < MOST, neighbour.said()
        async with asyncio.timeout(40):
            while (await yard.ask("POST", f"{ALL}/{box}/exec", {"cmd": "true"})).status_code != 200:
                await asyncio.sleep(0.5)
        await delete(yard, [box])


def server_pid(yard: Yard) -> int:
    pid = holder(yard.state)
    assert pid is not None
    return pid
