"""A fork server that goes away: whoever gave it an order is told, and nobody else is."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

import pytest

from pandastack.errors import MachineError
from pandastack.host import jail
from pandastack.host.zygote import Zygote
from pandastack.host.zygotes import Zygotes
from pandastack.testing.fixtures import descriptors

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]

ENV = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}


@pytest.fixture
async def deaf(tmp_path: Path) -> AsyncIterator[tuple[Zygote, socket.socket]]:
    """A server with its end of the channel. Closing that is the first half of an end: the kernel closes a
    killed program's descriptors some time before its process is gone.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        server = Zygote(jail.spawn(["/bin/sleep", "60"], log=tmp_path / "log", cwd=tmp_path, env=ENV), ours)
        yield server, theirs
        await server.close()


async def test_an_order_that_does_not_arrive_is_told_once_and_leaves_no_fault_behind(
    deaf: tuple[Zygote, socket.socket], tmp_path: Path
) -> None:
    """What nobody waits for any more must not be told to the event loop, which takes it for a fault."""
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    server, theirs = deaf
    theirs.close()
    assert server.alive()
    with pytest.raises(MachineError, match="does not answer"):
        await server.fork("first", home=0, own=(), file_size_limit=1 << 20)
    await asyncio.sleep(0.05)  # the event loop hears that the channel is closed
    assert not server.alive()
    with pytest.raises(MachineError):
        await server.fork("second", home=0, own=(), file_size_limit=1 << 20)
    gc.collect()
    assert told == []


def fork_of(server: Zygote, home: Path) -> Coroutine[None, None, jail.Child]:
    return server.fork("first", home=0, own=(), file_size_limit=1 << 20)


async def test_who_waits_for_a_server_that_is_ended_is_told_at_once(
    deaf: tuple[Zygote, socket.socket], tmp_path: Path
) -> None:
    server, _ = deaf
    forking = asyncio.ensure_future(fork_of(server, tmp_path))
    await asyncio.sleep(0.01)
    await server.close()
    async with asyncio.timeout(1):
        with pytest.raises(MachineError, match="it was ended"):
            await forking


async def test_a_fork_that_two_have_given_up_is_ended_when_it_comes(
    deaf: tuple[Zygote, socket.socket], tmp_path: Path
) -> None:
    server, theirs = deaf
    born = jail.spawn(["/bin/sleep", "60"], log=tmp_path / "log", cwd=tmp_path, env=ENV)
    forking = asyncio.ensure_future(fork_of(server, tmp_path))
    for _ in range(2):
        await asyncio.sleep(0.01)
        forking.cancel()
    theirs.send(b"F %d" % born.pid)
    await asyncio.wait([forking])
    assert forking.cancelled() and not born.alive()
    born.close()


async def test_a_server_that_was_given_up_leaves_no_process_and_no_descriptor(
    deaf: tuple[Zygote, socket.socket], tmp_path: Path
) -> None:
    server, _ = deaf
    zygotes = Zygotes(tmp_path / "z")
    await zygotes.keep("key", server, on_disk=None)
    zygotes.abandon("key", server, "it does not answer")
    async with asyncio.timeout(5):
        while Path(f"/proc/{server.pid}").exists():  # also as a zombie
            await asyncio.sleep(0.01)
    await zygotes.close()


@pytest.mark.parametrize("words", [b"F", b"F x", b"\xff 1", b"F 1 2 3", b"D 1 x"])
async def test_one_that_tells_nonsense_or_sends_descriptors_is_given_up(
    deaf: tuple[Zygote, socket.socket], tmp_path: Path, words: bytes
) -> None:
    """It may be the copy of a machine that somebody has taken over."""
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    server, theirs = deaf
    forking = asyncio.ensure_future(fork_of(server, tmp_path))
    await asyncio.sleep(0.01)
    before = descriptors()
    socket.send_fds(theirs, [words], [theirs.fileno()] * 4)
    with pytest.raises(MachineError):
        await forking
    assert not server.alive()
    assert told == []
    assert len(descriptors()) <= len(before), "nothing was taken in"
