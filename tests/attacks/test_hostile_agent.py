"""Guests whose agent is hostile, on a real server: what that costs it, and who else notices."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from pandastack.cli.state import holder
from pandastack.host.agent import checkout_root, source_digest
from pandastack.host.paths import Cache
from pandastack.host.questions import MAX_TOLD_BYTES
from pandastack.testing.fixtures import LeakCheck, eventually
from tests.api.test_kills import ALL, PROCESSES, server
from tests.attacks import hostile_agent
from tests.attacks.neighbour import MOST, TRIED_AGAIN, Neighbour
from tests.descriptors import sockets

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180), TRIED_AGAIN]

MOST_BYTES = 10 << 20
"""By which the server may grow."""
OUTPUT_BYTES = 1 << 20
CHOICE = """#!/bin/sh
misdeed=$(cat {folder}/misdeed)
[ "$misdeed" = none ] && exec {agent} "$@"
exec {python} -I {program} "$misdeed" "$@"
"""
"""Stands in the place of the agent: what a machine does is said before it is made."""


class Ward:
    """A server, a neighbour that behaves, and machines that do not."""

    def __init__(self, home: Path, http: httpx2.AsyncClient) -> None:
        self._home = home
        self.http = http
        process = holder(home / "state")
        assert process is not None
        self.pid = process

    async def machine(self, misdeed: str) -> str:
        """The id of a sandbox whose agent does this once it is asked for something."""
        (self._home / "misdeed").write_text(misdeed)
        answer = await self.http.post(ALL, json={"template": "base"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def gone(self, sandbox_id: str) -> None:
        """Delete one."""
        assert (await self.http.delete(f"{ALL}/{sandbox_id}")).status_code == 204

    async def exec(self, sandbox_id: str, **more: object) -> str:
        """What a command comes to: nothing, or the code of an error."""
        body = {"cmd": "true", **more}
        return said(await self.http.post(f"{ALL}/{sandbox_id}/exec", json=body, timeout=90))

    async def list(self, sandbox_id: str) -> str:
        """What a listing comes to."""
        path = {"path": "/"}
        return said(await self.http.get(f"{ALL}/{sandbox_id}/fs/dir", params=path, timeout=90))

    @asynccontextmanager
    async def quiet(self, most: int = MOST_BYTES) -> AsyncIterator[None]:
        """What happens within the block costs the server at most so many bytes, no descriptor, and its
        neighbour no time.
        """
        neighbour = Neighbour(self.http, await self.machine("none"))
        await neighbour.live(50)
        held, before = self._sockets(), self.forget_peak()
        async with neighbour.attacked():
            yield
            await neighbour.sees_enough()
        grown = self.peak() - before
        assert grown <= most, f"it has grown by {grown >> 20} MiB"
        assert neighbour.factor() < MOST, neighbour.said()
        await eventually(lambda: self._sockets() <= held)
        await self.gone(neighbour.id)

    def forget_peak(self) -> int:
        """Resident bytes of the server now; `peak` begins with them."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self._status("VmRSS")

    def peak(self) -> int:
        """The most resident bytes since."""
        return self._status("VmHWM")

    def _sockets(self) -> int:
        """How many Unix sockets the server holds: the lines to its agents are such."""
        held = sockets(self.pid)
        lines = Path(f"/proc/{self.pid}/net/unix").read_text().splitlines()[1:]
        return len(held & {f"socket:[{line.split()[6]}]" for line in lines})

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def said(answer: httpx2.Response) -> str:
    return "" if answer.is_success else str(answer.json()["code"])


