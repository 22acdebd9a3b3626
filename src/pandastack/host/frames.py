"""Frames of the guest protocol (contributing/guest-protocol.md): bytes in, values out, no I/O.

Decoding is strict, since the sender may be a tenant who took the guest over: whatever the protocol does not
allow raises MachineError, and memory is bounded by one frame. DATA is passed on as it comes, never collected.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

from msgspec import Struct

from pandastack.errors import MachineError, TooLarge

VERSION = 1
MAX_LENGTH = 1 << 20
"""The largest value of a frame's length field."""
INITIAL_CREDIT = 262_144
"""DATA bytes that either side may send on a new stream before it is granted more."""

HEAD = struct.Struct("<IBI")
_HEAD_REST = HEAD.size - 4  # what of the head the length field counts
_DATA_REST = _HEAD_REST + 1  # and the channel byte


class FrameType(IntEnum):
    """What a frame is."""

    HELLO = 0x01
    WELCOME = 0x02
    GATE = 0x03
    GATED = 0x04
    SEAL = 0x05
    SEALED = 0x06
    PING = 0x07
    PONG = 0x08
    FREEZE = 0x09
    FROZEN = 0x0A
    THAW = 0x0B
    THAWED = 0x0C
    STILL = 0x0D
    STILLED = 0x0E
    GO = 0x0F
    OPEN = 0x10
    OPENED = 0x11
    DATA = 0x12
    EOF = 0x13
    CREDIT = 0x14
    RESIZE = 0x15
    SIGNAL = 0x16
    ITEMS = 0x17
    DONE = 0x18
    CLOSE = 0x19


_GUEST_ONLY = {
    FrameType.WELCOME,
    FrameType.GATED,
    FrameType.SEALED,
    FrameType.PONG,
    FrameType.FROZEN,
    FrameType.THAWED,
    FrameType.STILLED,
    FrameType.OPENED,
    FrameType.ITEMS,
    FrameType.DONE,
}
_BOTH = {FrameType.DATA, FrameType.EOF, FrameType.CREDIT}

FROM_GUEST = frozenset(_GUEST_ONLY | _BOTH)
FROM_HOST = frozenset(set(FrameType) - _GUEST_ONLY)

_EXACT = {
    FrameType.HELLO: 20,
    FrameType.SEAL: 0,
    FrameType.SEALED: 0,
    FrameType.PING: 8,
    FrameType.PONG: 8,
    FrameType.FREEZE: 4,
    FrameType.THAW: 0,
    FrameType.STILL: 4,
    FrameType.GO: 0,
    FrameType.EOF: 1,
    FrameType.CREDIT: 4,
    FrameType.RESIZE: 4,
    FrameType.SIGNAL: 1,
    FrameType.CLOSE: 1,
}


_TYPES = {int(kind): kind for kind in FrameType}


class Frame(Struct, frozen=True, gc=False):
    """A whole frame of any type but DATA."""

    type: FrameType
    stream: int
    payload: bytes


class Data(Struct, frozen=True, gc=False):
    """A piece of the content of a DATA frame, at least one byte."""

    stream: int
    channel: int
    content: bytes


def malformed(what: str) -> MachineError:
    """The error of a peer that broke the protocol."""
    return MachineError(f"the guest's agent broke its protocol: {what}")


def encode(kind: FrameType, stream: int, payload: bytes = b"") -> bytes:
    """One frame; TooLarge when it passes the limit of the protocol."""
    length = _HEAD_REST + len(payload)
    if length > MAX_LENGTH:
        raise TooLarge(f"the request to the sandbox is too large: {length} bytes, at most {MAX_LENGTH}")
    return HEAD.pack(length, kind, stream) + payload


def data_head(stream: int, channel: int, size: int) -> bytes:
    """What goes before `size` bytes of content, so that the content itself is never copied."""
    return HEAD.pack(_DATA_REST + size, FrameType.DATA, stream) + bytes((channel,))


def find_welcome(received: bytes | bytearray, nonce: bytes) -> int:
    """Where the WELCOME that answers `nonce` begins; -1 while it has not arrived."""
    at = received.find(bytes((FrameType.WELCOME, 0, 0, 0, 0)) + nonce)
    return at - 4 if at >= 4 else -1


WELCOME_HEAD = HEAD.size + 16
"""Bytes that `find_welcome` must see together."""


def _unpack(chunk: bytes, at: int) -> tuple[int, int, int]:
    length, kind, stream = HEAD.unpack_from(chunk, at)
    return length, kind, stream


class Decoder:
    """Cuts a byte stream into frames. After an error it must not be fed again."""

    __slots__ = ("_allowed", "_channel", "_left", "_need", "_partial", "_stream")

    def __init__(self, allowed: frozenset[FrameType] = FROM_GUEST) -> None:
        self._allowed = allowed
        self._partial = bytearray()
        self._need = 0  # bytes that `_partial` needs before it is worth a look
        self._left = 0  # bytes still to come of the DATA frame that is passing through
        self._stream = 0
        self._channel = 0

    def feed(self, chunk: bytes) -> Iterator[Frame | Data]:
        """The frames that `chunk` completes. Exhaust it before the next call."""
        if self._partial:
            self._partial += chunk
            if len(self._partial) < self._need:
                return
            chunk, self._partial = bytes(self._partial), bytearray()
        at = min(self._left, len(chunk))
        if at:
            self._left -= at
            yield Data(self._stream, self._channel, chunk if at == len(chunk) else chunk[:at])
        while at < len(chunk):
            self._need = self._wanted(chunk, at)
            if len(chunk) - at < self._need:
                self._partial += memoryview(chunk)[at:]
                return
            length, kind, stream = _unpack(chunk, at)
            if kind != FrameType.DATA:
                end = at + 4 + length
                yield Frame(_TYPES[kind], stream, chunk[at + HEAD.size : end])
            else:
                start = at + HEAD.size + 1
                end = min(at + 4 + length, len(chunk))
                self._stream, self._channel = stream, chunk[start - 1]
                self._left = at + 4 + length - end
                if end > start:
                    yield Data(stream, self._channel, chunk[start:end])
            at = end

    def _wanted(self, chunk: bytes, at: int) -> int:
        """How many bytes from `at` on must be there to go on; checks the head once it is."""
        if len(chunk) - at < HEAD.size:
            return HEAD.size
        length, number, stream = _unpack(chunk, at)
        kind = _TYPES.get(number)
        if kind is None or kind not in self._allowed:
            raise malformed(f"a frame of type {number:#x}")
        if not _HEAD_REST <= length <= MAX_LENGTH:
            raise malformed(f"a frame of {length} bytes")
        if (stream == 0) != (kind < FrameType.OPEN):
            raise malformed(f"{kind.name} on stream {stream}")
        if length - _HEAD_REST != _EXACT.get(kind, length - _HEAD_REST):
            raise malformed(f"{kind.name} of {length} bytes")
        if kind is FrameType.DATA:
            if length <= _DATA_REST:
                raise malformed("DATA without content")
            return HEAD.size + 1
        return 4 + length
