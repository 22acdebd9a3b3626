"""Nothing of the host's is under way to the guest while a snapshot is taken."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from pandastack.errors import Conflict, GuestUnreachable
from pandastack.host.frames import Data, FrameType
from pandastack.host.guest import GuestLink
from pandastack.host.operations import CloseMode, Op
from pandastack.model.guest import Command

from .peer import opened, welcomed

pytestmark = pytest.mark.anyio


async def test_what_is_asked_within_a_hold_is_sent_behind_it_in_order() -> None:
    async with welcomed() as (link, peer):
        before = await opened(link, peer)
        async with link.hold():
            streams = [link.open(Op.READ) for _ in range(3)]
            before.close(CloseMode.KILL)
            ping = asyncio.ensure_future(link.ping(deadline=5))
            await peer.frame(FrameType.PING)
            await peer.nothing()
        for stream in streams:
            assert (await peer.frame(FrameType.OPEN)).stream == stream.id
        assert (await peer.frame(FrameType.CLOSE)).stream == before.id
        ping.cancel()


async def test_a_hold_keeps_content_with_its_writer() -> None:
    """Nothing of it is queued, whatever its size; it goes on at the end, whole and in order."""
    async with welcomed() as (link, peer), asyncio.TaskGroup() as group:
        stream = await opened(link, peer)
        async with link.hold():
            writing = group.create_task(stream.write(bytes(range(250)) * 1000))
            await peer.nothing()
            assert not (link.writable or writing.done())
            link.resume_writing()
            await peer.nothing()
        received = b""
        while len(received) < 250_000:
            item = await peer.receive()
            assert isinstance(item, Data)
            received += item.content
        assert received == bytes(range(250)) * 1000
        assert link.writable


async def test_requests_within_a_hold_are_bounded() -> None:
    async with welcomed() as (link, peer), link.hold():
        for _ in range(8):
            link.open(Op.EXEC, bytes(1_000_000))
        with pytest.raises(Conflict, match="being snapshotted"):
            for _ in range(2):
                link.open(Op.EXEC, bytes(1_000_000))
        await peer.nothing()


async def test_holds_take_turns() -> None:
    async with welcomed() as (link, _), asyncio.TaskGroup() as group:
        order = []

        async def hold(name: str) -> None:
            async with link.hold():
                order.append(name)
                await asyncio.sleep(0)
                order.append(name)

        for name in "ab":
            group.create_task(hold(name))
    assert order == ["a", "a", "b", "b"]


async def test_a_connection_lost_within_a_hold() -> None:
    async with welcomed() as (link, peer):
        stream = await opened(link, peer)
        with pytest.raises(GuestUnreachable):
            async with link.hold():
                link.open(Op.STAT)
                peer.close()
                await stream.receive()
        with pytest.raises(GuestUnreachable):
            link.open(Op.STAT)


async def test_a_hold_and_a_freeze_around_an_upload_to_the_real_agent(guest: GuestLink) -> None:
    """Within the hold the agent has taken in what was sent and gets no more; the upload arrives whole."""
    block = bytes(range(256)) * 4096
    async with guest.run(Command(process_id="count", argv=("sha256sum",), stdin=True)) as process:

        async def upload() -> None:
            for _ in range(8):
                await process.write(block)
            await process.close_stdin()

        async with asyncio.TaskGroup() as group:
            group.create_task(upload())
            for _ in range(5):
                async with guest.hold():
                    assert await guest.freeze(1000, deadline=5) >= 0
                    await guest.thaw(deadline=5)
        out = b"".join([piece.data async for piece in process.output()])
    assert out.split()[0].decode() == hashlib.sha256(block * 8).hexdigest()
