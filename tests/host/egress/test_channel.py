"""The channel by itself: whole messages with their descriptors, and an end that everybody hears of."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from pandastack.host.egress.channel import MESSAGE_LIMIT, Channel

pytestmark = pytest.mark.anyio

LONG = b"x" * MESSAGE_LIMIT
"""More than a socket holds."""


def pair() -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair()
    return Channel(ours), Channel(theirs)


async def test_a_long_message_comes_whole_with_its_descriptor() -> None:
    ours, theirs = pair()
    passed, kept = socket.socketpair()
    async with asyncio.TaskGroup() as group:
        group.create_task(ours.send(LONG, [passed.fileno()]))
        assert await theirs.receive() == LONG
    (arrived,) = theirs.take(1)
    with passed, kept, arrived:
        arrived.send(b"the same")
        assert kept.recv(16) == b"the same"
    ours.close()
    assert await theirs.receive() is None
    theirs.close()


async def receiving(channel: Channel) -> None:
    await channel.receive()


async def sending(channel: Channel) -> None:
    await channel.send(LONG)


@pytest.mark.parametrize("work", [receiving, sending])
async def test_who_waits_hears_of_its_end(work: Callable[[Channel], Awaitable[None]]) -> None:
    """And what has the number of its socket next is not taken for it."""
    ours, theirs = pair()
    waiting = asyncio.ensure_future(work(ours))
    await asyncio.sleep(0.05)
    ours.close()
    ours.close()
    after, other = pair()
    with pytest.raises(OSError, match="closed"):
        await asyncio.wait_for(waiting, 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(other.send(LONG))
        assert await asyncio.wait_for(after.receive(), 5) == LONG
    for each in (theirs, after, other):
        each.close()


async def test_descriptors_that_nobody_took_are_closed() -> None:
    ours, theirs = pair()
    reading, writing = os.pipe()
    await ours.send(b"one", [writing])
    os.close(writing)
    assert await theirs.receive() == b"one"
    theirs.close()
    assert os.read(reading, 1) == b""
    os.close(reading)
    ours.close()
