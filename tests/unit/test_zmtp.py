"""ZMTP against other ends that speak it well, badly and with ill will."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastack.errors import PortClosed
from pandastack.jupyter.zmtp import GREETING, Bounds, Ended, Kind, Nonsense, Oversized, Peer

READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER"
SMALL = Bounds(size=1000, parts=4)
ENDLESS = 10_000_000
"""More bytes than are ever held."""


class Script:
    """A connection whose other end says what was written before, in pieces of some size."""

    def __init__(self, said: bytes, piece: int = 1 << 16) -> None:
        self._said = said
        self._piece = piece
        self._at = 0
        self.heard = b""

    async def read(self) -> bytes:
        piece = self._said[self._at : self._at + self._piece]
        self._at += len(piece)
        return piece

    async def write(self, data: bytes) -> None:
        self.heard += data

    async def end(self) -> None:
        """Nothing more is said."""


def frame(body: bytes, *, more: bool = False, command: bool = False, long: bool = False) -> bytes:
    flags = more | command << 2
    if long or len(body) > 255:
        return bytes((flags | 2,)) + struct.pack(">Q", len(body)) + body
    return bytes((flags, len(body))) + body


def message(parts: Sequence[bytes]) -> bytes:
    return b"".join(frame(part, more=at < len(parts) - 1) for at, part in enumerate(parts))


HELLO = GREETING + frame(READY, command=True)


async def heard(said: bytes, piece: int, count: int, bounds: Bounds = SMALL) -> list[object]:
    script = Script(HELLO + said, piece)
    peer = await Peer.connect(script, Kind.DEALER, bounds)
    return [await peer.receive() for _ in range(count)]


parts = st.lists(st.binary(max_size=300), min_size=1, max_size=6)


@given(messages=st.lists(parts, max_size=5), piece=st.integers(1, 700))
def test_messages_come_whole_however_they_are_cut(messages: list[list[bytes]], piece: int) -> None:
    said = b"".join(map(message, messages))
    for one, told in zip(messages, asyncio.run(heard(said, piece, len(messages))), strict=True):
        size = sum(map(len, one))
        if size > SMALL.size or len(one) > SMALL.parts:
            assert told == Oversized(size)
        else:
            assert told == tuple(one)


@given(said=st.binary(max_size=400), piece=st.integers(1, 50), behind=st.booleans())
def test_no_bytes_do_any_harm(said: bytes, piece: int, behind: bool) -> None:
    script = Script(HELLO + said if behind else said, piece)

    async def converse() -> None:
        peer = await Peer.connect(script, Kind.SUB if not behind else Kind.DEALER, SMALL)
        while True:
            await peer.receive()

    with pytest.raises(PortClosed):
        asyncio.run(converse())


async def refusal(said: bytes, kind: Kind = Kind.DEALER) -> type[BaseException]:
    with pytest.raises(PortClosed) as caught:
        await (await Peer.connect(Script(said), kind, SMALL)).receive()
    return type(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", Ended),
        (GREETING[:20], Ended),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(64), Nonsense),
        (GREETING[:10] + b"\x02" + GREETING[11:], Nonsense),
        (GREETING.replace(b"NULL\0", b"PLAIN"), Nonsense),
        (GREETING + frame(b"hello"), Nonsense),
        (GREETING + frame(b"\x05READY", command=True), Nonsense),
        (GREETING + frame(b"\x05ERROR\x03bad", command=True), Nonsense),
        (GREETING + frame(READY.replace(b"ROUTER", b"DEALER"), command=True), Nonsense),
        (GREETING + frame(READY[:-3], command=True), Nonsense),
        (HELLO + b"\x06" + b"\xff" * 8, Nonsense),
        (HELLO + b"\x08\x00", Nonsense),
        (HELLO + b"\x02" + b"\xff" * 8, Nonsense),
        (HELLO + frame(b"a", more=True) + frame(b"\x04PING", command=True), Nonsense),
        (HELLO + frame(b"\x04PING", command=True) * 100, Nonsense),
    ],
)
async def test_what_is_not_the_protocol_ends_it(said: bytes, error: type[BaseException]) -> None:
    assert await refusal(said) is error


class Endless(Script):
    """Goes on for ever, and never ends a message."""

    def __init__(self, head: bytes) -> None:
        super().__init__(HELLO + head)
        self.sent = 0

    async def read(self) -> bytes:
        if piece := await super().read():
            return piece
        if self.sent > ENDLESS:
            return b""
        self.sent += 1 << 16
        return bytes(1 << 16)


@pytest.mark.anyio
async def test_a_length_is_not_believed_and_its_bytes_are_not_kept() -> None:
    script = Endless(b"\x02" + struct.pack(">Q", 1 << 62))
    peer = await Peer.connect(script, Kind.DEALER, SMALL)
    with pytest.raises(Ended):
        await peer.receive()
    assert script.sent > ENDLESS
    assert len(peer._waiting) <= 1 << 16


@pytest.mark.anyio
async def test_of_a_message_without_end_no_more_is_kept_than_is_allowed() -> None:
    script = Script(HELLO + frame(b"x" * 90, more=True) * 100_000 + frame(b"end") + message([b"next"]))
    peer = await Peer.connect(script, Kind.DEALER, SMALL)
    assert await peer.receive() == Oversized(90 * 100_000 + 3)
    assert await peer.receive() == (b"next",)


@pytest.mark.anyio
async def test_what_is_said_is_greeting_handshake_subscription_and_frames() -> None:
    script = Script(GREETING + frame(READY.replace(b"\x06ROUTER", b"\x03PUB"), command=True))
    peer = await Peer.connect(script, Kind.SUB)
    await peer.subscribe()
    await peer.send((b"a", b"b" * 300))
    assert script.heard[:64] == GREETING
    assert script.heard[64:] == (
        frame(b"\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB", command=True)
        + frame(b"\x01")
        + frame(b"a", more=True)
        + frame(b"b" * 300)
    )
