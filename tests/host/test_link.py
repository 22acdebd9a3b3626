"""The session's rules, against a peer that speaks the protocol by hand and breaks it at will."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pandastack.errors import Conflict, GuestUnreachable, MachineError
from pandastack.host import frames
from pandastack.host.fields import Shape, Tag, decode_fields, encode_fields
from pandastack.host.frames import FROM_HOST, INITIAL_CREDIT, Data, Frame, FrameType, encode
from pandastack.host.link import GateFacts, GuestNetwork, Link
from pandastack.host.operations import CloseMode, Op
from pandastack.host.stream import Stream

pytestmark = pytest.mark.anyio

NONCE = bytes(range(16))
FACTS = GateFacts(
    entropy=bytes(32),
    clock_ns=1_700_000_000_000_000_000,
    hostname="box",
    machine_id="0" * 32,
    env={"A": "1", "B": "x=y"},
    network=GuestNetwork(address="10.0.2.15/24", gateway="10.0.2.2", dns="10.0.2.3", mac="52:54:00:12:34:56"),
)
GATE = Shape(optional=frozenset(Tag), repeated=frozenset({Tag.ENV}))


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both event loops that the server may run on."""
    return "asyncio", {"use_uvloop": request.param}


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


# -- greeting and gate


async def test_hello_and_gate_are_on_the_line_before_the_guest_runs() -> None:
    async with line() as (link, peer):
        link.announce(NONCE, FACTS)
        hello = await peer.frame(FrameType.HELLO)
        gate = await peer.frame(FrameType.GATE)
        assert hello.payload == NONCE + struct.pack("<I", 1)
        fields = decode_fields(gate.payload, GATE)
        assert 0 <= fields.number(Tag.CLOCK_NS) - FACTS.clock_ns < 1e9
        assert fields.text(Tag.HOSTNAME) == "box"
        assert fields.text(Tag.NET_ADDRESS) == "10.0.2.15/24"
        assert fields.many(Tag.ENV) == [b"A=1", b"B=x=y"]
        peer.welcome()
        peer.gated()
        entry = await link.entered(deadline=5)
        assert (entry.agent, entry.kernel, entry.adopted, entry.spent_us) == ("t", "6", False, 70)


async def test_what_an_older_session_left_on_the_line_is_dropped() -> None:
    async with line() as (link, peer):
        peer.data(7, bytes(100_000))
        peer.send(encode(FrameType.DONE, 7, encode_fields([(Tag.ERRNO, 0)]))[:-3])
        peer.welcome(nonce=bytes(16))
        link.announce(NONCE, FACTS)
        peer.welcome()
        peer.gated()
        assert (await link.entered(deadline=5)).spent_us == 70


async def test_an_open_gate_means_an_adopted_guest() -> None:
    async with line() as (link, peer):
        link.announce(NONCE, FACTS)
        peer.welcome(gate_open=True)
        peer.gated(errno.EALREADY, "open")
        assert (await link.entered(deadline=5)).adopted


async def test_hello_is_repeated_with_a_later_clock_and_answered_twice_without_harm() -> None:
    async with line() as (link, peer):
        link.announce(NONCE, FACTS)
        clocks = []
        for _ in range(2):
            await peer.frame(FrameType.HELLO)
            gate = await peer.frame(FrameType.GATE)
            clocks.append(decode_fields(gate.payload, GATE).number(Tag.CLOCK_NS))
        assert 1.4e9 < clocks[1] - clocks[0] < 3e9
        for number in (0, errno.EALREADY):
            peer.welcome()
            peer.gated(number)
        assert not (await link.entered(deadline=5)).adopted
        stream = await opened(link, peer)
        peer.done(stream.id)
        assert isinstance(await stream.answer(5), Frame)


async def test_a_guest_that_never_answers_is_unreachable() -> None:
    async with line() as (link, _):
        link.announce(NONCE, FACTS)
        with pytest.raises(GuestUnreachable, match=r"did not answer within 0\.05 s"):
            await link.entered(deadline=0.05)


