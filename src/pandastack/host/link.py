"""The session with a guest's agent: one connection, the greeting and the gate, and the streams within.

Everything that waits ends when the connection does: with the reason why it was lost, never by hanging. The
link is not reconnected; whoever wants the guest again makes a new one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self, cast

from msgspec import Struct

from pandastack.errors import GuestUnreachable, InvalidRequest, MachineError, PandastackError, RateLimited
from pandastack.host import frames, operations
from pandastack.host.fields import Fields, Tag, decode_fields, encode_fields, environment
from pandastack.host.frames import Data, Frame, FrameType, malformed
from pandastack.host.hold import Hold
from pandastack.host.operations import CloseMode, Op
from pandastack.host.stream import Stream, again, patience

REPEAT_SECONDS = 1.5
"""How often an unanswered HELLO is sent again."""
CLOSE_SECONDS = 1.0
"""How long a close waits for the guest to take what was written."""
BURST = 1000
"""Frames that are taken in one go: a guest that sends more at once must not hold up the others."""
BREATH_SECONDS = 0.005
"""What the others get before the next burst of such a guest."""

FREEZE_MS_MAX, STILL_MS_MAX = 30_000, 900
"""How long a disk may stay frozen, and the programs of a guest stand still."""
MAX_CONNECTIONS, MAX_OTHERS = 256, 128
"""So many streams are open at a time, as the guest allows: those of DIAL, and all others."""
UNREAD_BYTES = 4 << 20
"""Beyond so much that the guest has not taken in it is asked for nothing more: what waits for it is ours."""
BOOT_ID_LENGTH, MAX_HOOKS, MAX_NAME = 36, 65, 255
"""What the agent may tell of a gate: the length of an id, a number of hooks, bytes of a name."""


class GuestNetwork(Struct, frozen=True, kw_only=True):
    """The guest's network device, in the notation of the gate (`10.0.2.15/24`)."""

    address: str
    gateway: str
    dns: str
    mac: str


class GateFacts(Struct, frozen=True, kw_only=True):
    """What makes a machine one of its own: entropy of 32 to 512 bytes, a machine id of 32 hex digits."""

    entropy: bytes
    clock_ns: int
    """Wall clock at the moment of `announce` or `gate`, nanoseconds since 1970."""
    hostname: str
    machine_id: str
    env: dict[str, str] = {}
    network: GuestNetwork | None = None
    fresh: bool = False
    """A new life of a machine whose gate may be open: it is closed and passed again."""
    hook_ms: int | None = None
    """What the guest's own hooks get together, 1 to 60,000 milliseconds; the agent's default is 2,000."""


class GateProof(Struct, frozen=True, kw_only=True):
    """What passing the gate did, in the words of the agent."""

    entropy_bytes: int
    boot_id: str
    """Empty when the agent has no machine of its own."""
    clock_step_us: int
    """How far the clock was set; negative when it was set back."""
    hooks_run: int
    """Hooks that ended well."""
    hooks_failed: tuple[str, ...]
    spent_us: int


class Entry(Struct, frozen=True):
    """How the agent let us in. `adopted`: its gate was open already, so nothing was changed in the guest."""

    agent: str
    kernel: str
    adopted: bool
    spent_us: int
    proof: GateProof | None = None
    """None when nothing was passed: a greeting alone, or an adopted guest."""


