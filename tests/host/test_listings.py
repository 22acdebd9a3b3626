"""What a guest may tell of its folders: bounded for each listing, and for all of them that are under way."""

from __future__ import annotations

import asyncio

import pytest

from pandastack.errors import FileRefused, RateLimited
from pandastack.host.fields import Tag, encode_fields
from pandastack.host.frames import FrameType, encode
from pandastack.host.guest import Deadlines, GuestLink
from pandastack.host.questions import MAX_TOLD_BYTES

from .peer import Peer, welcomed

pytestmark = pytest.mark.anyio

NAME = "n" * 200_000
ENTRY = encode_fields(
    [
        *((Tag.NAME, NAME), (Tag.KIND, "f"), (Tag.SIZE, 1), (Tag.MODE, 0o644)),
        *((Tag.MTIME_NS, 1), (Tag.UID, 0), (Tag.GID, 0)),
    ]
)
ITEMS = encode_fields([(Tag.ITEM, ENTRY)] * 4)
HALF = MAX_TOLD_BYTES // 2 // len(ITEMS) + 1
"""So many frames of a listing, and of another one as many, are more than may be under way."""


async def tell(peer: Peer, stream: int, frames: int = HALF) -> None:
    """A part of a listing."""
    for _ in range(frames):
        peer.send(encode(FrameType.ITEMS, stream, ITEMS))
        await asyncio.sleep(0.01)


async def test_too_much_at_once_may_be_asked_for_again() -> None:
    async with welcomed() as (link, peer):
        guest = GuestLink(link, Deadlines(), None, None)
        one, other = (asyncio.ensure_future(guest.list(f"/{name}")) for name in ("one", "other"))
        streams = [(await peer.frame(FrameType.OPEN)).stream for _ in range(2)]
        for stream in streams:
            await tell(peer, stream)
        with pytest.raises(RateLimited):
            await other
        peer.done(streams[0])
        assert len(await one) == HALF * 4
        again = asyncio.ensure_future(guest.list("/other"))
        await peer.frame(FrameType.CLOSE)
        stream = (await peer.frame(FrameType.OPEN)).stream
        await tell(peer, stream)
        peer.done(stream)
        assert len(await again) == HALF * 4


async def test_a_listing_that_is_too_large_by_itself_is_refused() -> None:
    async with welcomed() as (link, peer):
        guest = GuestLink(link, Deadlines(), None, None)
        asked = asyncio.ensure_future(guest.list("/large"))
        stream = (await peer.frame(FrameType.OPEN)).stream
        await tell(peer, stream, 2 * HALF)
        with pytest.raises(FileRefused):
            await asked