@pytest.fixture
async def ward(leak_check: LeakCheck, tmp_path: Path, agent_binary: Path) -> AsyncIterator[Ward]:
    checkout = checkout_root()
    assert checkout is not None
    choice = Cache(tmp_path / "cache").agent(source_digest(checkout / "guest"))
    choice.parent.mkdir(parents=True)
    words = {"folder": tmp_path, "agent": agent_binary, "python": sys.executable}
    choice.write_text(CHOICE.format(**words, program=hostile_agent.__file__))
    choice.chmod(0o755)
    settings = {
        **PROCESSES,
        "PANDASTACK_CACHE_DIR": str(tmp_path / "cache"),
        "PANDASTACK_MAX_OUTPUT_BYTES": str(OUTPUT_BYTES),
    }
    async with server(tmp_path, leave="destroy", settings=settings) as http:
        yield Ward(tmp_path, http)


SECONDS = 3.0
BROKEN, UNREACHABLE, BUSY = "machine.failed", "sandbox.guest_unreachable", "rate_limit.api"


@pytest.mark.parametrize(
    ("misdeed", "code"),
    [("length", BROKEN), ("credit", BROKEN), ("ids", ""), ("tiny", ""), ("leave", UNREACHABLE)],
)
async def test_what_breaks_the_protocol_costs_nobody_anything(ward: Ward, misdeed: str, code: str) -> None:
    box = await ward.machine(misdeed)
    async with ward.quiet():
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            assert await ward.exec(box) == code
    await ward.gone(box)


async def test_who_keeps_silent_or_says_a_byte_at_a_time(ward: Ward) -> None:
    boxes = [await ward.machine(misdeed) for misdeed in ("half", "drip", "deaf")]
    async with ward.quiet():
        assert await asyncio.gather(*(ward.exec(box) for box in boxes)) == [UNREACHABLE] * 3
    for box in boxes:
        await ward.gone(box)


async def test_requests_that_nobody_takes_in_are_refused_before_they_fill_the_memory(ward: Ward) -> None:
    box = await ward.machine("deaf")
    waiting = asyncio.ensure_future(ward.exec(box))
    await asyncio.sleep(0.5)
    large = []
    async with ward.quiet(2 * MOST_BYTES):
        for _ in range(60):
            large.append(asyncio.ensure_future(ward.exec(box, env={"WORDS": "x" * 500_000})))
            await asyncio.sleep(0.05)
        codes = await asyncio.gather(*large)
    assert set(codes) == {UNREACHABLE, BUSY}
    assert codes.count(UNREACHABLE) < 12
    assert await waiting == UNREACHABLE
    await ward.gone(box)


async def test_single_bytes_of_output_cost_no_more_than_others(ward: Ward) -> None:
    box = await ward.machine("stderr")
    async with ward.quiet():
        assert await ward.exec(box, timeout_seconds=1) == "command.timeout"
    await ward.gone(box)


@pytest.mark.parametrize(
    ("misdeed", "code", "most"),
    [("items", "file.refused", MAX_TOLD_BYTES + MOST_BYTES), ("crowd", BROKEN, MOST_BYTES)],
)
async def test_a_listing_without_end(ward: Ward, misdeed: str, code: str, most: int) -> None:
    box = await ward.machine(misdeed)
    async with ward.quiet(most):
        for _ in range(2):
            assert await ward.list(box) == code
    await ward.gone(box)


async def test_what_the_server_does_keep_is_seen(ward: Ward) -> None:
    """The negative control of the memory: the input of a command is in it as a whole."""
    box = await ward.machine("none")
    with pytest.raises(AssertionError, match="it has grown by"):
        async with ward.quiet():
            assert await ward.exec(box, stdin="x" * 15_000_000) == ""


async def test_a_server_that_stands_still_is_noticed(ward: Ward) -> None:
    """The negative control of the neighbour."""
    with pytest.raises(AssertionError, match="meanwhile"):
        async with ward.quiet():
            for _ in range(8):
                os.kill(ward.pid, signal.SIGSTOP)
                await asyncio.sleep(0.5)  # many times what a busy machine keeps a command waiting
                os.kill(ward.pid, signal.SIGCONT)
                await asyncio.sleep(0.1)