class Link(asyncio.Protocol):
    """One session. Of one task or many; made by `connect`, ended by `close`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._decoder: frames.Decoder | None = None
        self._unwelcomed = bytearray()
        self._nonce = b""
        self._streams: dict[int, Stream] = {}
        self._connections: set[int] = set()
        self._last_stream = 0
        self._pings = 0
        self._answers: dict[tuple[FrameType, bytes], asyncio.Future[bytes]] = {}
        self._repeat: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._hold = Hold(self._let_go)
        self._paused = False
        self.lost: PandastackError | None = None
        """Why nothing can be asked any more."""

    @classmethod
    async def connect(cls, where: Path | socket.socket, *, deadline: float) -> Self:
        """Connect to the machine's socket, or take a connected one.

        GuestUnreachable after `deadline` seconds.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadline):
                if isinstance(where, socket.socket):
                    _, link = await loop.create_unix_connection(cls, sock=where)
                else:
                    _, link = await loop.create_unix_connection(cls, str(where))
        except OSError as error:  # TimeoutError is one of them
            reason = errno.errorcode.get(error.errno or 0, f"no answer within {deadline:g} s")
            raise GuestUnreachable(f"cannot connect to the guest's agent: {reason}") from error
        return link

    # -- greeting and gate

    def announce(self, nonce: bytes, facts: GateFacts | None = None) -> None:
        """Write HELLO, and GATE when there are facts, at once: the guest need not run yet.

        They are repeated until the guest answers; `entered` waits for that. `nonce` is 16 fresh random bytes.
        """
        self._nonce, self._decoder = nonce, None
        self._expect(FrameType.WELCOME)
        if facts:
            self._expect(FrameType.GATED)
        self._greet(facts, self._loop.time())

    async def entered(self, *, deadline: float) -> Entry:
        """The agent's answer to `announce`.

        GuestUnreachable when it did not come within `deadline` seconds, MachineError when the gate failed.
        """
        async with patience(deadline):
            welcome = _welcomed(await self._answer(FrameType.WELCOME))
            adopted, proof = bool(welcome.number(Tag.GATE_OPEN)), None
            if (FrameType.GATED, b"") in self._answers:
                proof = _passed(await self._answer(FrameType.GATED))
                adopted = proof is None
        agent, kernel = welcome.text(Tag.AGENT), welcome.text(Tag.KERNEL)
        return Entry(agent, kernel, adopted, proof.spent_us if proof else 0, proof)

    async def gate(self, facts: GateFacts, *, deadline: float) -> int:
        """Open the gate after a greeting; the microseconds that it took in the guest, 0 if it was open."""
        proof = _passed(await self._ask(FrameType.GATED, _gate_frame(facts, 0), deadline))
        return proof.spent_us if proof else 0

    async def seal(self, *, deadline: float) -> None:
        """Close the gate: the machine is about to become a snapshot."""
        await self._ask(FrameType.SEALED, frames.encode(FrameType.SEAL, 0), deadline)

    async def ping(self, *, deadline: float) -> None:
        """Return when the agent has answered; GuestUnreachable after `deadline` seconds."""
        self._pings += 1
        token = self._pings.to_bytes(8, "little")
        await self._ask(FrameType.PONG, frames.encode(FrameType.PING, 0, token), deadline, token)

    # -- around a snapshot

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Write nothing within the block but the session's own frames; what streams send waits, in order."""
        async with self._hold.held():
            yield

    async def freeze(self, ttl_ms: int, *, deadline: float) -> int:
        """Flush and freeze the guest's disk for at most `ttl_ms`; the microseconds that it took."""
        if not 1 <= ttl_ms <= FREEZE_MS_MAX:
            raise InvalidRequest(f"a freeze lasts 1 to {FREEZE_MS_MAX} ms, not {ttl_ms}")
        question = frames.encode(FrameType.FREEZE, 0, ttl_ms.to_bytes(4, "little"))
        frozen = decode_fields(await self._ask(FrameType.FROZEN, question, deadline), operations.FROZEN)
        _check_outcome(frozen, "the guest cannot freeze its disk")
        return frozen.number(Tag.SPENT_US)

    async def thaw(self, *, deadline: float) -> None:
        """Let the guest write to its disk again; fine when nothing is frozen."""
        question = frames.encode(FrameType.THAW, 0)
        thawed = decode_fields(await self._ask(FrameType.THAWED, question, deadline), operations.THAWED)
        _check_outcome(thawed, "the guest cannot thaw its disk")

    async def still(self, ttl_ms: int, *, deadline: float) -> int:
        """Let nothing but the agent run, for at most `ttl_ms`; when that began by the guest's clock."""
        if not 1 <= ttl_ms <= STILL_MS_MAX:
            raise InvalidRequest(f"programs stand still for 1 to {STILL_MS_MAX} ms, not {ttl_ms}")
        question = frames.encode(FrameType.STILL, 0, ttl_ms.to_bytes(4, "little"))
        stilled = decode_fields(await self._ask(FrameType.STILLED, question, deadline), operations.STILLED)
        _check_outcome(stilled, "the guest's programs do not stand still")
        return stilled.number(Tag.CLOCK_NS)

    def go(self) -> None:
        """Let all of them run again."""
        self._check()
        self._transport.write(frames.encode(FrameType.GO, 0))

    # -- streams

    def open(self, op: Op, payload: bytes = b"", *, on_leave: CloseMode = CloseMode.KILL) -> Stream:
        """Ask for an operation. Use it as `with`: leaving before the end closes it by `on_leave`.

        RateLimited for a guest that has not taken in what it was asked before, or not done it.
        """
        self._check()
        connections = len(self._connections)
        full = (
            connections >= MAX_CONNECTIONS
            if op is Op.DIAL
            else len(self._streams) - connections >= MAX_OTHERS
        )
        if full or self.unsent > UNREAD_BYTES:
            raise RateLimited("the sandbox has too much to do at once: try again, or end some of it")
        request = frames.encode(FrameType.OPEN, self._last_stream + 1, bytes((op,)) + payload)
        self._hold.admit(len(request))
        self._last_stream += 1
        stream = self._streams[self._last_stream] = Stream(self, self._last_stream, on_leave)
        if op is Op.DIAL:
            self._connections.add(stream.id)
        self.send(request)
        return stream

    def send(self, *parts: bytes | memoryview) -> None:
        """Hand one frame of a stream to the transport, or let it wait for the end of a hold."""
        self._check()
        if self._hold.active:
            self._hold.keep(b"".join(parts))
        elif len(parts) == 1:
            self._transport.write(parts[0])
        else:
            self._transport.writelines(parts)

    def forget(self, stream: Stream) -> None:
        """What still comes for this stream is ignored."""
        self._streams.pop(stream.id, None)
        self._connections.discard(stream.id)

    @property
    def writable(self) -> bool:
        """Whether content may be sent now."""
        return not (self._paused or self._hold.active)

    @property
    def unsent(self) -> int:
        """Bytes that were sent and that the guest has not taken yet."""
        return self._transport.get_write_buffer_size()

    # -- the end

    async def close(self) -> None:
        """End the connection: what still waits fails, processes in the guest go on. Twice is fine."""
        self._fail(GuestUnreachable("the connection to the guest's agent has been closed"))
        self._transport.close()
        try:
            await asyncio.wait((self._ended,), timeout=CLOSE_SECONDS)
        finally:
            if not self._ended.done():  # else it is gone, and asyncio's may not be told once more
                self._transport.abort()

    async def wait_lost(self) -> None:
        """Return when the connection has ended; a cancelled waiter disturbs nobody."""
        await asyncio.shield(self._ended)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, chunk: bytes) -> None:
        """Take what came; a guest that breaks the protocol loses the connection."""
        if self._decoder is None:
            chunk = self._find_welcome(chunk)
        if self._decoder is not None:
            self._take_burst(self._decoder.feed(chunk))

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more will come."""
        reason = f": {exc}" if exc else ""
        self._fail(GuestUnreachable(f"the guest's agent has closed the connection{reason}"))
        if not self._ended.done():
            self._ended.set_result(None)

    def pause_writing(self) -> None:
        """The guest does not read for now."""
        self._paused = True

    def resume_writing(self) -> None:
        """The guest reads again."""
        self._paused = False
        self._wake_writers()

    # -- inside

    def _let_go(self, held: Iterable[bytes]) -> None:
        if not self.lost:
            self._transport.writelines(held)
            self._wake_writers()

    def _wake_writers(self) -> None:
        for stream in self._streams.values():
            stream.wake_writer()

    async def _ask(self, answer: FrameType, question: bytes, deadline: float, token: bytes = b"") -> bytes:
        """Send a frame of the session, held or not, and wait for its answer."""
        self._expect(answer, token)
        self._transport.write(question)
        async with patience(deadline):
            return await self._answer(answer, token)

    def _greet(self, facts: GateFacts | None, since: float) -> None:
        now = self._loop.time()
        hello = frames.encode(FrameType.HELLO, 0, self._nonce + frames.VERSION.to_bytes(4, "little"))
        self._check()
        self._transport.write(hello + _gate_frame(facts, now - since) if facts else hello)
        self._repeat = self._loop.call_later(REPEAT_SECONDS, self._greet, facts, since)

    def _find_welcome(self, chunk: bytes) -> bytes:
        """What follows from WELCOME on; an older session's answers before it are dropped."""
        self._unwelcomed += chunk
        at = frames.find_welcome(self._unwelcomed, self._nonce) if self._nonce else -1
        if at < 0:
            del self._unwelcomed[: -frames.WELCOME_HEAD]
            return b""
        rest = bytes(self._unwelcomed[at:])
        self._unwelcomed.clear()
        self._decoder = frames.Decoder()
        return rest

    def _take_burst(self, items: Iterator[Frame | Data]) -> None:
        taken = 0
        try:
            for item in items:
                self._take(item)
                taken += 1
                if taken == BURST:
                    self._transport.pause_reading()
                    self._loop.call_later(BREATH_SECONDS, self._take_rest, items)
                    return
        except MachineError as error:
            self._fail(error)
            self._transport.abort()

    def _take_rest(self, items: Iterator[Frame | Data]) -> None:
        if not self.lost:
            self._transport.resume_reading()
            self._take_burst(items)

    def _take(self, item: Frame | Data) -> None:
        stream = self._streams.get(item.stream)
        if isinstance(item, Data):
            if stream:
                stream.take_data(item)
        elif item.stream == 0:
            self._take_answer(item)
        elif stream:
            stream.take(item)
            if stream.over:
                self.forget(stream)

    def _take_answer(self, frame: Frame) -> None:
        """Only what is waited for counts: a repeated HELLO is answered twice."""
        if frame.type is FrameType.WELCOME:
            self._stop_repeating()
        token = frame.payload if frame.type is FrameType.PONG else b""
        answer = self._answers.get((frame.type, token))
        if answer and not answer.done():
            answer.set_result(frame.payload)

    def _expect(self, kind: FrameType, token: bytes = b"") -> None:
        self._check()
        self._answers[kind, token] = self._loop.create_future()

    async def _answer(self, kind: FrameType, token: bytes = b"") -> bytes:
        try:
            return await self._answers[kind, token]
        finally:
            del self._answers[kind, token]

    def _check(self) -> None:
        if self.lost:
            raise again(self.lost)

    def _fail(self, error: PandastackError) -> None:
        """The first reason is the one that everybody is told."""
        if self.lost:
            return
        self.lost = error
        self._stop_repeating()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(again(error))
                answer.exception()  # asked here, so that one nobody waits for is not reported by asyncio
        for stream in tuple(self._streams.values()):
            stream.fail(error)
        self._streams.clear()

    def _stop_repeating(self) -> None:
        if self._repeat:
            self._repeat.cancel()
            self._repeat = None


