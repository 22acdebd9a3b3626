"""The guest's end of a link, played by hand: it keeps the protocol, or breaks it where a test wants that."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pandastack.host import frames
from pandastack.host.fields import Tag, encode_fields
from pandastack.host.frames import FROM_HOST, Data, Frame, FrameType, encode
from pandastack.host.link import Link
from pandastack.host.operations import Op
from pandastack.host.stream import Stream

NONCE = bytes(range(16))


class Peer:
    """The guest's end of the line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = frames.Decoder(FROM_HOST)
        self._received: list[Frame | Data] = []

    async def receive(self) -> Frame | Data:
        """The host's next frame, within 5 seconds."""
        async with asyncio.timeout(5):
            while not self._received:
                chunk = await self._reader.read(1 << 16)
                if not chunk:
                    raise EOFError
                self._received += self._decoder.feed(chunk)
        return self._received.pop(0)

    async def frame(self, kind: FrameType) -> Frame:
        item = await self.receive()
        assert isinstance(item, Frame)
        assert item.type is kind
        return item

    async def nothing(self) -> None:
        """The host sends nothing for a moment."""
        if not self._received:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(self._reader.read(1), 0.05)
        assert not self._received

    async def ended(self) -> None:
        """The host has ended the connection."""
        async with asyncio.timeout(5):
            while await self._reader.read(1 << 16):
                pass

    def send(self, raw: bytes) -> None:
        self._writer.write(raw)

    def data(self, stream: int, content: bytes, channel: int = 1) -> None:
        self.send(frames.data_head(stream, channel, len(content)) + content)

    def welcome(self, *, gate_open: bool = False, nonce: bytes = NONCE) -> None:
        fields = encode_fields([(Tag.AGENT, "t"), (Tag.GATE_OPEN, int(gate_open)), (Tag.KERNEL, "6")])
        self.send(encode(FrameType.WELCOME, 0, nonce + struct.pack("<I", 1) + fields))

    def gated(self, number: int = 0, message: str = "") -> None:
        fields = encode_fields([(Tag.ERRNO, number), (Tag.MESSAGE, message), (Tag.SPENT_US, 70)])
        self.send(encode(FrameType.GATED, 0, fields))

    def done(self, stream: int, number: int = 0) -> None:
        self.send(encode(FrameType.DONE, stream, encode_fields([(Tag.ERRNO, number)])))

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def line() -> AsyncIterator[tuple[Link, Peer]]:
    ours, theirs = socket.socketpair()
    peer = Peer(*await asyncio.open_unix_connection(sock=theirs))
    link = await Link.connect(ours, deadline=5)
    try:
        yield link, peer
    finally:
        await link.close()
        peer.close()


@asynccontextmanager
async def welcomed() -> AsyncIterator[tuple[Link, Peer]]:
    async with line() as (link, peer):
        link.announce(NONCE)
        await peer.frame(FrameType.HELLO)
        peer.welcome(gate_open=True)
        await link.entered(deadline=5)
        yield link, peer


async def opened(link: Link, peer: Peer) -> Stream:
    stream = link.open(Op.READ)
    assert (await peer.frame(FrameType.OPEN)).stream == stream.id
    return stream
