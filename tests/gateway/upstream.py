"""A service of a sandbox that writes down every byte it is sent, and answers with what a test has chosen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import h11
from websockets import Subprotocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

FINE = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine"

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


class Upstream:
    """What came, one entry a connection; `answer` is sent once a request is whole."""

    def __init__(self) -> None:
        self.port = 0
        self.answer: bytes | Callable[[Reader, Writer], Awaitable[None]] = FINE
        self.got: list[bytearray] = []
        self.writers: list[Writer] = []

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Take one connection to its end."""
        record = bytearray()
        self.got.append(record)
        self.writers.append(writer)
        try:
            if not isinstance(self.answer, bytes):
                await self.answer(reader, writer)
                return
            while not whole(record) and (piece := await reader.read(65_536)):
                record += piece
            writer.write(self.answer)
            await writer.drain()
            writer.close()
            while piece := await reader.read(65_536):
                record += piece
        except ConnectionError:
            return
        finally:
            writer.close()

    def requests(self) -> list[tuple[h11.Request, bytes]]:
        """All requests that came, as another parser than any of ours reads them."""
        return [found for record in self.got for found in parsed(bytes(record))]

    def only(self) -> tuple[h11.Request, bytes]:
        """The one request that came."""
        (request,) = self.requests()
        return request

    def header(self, name: str) -> list[str]:
        """The values of a header of the one request that came."""
        request, _ = self.only()
        return [value.decode() for known, value in request.headers if known == name.encode()]


def parsed(data: bytes) -> list[tuple[h11.Request, bytes]]:
    """Every request in the bytes of a connection; an error where there is anything else in them."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    found: list[tuple[h11.Request, bytes]] = []
    request, body = None, b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            request, body = event, b""
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            found.append((request, body))
            assert connection.trailing_data[0] == b"", "bytes behind a request"
            return found
        else:
            return found


def whole(data: bytes | bytearray) -> bool:
    """Whether a request is complete."""
    try:
        return bool(parsed(bytes(data)))
    except h11.RemoteProtocolError:
        return True


async def echo_websocket(reader: Reader, writer: Writer) -> None:
    """A service that speaks it, by a library that is on neither side of what is tested."""
    connection = ServerProtocol(subprotocols=[Subprotocol("chat")])
    while not connection.handshake_exc:
        data = await reader.read(65_536)
        if not data:
            return
        connection.receive_data(data)
        for event in connection.events_received():
            if isinstance(event, Request):
                connection.send_response(connection.accept(event))
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                connection.send_text(event.data)
            elif isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                connection.send_binary(event.data)
        for out in connection.data_to_send():
            writer.write(out)
        await writer.drain()


@asynccontextmanager
async def serving_upstream() -> AsyncIterator[Upstream]:
    """A service on a free port of the loopback device."""
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    async with server:
        yield upstream
        server.close()
        await asyncio.sleep(0.05)  # who was accepted by then is known
        for writer in upstream.writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


NONSENSE = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nx: ",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "an older one": b"<html>hello</html>",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nfine!",
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n",
    "unknown encoding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nfine",
    "a header with a space": b"HTTP/1.1 200 OK\r\nx : 1\r\ncontent-length: 4\r\n\r\nfine",
    "a folded header": b"HTTP/1.1 200 OK\r\nx: 1\r\n y\r\ncontent-length: 4\r\n\r\nfine",
    "a control character": b"HTTP/1.1 200 OK\r\nx: 1\x00\r\ncontent-length: 4\r\n\r\nfine",
    "an interim answer alone": b"HTTP/1.1 100 Continue\r\n\r\n",
    "many interim answers": b"HTTP/1.1 103 Early\r\n\r\n" * 40
    + b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "a switch": b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    "status 99": b"HTTP/1.1 099 Low\r\ncontent-length: 0\r\n\r\n",
    "status 600": b"HTTP/1.1 600 High\r\ncontent-length: 0\r\n\r\n",
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"x: 1\r\n" * 201 + b"\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\nx: " + b"y" * (1 << 20),
}
