"""The name in a TLS ClientHello, read as strictly as no server reads it.

Whatever could be understood in two ways tells no name: then the address decides.
"""

from __future__ import annotations

from msgspec import Struct

from pandastack.model.hostname import name_on_the_wire

HELLO_LIMIT = 1 << 16
"""Most bytes of a ClientHello, its records' heads included."""

HANDSHAKE = 22
CLIENT_HELLO = 1
SERVER_NAME = 0
ENCRYPTED_HELLO = 0xFE0D

UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"
ACCESS_DENIED = b"\x15\x03\x03\x00\x02\x02\x31"
INTERNAL_ERROR = b"\x15\x03\x03\x00\x02\x02\x50"

_RECORD_HEAD = 5
_RECORD_LIMIT = 1 << 14


class Hello(Struct, frozen=True):
    """What a ClientHello says in the clear. With `encrypted` there may be another one within, and the name is
    not who is really meant.
    """

    name: str | None = None
    encrypted: bool = False


NO_NAME = Hello()


class Incomplete(Exception):
    """More bytes are needed to tell."""


def read_hello(data: bytes) -> Hello:
    """What the first bytes of a connection say. Incomplete when there must come more; NO_NAME for whatever is
    no ClientHello, is malformed or too long.
    """
    try:
        return _hello(_Cursor(_handshake(data)))
    except _Malformed:
        return NO_NAME


class _Malformed(Exception):
    """It is not what it should be."""


class _Cursor:
    """Reads from the left, and never over the end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) < count:
            raise _Malformed
        self.at += count
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def block(self, size: int) -> _Cursor:
        """A part whose length stands before it in `size` bytes."""
        return _Cursor(self.take(self.number(size)))

    @property
    def done(self) -> bool:
        return self.at == len(self.data)


def _handshake(data: bytes) -> bytes:
    """The body of the ClientHello, put together from its records."""
    message = bytearray()
    at = 0
    while len(message) < 4 or len(message) < _message_size(message):
        head = data[at : at + _RECORD_HEAD]
        _check_record(head)
        at += _RECORD_HEAD
        end = at + int.from_bytes(head[3:5], "big")
        if end > HELLO_LIMIT:
            raise _Malformed
        message += data[at:end]
        _message_size(message)
        if len(data) < end:
            raise Incomplete
        at = end
    if len(message) != _message_size(message):
        raise _Malformed
    return bytes(message[4:])


def _message_size(message: bytearray) -> int:
    """Of all of it, as far as it is known."""
    size = 4 + int.from_bytes(message[1:4].ljust(3, b"\0"), "big")
    if (message and message[0] != CLIENT_HELLO) or size > HELLO_LIMIT:
        raise _Malformed
    return size


def _check_record(head: bytes) -> None:
    if head[:1] not in (b"", bytes([HANDSHAKE])) or head[1:2] not in (b"", b"\x03"):
        raise _Malformed
    if len(head) < _RECORD_HEAD:
        raise Incomplete
    if not 0 < int.from_bytes(head[3:5], "big") <= _RECORD_LIMIT:
        raise _Malformed


def _hello(body: _Cursor) -> Hello:
    body.take(2 + 32)
    body.block(1)  # session
    body.block(2)  # cipher suites
    body.block(1)  # compression
    if body.done:
        return NO_NAME
    extensions = body.block(2)
    if not body.done:
        raise _Malformed
    found: dict[int, _Cursor] = {}
    while not extensions.done:
        kind = extensions.number(2)
        if kind in found:
            raise _Malformed
        found[kind] = extensions.block(2)
    name = _server_name(found[SERVER_NAME]) if SERVER_NAME in found else None
    return Hello(name, ENCRYPTED_HELLO in found)


def _server_name(extension: _Cursor) -> str | None:
    names = extension.block(2)
    if names.number(1) != 0:
        raise _Malformed
    raw = names.block(2).data
    if not names.done or not extension.done:
        raise _Malformed
    return name_on_the_wire(raw)
