"""One request to a service in a guest and its answer, over a connection that serves nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct

from pandastack.errors import PortClosed
from pandastack.model.guest import Connection
from pandastack.proxy.answer import Reader
from pandastack.proxy.head import Head, Headers

Body = AsyncIterator[bytes]


class Patience(Struct, frozen=True):
    """Seconds that a service may be silent."""

    answer: float = 300.0
    """From the request to the head of its answer."""
    piece: float = 3600.0
    """From one piece of its answer to the next."""


class Answer:
    """An answer whose body has yet to be read."""

    def __init__(self, connection: Connection, reader: Reader, patience: Patience) -> None:
        self._connection = connection
        self._reader = reader
        self._patience = patience

    @property
    def status(self) -> int:
        return self._reader.status

    @property
    def headers(self) -> Headers:
        return self._reader.headers

    @property
    def bodiless(self) -> bool:
        return self._reader.bodiless

    @property
    def length(self) -> int | None:
        """How long the body is, or would be, where the service says so."""
        value = next((value for name, value in self.headers if name == b"content-length"), None)
        return None if value is None else int(value)

    @property
    def rest(self) -> bytes:
        """What came behind the head of an answer that switches protocols."""
        return self._reader.rest

    @property
    def whole(self) -> bytes | None:
        """The body, if all of it is here already."""
        return b"".join(self._reader.pieces) if self._reader.complete else None

    async def body(self) -> Body:
        """Its pieces as they come. Errors: PortClosed when it is cut short."""
        reader = self._reader
        while True:
            while reader.pieces:
                yield reader.pieces.popleft()
            if reader.complete:
                return
            await _read(self._connection, reader, self._patience.piece)


@asynccontextmanager
async def exchanged(
    connection: Connection, head: Head, written: bytes, body: Body, patience: Patience
) -> AsyncIterator[Answer]:
    """Send a request (`written` is its head) and give the answer once its head is there.

    The body may go on while the answer comes; at the end of the block what is left of it is not sent. Errors:
    PortClosed, those of `body` and of the connection.
    """
    answer = Answer(connection, reader := Reader(head.method), patience)
    if not head.has_body:
        await connection.write(written)
        await _until_ready(connection, reader, patience)
        yield answer
        return
    try:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(_send(connection, head, written, body))
            await _until_ready(connection, reader, patience)
            yield answer
            sending.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _send(connection: Connection, head: Head, written: bytes, body: Body) -> None:
    await connection.write(written)
    async for piece in body:
        if piece:
            await connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if head.chunked else piece)
    if head.chunked:
        await connection.write(b"0\r\n\r\n")


async def _until_ready(connection: Connection, reader: Reader, patience: Patience) -> None:
    async with _deadline(patience.answer):
        while not reader.ready:
            _take(reader, await connection.read())


async def _read(connection: Connection, reader: Reader, seconds: float) -> None:
    async with _deadline(seconds):
        _take(reader, await connection.read())


def _take(reader: Reader, data: bytes) -> None:
    if data:
        reader.feed(data)
    else:
        reader.end()


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise PortClosed(f"upstream: the service has said nothing for {seconds:g} s") from None
