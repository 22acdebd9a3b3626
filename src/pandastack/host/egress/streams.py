"""Two ends of a relayed connection: bytes in order, half-close, back-pressure; in the clear or in TLS.

Nothing is kept in between but the part that is being passed on: a guest that opens every connection it may,
to servers that read nothing, holds `PART` bytes of this process with each of them. A read that is given up
loses nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

PART = 1 << 14
UNSENT = 1 << 17
"""So many bytes may wait in the kernel beyond what is on its way already."""


class Stream(Protocol):
    """One connected end."""

    async def read(self) -> bytes:
        """The next bytes; none at the end. OSError."""

    async def write(self, data: bytes) -> None:
        """Send, and wait while the other end takes nothing. OSError."""

    async def end(self) -> None:
        """Nothing more will be written. OSError."""

    def close(self) -> None:
        """Close at once: what was written still arrives."""


class Plain:
    """A connected socket, which it owns."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        self._socket = connection
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        """See `Stream`."""
        while True:
            try:
                return self._socket.recv(PART)
            except (BlockingIOError, InterruptedError):
                await self._ready(self._loop.add_reader, self._loop.remove_reader)

    async def write(self, data: bytes) -> None:
        """See `Stream`."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except (BlockingIOError, InterruptedError):
                await self._ready(self._loop.add_writer, self._loop.remove_writer)

    async def end(self) -> None:
        """See `Stream`."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """See `Stream`."""
        self._socket.close()

    async def _ready(self, add: Callable[..., None], remove: Callable[[socket.socket], bool]) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        add(self._socket, _settle, ready)
        try:
            await ready
        finally:
            remove(self._socket)


class Source:
    """What a stream brings, with a part of it held back to be looked at first."""

    def __init__(self, stream: Stream) -> None:
        self.held = b""
        self._stream = stream

    async def more(self) -> bool:
        """Hold more; False at the end."""
        data = await self._stream.read()
        self.held += data
        return bool(data)

    def take(self, count: int | None = None) -> bytes:
        """Let go of the first bytes held, of all without `count`."""
        taken = self.held if count is None else self.held[:count]
        self.held = self.held[len(taken) :]
        return taken


class Tls:
    """TLS over a stream, the first bytes of which may have been read already: they are held by `source`.

    It is the server, or with `server_name` the client, who has the server prove that it is called so.
    """

    def __init__(
        self, source: Source, below: Stream, context: ssl.SSLContext, server_name: str | None
    ) -> None:
        self._source = source
        self._below = below
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._received, self._to_send, server_side=server_name is None, server_hostname=server_name
        )
        self._turn = asyncio.Lock()

    async def handshake(self) -> None:
        """Agree with the other end. OSError (of which SSLError is one) when that fails."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._exchange()
            except ssl.SSLError:
                await self._flush()  # the other end is told why
                raise
        await self._flush()

    async def read(self) -> bytes:
        """See `Stream`."""
        while True:
            try:
                return self._tls.read(PART)
            except ssl.SSLWantReadError:
                await self._exchange()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    async def write(self, data: bytes) -> None:
        """See `Stream`."""
        self._tls.write(data)
        await self._flush()

    async def end(self) -> None:
        """See `Stream`: says so within TLS, and half-closes."""
        with suppress(ssl.SSLError):  # the other end has not said so yet, or never will
            self._tls.unwrap()
        await self._flush()
        await self._below.end()

    def close(self) -> None:
        """See `Stream`."""
        self._below.close()

    async def _exchange(self) -> None:
        await self._flush()
        if self._source.held or await self._source.more():
            self._received.write(self._source.take())
        else:
            self._received.write_eof()

    async def _flush(self) -> None:
        async with self._turn:  # both directions write, and records must not change places
            data = self._to_send.read()
            if data:
                await self._below.write(data)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