def _gate_frame(facts: GateFacts, elapsed: float) -> bytes:
    """The GATE of these facts, sent `elapsed` seconds after their clock was read."""
    network = facts.network
    fields: list[tuple[Tag, bytes | str | int | None]] = [
        (Tag.ENTROPY, facts.entropy),
        (Tag.CLOCK_NS, facts.clock_ns + int(elapsed * 1e9)),
        (Tag.HOSTNAME, facts.hostname),
        (Tag.MACHINE_ID, facts.machine_id),
        (Tag.FRESH, 1 if facts.fresh else None),
        (Tag.HOOK_MS, facts.hook_ms),
        *((Tag.ENV, pair) for pair in environment(facts.env)),
    ]
    if network:
        fields += [
            (Tag.NET_ADDRESS, network.address),
            (Tag.NET_GATEWAY, network.gateway),
            (Tag.NET_DNS, network.dns),
            (Tag.NET_MAC, network.mac),
        ]
    return frames.encode(FrameType.GATE, 0, encode_fields(fields))


def _welcomed(payload: bytes) -> Fields:
    version = int.from_bytes(payload[16:20], "little")
    if version != frames.VERSION:
        raise malformed(f"version {version}")
    return decode_fields(payload[20:], operations.WELCOME)


def _passed(payload: bytes) -> GateProof | None:
    """What a GATED proves; None when the gate was open before."""
    gated = decode_fields(payload, operations.GATED)
    if gated.number(Tag.ERRNO) == errno.EALREADY:
        return None
    _check_outcome(gated, "the guest's restore gate failed")
    step, failed = gated.number(Tag.CLOCK_STEP_US), gated.many(Tag.HOOKS_FAILED)
    boot_id = gated.text(Tag.BOOT_ID)
    if len(boot_id) > BOOT_ID_LENGTH or len(failed) > MAX_HOOKS or any(len(it) > MAX_NAME for it in failed):
        raise malformed("a proof of the gate that is too long")
    return GateProof(
        entropy_bytes=gated.number(Tag.ENTROPY_BYTES),
        boot_id=boot_id,
        clock_step_us=-step if gated.number(Tag.CLOCK_BACK) else step,
        hooks_run=gated.number(Tag.HOOKS_RUN),
        hooks_failed=tuple(name.decode(errors="replace") for name in failed),
        spent_us=gated.number(Tag.SPENT_US),
    )


def _check_outcome(answer: Fields, failed: str) -> None:
    number = answer.number(Tag.ERRNO)
    if number:
        raise MachineError(f"{failed}: {answer.text(Tag.MESSAGE) or os.strerror(number)}")