async def test_a_failed_gate_says_why() -> None:
    async with line() as (link, peer):
        link.announce(NONCE, FACTS)
        peer.welcome()
        peer.gated(errno.EPERM, "clock: not permitted")
        with pytest.raises(MachineError, match="restore gate failed: clock: not permitted"):
            await link.entered(deadline=5)


async def test_another_version_is_refused() -> None:
    async with line() as (link, peer):
        link.announce(NONCE)
        peer.send(encode(FrameType.WELCOME, 0, NONCE + struct.pack("<I", 2)))
        with pytest.raises(MachineError, match="version 2"):
            await link.entered(deadline=5)


async def test_ping_seal_and_gate_again() -> None:
    async with welcomed() as (link, peer), asyncio.TaskGroup() as group:
        pings = [group.create_task(link.ping(deadline=5)) for _ in range(2)]
        tokens = [(await peer.frame(FrameType.PING)).payload for _ in pings]
        for token in (b"unasked!", *reversed(tokens)):
            peer.send(encode(FrameType.PONG, 0, token))
        sealed = group.create_task(link.seal(deadline=5))
        await peer.frame(FrameType.SEAL)
        peer.send(encode(FrameType.SEALED, 0))
        await sealed
        gate = group.create_task(link.gate(FACTS, deadline=5))
        await peer.frame(FrameType.GATE)
        peer.gated()
        assert await gate == 70


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(GuestUnreachable, match="ENOENT"):
        await Link.connect(tmp_path / "none.sock", deadline=1)


# -- flow control


async def test_the_guest_is_granted_what_was_read_and_no_more() -> None:
    async with welcomed() as (link, peer):
        stream = await opened(link, peer)
        for _ in range(4):
            peer.data(stream.id, bytes(INITIAL_CREDIT // 4))
        await peer.nothing()
        read = 0
        while read < INITIAL_CREDIT // 2:
            item = await stream.answer(5)
            assert isinstance(item, Data)
            read += len(item.content)
        granted = await peer.frame(FrameType.CREDIT)
        assert int.from_bytes(granted.payload, "little") == read


async def test_we_send_what_we_were_granted_and_no_more() -> None:
    async with welcomed() as (link, peer), asyncio.TaskGroup() as group:
        stream = await opened(link, peer)
        writing = group.create_task(stream.write(bytes(INITIAL_CREDIT + 1000)))
        received = 0
        while received < INITIAL_CREDIT:
            item = await peer.receive()
            assert isinstance(item, Data)
            received += len(item.content)
        await peer.nothing()
        assert not writing.done()
        peer.send(encode(FrameType.CREDIT, stream.id, struct.pack("<I", 999)))
        rest = await peer.receive()
        assert isinstance(rest, Data)
        assert len(rest.content) == 999
        peer.done(stream.id)
        await writing


async def test_a_stream_that_waits_holds_up_no_other() -> None:
    async with welcomed() as (link, peer):
        unread = await opened(link, peer)
        peer.data(unread.id, bytes(INITIAL_CREDIT))
        other = await opened(link, peer)
        peer.data(other.id, b"through")
        item = await other.answer(5)
        assert isinstance(item, Data)
        assert item.content == b"through"


async def test_a_peer_that_does_not_read_costs_no_memory() -> None:
    async with welcomed() as (link, peer):
        streams = [await opened(link, peer) for _ in range(20)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(stream.write(bytes(INITIAL_CREDIT))) for stream in streams]
            await asyncio.sleep(0.05)
            assert not link.writable
            assert link.unsent < 4 * INITIAL_CREDIT
            for task in tasks:
                task.cancel()


async def test_single_bytes_cost_no_more_than_large_pieces() -> None:
    async with welcomed() as (link, peer):
        stream = await opened(link, peer)
        for _ in range(20_000):
            peer.data(stream.id, b"o", 1)
            peer.data(stream.id, b"e", 2)
        peer.done(stream.id)
        await stream.done()
        pieces, read = 0, b""
        while isinstance(item := await stream.receive(), Data):
            pieces += 1
            read += item.content
        assert sorted(read) == sorted(b"oe" * 20_000)
        assert pieces < 2_000


# -- what a broken or hostile guest can do


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (lambda n: encode(FrameType.OPEN, n, b"\x05"), "type 0x10"),
        (lambda n: encode(FrameType.OPENED, n) * 2, "a second OPENED"),
        (lambda n: encode(FrameType.EOF, n, b"\x01") * 2, "a second EOF"),
        (lambda n: frames.data_head(n, 0, 1) + b"x", "channel 0"),
        (lambda n: frames.data_head(n, 3, 1) + b"x", "channel 3"),
        (lambda n: frames.data_head(n, 1, INITIAL_CREDIT + 1) + bytes(INITIAL_CREDIT + 1), "without credit"),
        (lambda n: b"\xff" * 9, "type 0xff"),
    ],
)
async def test_breaking_the_protocol_ends_the_session(raw: Callable[[int], bytes], words: str) -> None:
    async with welcomed() as (link, peer):
        stream = await opened(link, peer)
        peer.send(raw(stream.id))
        with pytest.raises(MachineError, match=words):
            await stream.done()
        with pytest.raises(MachineError, match=words):
            link.open(Op.STAT)
        await peer.ended()


