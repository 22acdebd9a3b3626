"""The session's rules, against a peer that speaks the protocol by hand and breaks it at will."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from pandastack.errors import Conflict, GuestUnreachable, InvalidRequest, MachineError, RateLimited
from pandastack.host import frames
from pandastack.host.fields import Shape, Tag, decode_fields, encode_fields
from pandastack.host.frames import INITIAL_CREDIT, Data, Frame, FrameType, encode
from pandastack.host.link import (
    MAX_CONNECTIONS,
    MAX_OTHERS,
    UNREAD_BYTES,
    GateFacts,
    GateProof,
    GuestNetwork,
    Link,
)
from pandastack.host.operations import CloseMode, Op

from .peer import NONCE, line, opened, welcomed

pytestmark = pytest.mark.anyio

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


async def test_a_fresh_gate_and_its_proof() -> None:
    async with line() as (link, peer):
        link.announce(NONCE, msgspec.structs.replace(FACTS, fresh=True, hook_ms=500))
        await peer.frame(FrameType.HELLO)
        fields = decode_fields((await peer.frame(FrameType.GATE)).payload, GATE)
        assert (fields.number(Tag.FRESH), fields.number(Tag.HOOK_MS)) == (1, 500)
        peer.welcome(gate_open=True)
        proof: list[tuple[Tag, str | int]] = [
            *((Tag.ENTROPY_BYTES, 32), (Tag.BOOT_ID, "b" * 36), (Tag.CLOCK_STEP_US, 7), (Tag.CLOCK_BACK, 1)),
            *((Tag.HOOKS_RUN, 2), (Tag.HOOKS_FAILED, "one"), (Tag.HOOKS_FAILED, "two")),
        ]
        peer.send(encode(FrameType.GATED, 0, encode_fields([(Tag.ERRNO, 0), (Tag.SPENT_US, 70), *proof])))
        entry = await link.entered(deadline=5)
        assert not entry.adopted, "its gate was open, and has been passed anew"
        assert entry.proof == GateProof(
            entropy_bytes=32,
            boot_id="b" * 36,
            clock_step_us=-7,
            hooks_run=2,
            hooks_failed=("one", "two"),
            spent_us=70,
        )


@pytest.mark.parametrize(
    "told", [[(Tag.BOOT_ID, "b" * 37)], [(Tag.HOOKS_FAILED, "x")] * 66, [(Tag.HOOKS_FAILED, "x" * 256)]]
)
async def test_a_proof_that_is_too_long(told: list[tuple[Tag, str]]) -> None:
    async with line() as (link, peer):
        link.announce(NONCE, FACTS)
        peer.welcome()
        peer.send(encode(FrameType.GATED, 0, encode_fields([(Tag.ERRNO, 0), (Tag.SPENT_US, 70), *told])))
        with pytest.raises(MachineError, match="too long"):
            await link.entered(deadline=5)


async def test_freeze_and_thaw() -> None:
    async with welcomed() as (link, peer), asyncio.TaskGroup() as group:
        freeze = group.create_task(link.freeze(1500, deadline=5))
        assert (await peer.frame(FrameType.FREEZE)).payload == struct.pack("<I", 1500)
        peer.send(encode(FrameType.FROZEN, 0, encode_fields([(Tag.ERRNO, 0), (Tag.SPENT_US, 12)])))
        assert await freeze == 12
        thaw = group.create_task(link.thaw(deadline=5))
        await peer.frame(FrameType.THAW)
        peer.send(encode(FrameType.THAWED, 0, encode_fields([(Tag.ERRNO, 0)])))
        await thaw
        with pytest.raises(InvalidRequest, match="1 to 30000 ms"):
            await link.freeze(30_001, deadline=5)


async def test_a_disk_that_cannot_be_frozen() -> None:
    async with welcomed() as (link, peer):
        freeze = asyncio.ensure_future(link.freeze(1500, deadline=5))
        await peer.frame(FrameType.FREEZE)
        failed: list[tuple[Tag, str | int]] = [(Tag.ERRNO, errno.EBUSY), (Tag.MESSAGE, "freeze: busy")]
        peer.send(encode(FrameType.FROZEN, 0, encode_fields([*failed, (Tag.SPENT_US, 12)])))
        with pytest.raises(MachineError, match="cannot freeze its disk: freeze: busy"):
            await freeze


async def test_still_and_go() -> None:
    async with welcomed() as (link, peer), link.hold():
        still = asyncio.ensure_future(link.still(500, deadline=5))
        assert (await peer.frame(FrameType.STILL)).payload == struct.pack("<I", 500)
        peer.send(encode(FrameType.STILLED, 0, encode_fields([(Tag.ERRNO, 0), (Tag.CLOCK_NS, 12)])))
        assert await still == 12
        link.go()
        await peer.frame(FrameType.GO)
        with pytest.raises(InvalidRequest, match="1 to 900 ms"):
            await link.still(901, deadline=5)


async def test_programs_that_cannot_be_held() -> None:
    async with welcomed() as (link, peer):
        still = asyncio.ensure_future(link.still(500, deadline=5))
        await peer.frame(FrameType.STILL)
        failed: list[tuple[Tag, str | int]] = [(Tag.ERRNO, errno.EBUSY), (Tag.MESSAGE, "still: busy")]
        peer.send(encode(FrameType.STILLED, 0, encode_fields([*failed, (Tag.CLOCK_NS, 12)])))
        with pytest.raises(MachineError, match="do not stand still: still: busy"):
            await still


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


async def test_an_end_while_the_guest_still_takes_what_was_written() -> None:
    """The transport is gone by itself then, and must not be told to end once more."""
    ours, theirs = socket.socketpair()
    with theirs:
        link = await Link.connect(ours, deadline=1)
        for _ in range(64):
            link.open(Op.EXEC, bytes(60_000))
        assert link.unsent > 0
        closing = asyncio.ensure_future(link.close())
        await asyncio.sleep(0)
        theirs.setblocking(False)
        while await asyncio.get_running_loop().sock_recv(theirs, 1 << 20):
            pass
        await closing
        await link.close()


async def test_a_guest_that_has_too_much_to_do_is_asked_for_nothing_more() -> None:
    async with welcomed() as (link, peer):
        with ExitStack() as stack:
            for _ in range(MAX_OTHERS):
                stack.enter_context(link.open(Op.STAT))
            with pytest.raises(RateLimited, match="too much to do"):
                link.open(Op.EXEC)
            for _ in range(MAX_CONNECTIONS):
                stack.enter_context(link.open(Op.DIAL))
            with pytest.raises(RateLimited, match="too much to do"):
                link.open(Op.DIAL)
        stream = link.open(Op.STAT)
        while (await peer.receive()).stream != stream.id:
            pass


async def test_what_a_guest_does_not_take_in_is_bounded() -> None:
    async with welcomed() as (link, _):
        with pytest.raises(RateLimited, match="too much to do"):
            for _ in range(MAX_OTHERS):
                link.open(Op.EXEC, bytes(500_000))
        assert link.unsent < UNREAD_BYTES + 600_000
