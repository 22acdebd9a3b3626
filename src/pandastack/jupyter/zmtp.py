"""ZMTP 3.0 (rfc.zeromq.org/spec/23) over a connection to a guest: what DEALER and SUB need of it.

Whatever is at the other end may send what it likes. No length that it tells is believed: nothing is kept but
bytes that have come, and of a message no more than `Bounds` says. The rest of one that is larger is read and
dropped, and the conversation goes on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntFlag, StrEnum

from msgspec import Struct

from pandastack.errors import PortClosed
from pandastack.model.guest import Connection

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MECHANISM = slice(12, 32)
COMMAND_MOST = 4096
COMMANDS_MOST = 16
"""In a row: none is expected behind the handshake."""


class Kind(StrEnum):
    """What a socket of ours is, and by that the one at the other end."""

    DEALER = "DEALER"
    SUB = "SUB"


PEERS = {Kind.DEALER: frozenset((b"ROUTER",)), Kind.SUB: frozenset((b"PUB", b"XPUB"))}


class Flag(IntFlag):
    """The first byte of a frame."""

    MORE = 1
    LONG = 2
    COMMAND = 4


ALL_FLAGS = int(Flag.MORE | Flag.LONG | Flag.COMMAND)
COMMAND_WITH_MORE = int(Flag.COMMAND | Flag.MORE)


class Bounds(Struct, frozen=True):
    """How much of one message is kept, in bytes and parts."""

    size: int = 16 << 20
    parts: int = 64


class Oversized(Struct, frozen=True):
    """A message that was larger than what is kept, and how large it was, in bytes."""

    size: int


class Ended(PortClosed):
    """The other end has closed the connection."""


class Nonsense(PortClosed):
    """What came is not the protocol."""


class Peer:
    """A socket, connected. One task receives and one sends; whole messages alone."""

    def __init__(self, connection: Connection, bounds: Bounds) -> None:
        self._connection = connection
        self._bounds = bounds
        self._waiting = bytearray()

    @classmethod
    async def connect(cls, connection: Connection, kind: Kind, bounds: Bounds | None = None) -> Peer:
        """Greet, and say what we are. Errors: Ended, Nonsense."""
        peer = cls(connection, bounds or Bounds())
        await connection.write(GREETING)
        greeting = await peer._exactly(len(GREETING))
        if greeting[0] != GREETING[0] or greeting[9] & 1 == 0 or greeting[10] < 3:
            raise Nonsense("what answers there does not speak ZMTP 3")
        if greeting[MECHANISM] != GREETING[MECHANISM]:
            raise Nonsense("what answers there wants to be convinced by other means than none")
        await connection.write(_frame(Flag.COMMAND, _ready(kind)))
        name, properties = await peer._command()
        if name != b"READY" or properties.get(b"socket-type") not in PEERS[kind]:
            raise Nonsense("what answers there is another kind of socket")
        return peer

    async def subscribe(self) -> None:
        """Be sent everything that is published."""
        await self.send((b"\x01",))

    async def send(self, parts: Sequence[bytes]) -> None:
        """Send a message, as fast as it is taken."""
        last = len(parts) - 1
        frames = (_frame(Flag(0) if at == last else Flag.MORE, part) for at, part in enumerate(parts))
        await self._connection.write(b"".join(frames))

    async def receive(self) -> tuple[bytes, ...] | Oversized:
        """The next message. Errors: Ended, Nonsense, and those of the connection."""
        parts: list[bytes] = []
        size, kept, commands = 0, True, 0
        while True:
            flags, length = await self._head()
            if flags & Flag.COMMAND:
                commands += 1
                if parts or length > COMMAND_MOST or commands > COMMANDS_MOST:
                    raise Nonsense("a command where none is")
                await self._exactly(length)
                continue
            size += length
            kept = kept and size <= self._bounds.size and len(parts) < self._bounds.parts
            if kept:
                parts.append(await self._exactly(length))
            else:
                parts.clear()
                await self._skip(length)
            if not flags & Flag.MORE:
                return tuple(parts) if kept else Oversized(size)

    async def _head(self) -> tuple[Flag, int]:
        (flags,) = await self._exactly(1)
        if flags > ALL_FLAGS or flags & COMMAND_WITH_MORE == COMMAND_WITH_MORE:
            raise Nonsense("a frame that there is not")
        if flags & Flag.LONG:
            (length,) = struct.unpack(">Q", await self._exactly(8))
            if length >> 63:
                raise Nonsense("a frame that is longer than there is")
            return Flag(flags), length
        return Flag(flags), (await self._exactly(1))[0]

    async def _command(self) -> tuple[bytes, dict[bytes, bytes]]:
        """The next frame as a command: its name and properties, their names in lower case."""
        flags, length = await self._head()
        if not flags & Flag.COMMAND or not 0 < length <= COMMAND_MOST:
            raise Nonsense("a message before the handshake")
        body = await self._exactly(length)
        name, rest = body[1 : 1 + body[0]], body[1 + body[0] :]
        return name, _properties(rest) if name == b"READY" else {}

    async def _exactly(self, size: int) -> bytes:
        """`size` bytes, of which only those that have come are held."""
        while len(self._waiting) < size:
            self._waiting += await self._more()
        taken = bytes(memoryview(self._waiting)[:size])
        del self._waiting[:size]
        return taken

    async def _skip(self, size: int) -> None:
        while size > len(self._waiting):
            size -= len(self._waiting)
            self._waiting.clear()
            self._waiting += await self._more()
        del self._waiting[:size]

    async def _more(self) -> bytes:
        piece = await self._connection.read()
        if not piece:
            raise Ended("it closed the connection")
        return piece


def _ready(kind: Kind) -> bytes:
    name, value = b"Socket-Type", kind.encode()
    return b"\x05READY" + bytes((len(name),)) + name + struct.pack(">I", len(value)) + value


def _frame(flags: Flag, body: bytes) -> bytes:
    if len(body) > 255:
        return bytes((flags | Flag.LONG,)) + struct.pack(">Q", len(body)) + body
    return bytes((flags, len(body))) + body


def _properties(data: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        name_end = at + 1 + data[at]
        if name_end + 4 > len(data):
            raise Nonsense("a property that is cut off")
        (size,) = struct.unpack_from(">I", data, name_end)
        if size > len(data) - name_end - 4:
            raise Nonsense("a property that is cut off")
        found[data[at + 1 : name_end].lower()] = data[name_end + 4 : name_end + 4 + size]
        at = name_end + 4 + size
    return found