async def test_a_flood_of_frames_leaves_others_their_turn() -> None:
    async with welcomed() as (link, peer):
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.001)
                turns += 1

        other = asyncio.ensure_future(count())
        peer.send(encode(FrameType.CREDIT, 99, bytes(4)) * 20_000)
        stream = await opened(link, peer)
        peer.done(stream.id)
        await asyncio.wait_for(stream.done(), 10)
        other.cancel()
        assert turns >= 20, "a burst is at most a thousand frames"


async def test_frames_for_streams_that_are_over_are_ignored() -> None:
    async with welcomed() as (link, peer):
        stream = await opened(link, peer)
        stream.close(CloseMode.KILL)
        assert (await peer.frame(FrameType.CLOSE)).payload == b"\x01"
        peer.data(stream.id, bytes(INITIAL_CREDIT))
        peer.data(99, b"never opened")
        peer.done(stream.id)
        with pytest.raises(Conflict, match="has been closed"):
            await stream.receive()
        other = await opened(link, peer)
        assert other.id == stream.id + 1, "no number is given twice"


async def test_items_that_nobody_reads_are_bounded() -> None:
    async with welcomed() as (link, peer):
        stream = await opened(link, peer)
        for _ in range(8):
            peer.send(encode(FrameType.ITEMS, stream.id, bytes(1_000_000)))
        peer.done(stream.id)
        await stream.done()
        assert stream.overflowed
        read = [await stream.receive() for _ in range(6)]
        assert [item.type for item in read if isinstance(item, Frame)] == [FrameType.ITEMS] * 5 + [
            FrameType.DONE
        ]


@pytest.mark.parametrize("by_guest", [True, False])
async def test_everything_that_waits_ends_with_the_connection(by_guest: bool) -> None:
    async with welcomed() as (link, peer):
        reader, writer = await opened(link, peer), await opened(link, peer)
        waiting = [
            asyncio.ensure_future(waiter)
            for waiter in (
                reader.receive(),
                reader.done(),
                writer.write(bytes(INITIAL_CREDIT + 1)),
                link.ping(deadline=60),
                link.seal(deadline=60),
            )
        ]
        await asyncio.sleep(0.05)
        if by_guest:
            peer.close()
        else:
            await link.close()
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        assert [type(outcome) for outcome in outcomes] == [GuestUnreachable] * 5
        with pytest.raises(GuestUnreachable):
            await link.ping(deadline=1)
        await link.close()
