"""Messages with descriptors over a connected Unix stream socket: four bytes of length, then JSON.

A policy may be larger than a packet that the kernel takes at once, hence a stream. Descriptors arrive no
later than the first byte of their message and in the order of the messages, so each message takes as many
from the line as it says.
"""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

MESSAGE_LIMIT = 1 << 22
"""Bytes; more than the largest policy with as many secrets as there may be, every sign of them escaped."""
DESCRIPTORS = 16
"""Most descriptors that one read takes."""

_LENGTH = 4
_ONE = array.array("i").itemsize


_Watch = Callable[..., None]
_Unwatch = Callable[[socket.socket], bool]


class Channel:
    """One end of the socket, which it owns. One task receives; sending is not to overlap."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._descriptors: deque[int] = deque()
        self._waiting: set[asyncio.Future[None]] = set()

    async def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send one message. OSError when the other end is gone, ValueError when it is too long."""
        if len(message) > MESSAGE_LIMIT:
            raise ValueError(f"a message of {len(message)} bytes is too long for the egress process")
        data = len(message).to_bytes(_LENGTH, "big") + message
        rest = memoryview(data)
        if descriptors:
            await self._ready(self._loop.add_writer, self._loop.remove_writer)
            rest = rest[socket.send_fds(self._socket, [data], list(descriptors)) :]
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)

    async def receive(self) -> bytes | None:
        """The next message; None when the other end has closed. ValueError for a length that nobody sends."""
        while True:
            size = int.from_bytes(self._received[:_LENGTH], "big")
            if size > MESSAGE_LIMIT:
                raise ValueError("a message is longer than any that is sent")
            if len(self._received) >= _LENGTH + size and len(self._received) >= _LENGTH:
                message = bytes(self._received[_LENGTH : _LENGTH + size])
                del self._received[: _LENGTH + size]
                return message
            if not await self._read():
                return None

    def take(self, count: int) -> list[socket.socket]:
        """The descriptors of the message that was received last, as sockets. ValueError when some lack."""
        if count > len(self._descriptors):
            raise ValueError(f"{count} descriptors were announced and {len(self._descriptors)} came")
        return [socket.socket(fileno=self._descriptors.popleft()) for _ in range(count)]

    def close(self) -> None:
        """Close the socket, and descriptors that nobody took. Who waits here is told: OSError."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)  # a closed socket never wakes anybody
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for ready in self._waiting:
            if not ready.done():
                ready.set_exception(OSError(errno.EBADF, "the channel was closed"))
        while self._descriptors:
            os.close(self._descriptors.popleft())

    async def _read(self) -> bool:
        await self._ready(self._loop.add_reader, self._loop.remove_reader)
        flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                1 << 16, socket.CMSG_SPACE(DESCRIPTORS * _ONE), flags
            )
        except (BlockingIOError, InterruptedError):
            return True
        except ConnectionResetError:
            return False
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i", payload[: len(payload) - len(payload) % _ONE])
                self._descriptors.extend(numbers)
        self._received += data
        return bool(data)

    async def _ready(self, add: _Watch, remove: _Unwatch) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        add(self._socket, _settle, ready)
        self._waiting.add(ready)
        try:
            await ready
        finally:
            self._waiting.discard(ready)
            if self._socket.fileno() >= 0:  # else `close` has done it, and the number is another's
                remove(self._socket)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
