"""A kernel that speaks the real protocol, and does as its cells say, ill things too."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from pandastack.jupyter.messages import ConnectionFile, Speech
from pandastack.jupyter.zmtp import GREETING, Bounds, Oversized, Peer

KEY = "0123456789abcdef"
HUGE = 17 << 20
"""More than is kept of one message."""
FLOOD = 3000


class Socket:
    """One of its connections, as `Peer` takes them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def read(self) -> bytes:
        return await self._reader.read(1 << 16)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write_eof()


class FakeKernel:
    """Cells: `shout` writes, `show` has a result, `raise` fails, `wait` runs until it is interrupted, `deaf`
    does not hear either, `flood` shows without end, `huge` shows too much at once, `foreign` says what is not
    signed, `garbage` breaks its output off, `leave` hangs up.
    """

    def __init__(self) -> None:
        count = itertools.count()
        self._speech = Speech(KEY, lambda: f"kernel-{next(count)}")
        self._outputs: list[Peer] = []
        self._stop = asyncio.Event()
        self._sockets: list[Socket] = []
        self.cells: list[str] = []
        self.file: ConnectionFile

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeKernel]:
        async with AsyncExitStack() as stack:
            ports = []
            for kind in ("ROUTER", "PUB", "ROUTER"):
                server = await asyncio.start_server(self._welcome(kind), "127.0.0.1", 0)
                stack.push_async_callback(server.wait_closed)
                stack.callback(self._hang_up)
                stack.callback(server.close)
                ports.append(int(server.sockets[0].getsockname()[1]))
            shell, output, control = ports
            self.file = ConnectionFile(shell, output, 1, control, 1, KEY)
            yield self

    def _hang_up(self) -> None:
        for socket in self._sockets:
            socket.writer.transport.abort()

    def _welcome(self, kind: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            socket = Socket(reader, writer)
            self._sockets.append(socket)
            peer = Peer(socket, Bounds())
            try:
                await self._serve(kind, socket, peer)
            except (ConnectionError, OSError, Exception):  # the other end has left
                writer.transport.abort()

        return welcome

    async def _serve(self, kind: str, socket: Socket, peer: Peer) -> None:
        await peer._exactly(len(GREETING))
        property_ = b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind.encode()
        await socket.write(GREETING + frame(b"\x05READY" + property_, command=True))
        await peer._command()
        if kind == "PUB":
            await peer.receive()  # it subscribes
            self._outputs.append(peer)
        while True:
            parts = await peer.receive()
            assert not isinstance(parts, Oversized)
            heard = self._speech.hear(parts)
            assert heard is not None
            header = msgspec.json.decode(parts[2])
            content = msgspec.json.decode(heard.content)
            if heard.kind == "interrupt_request":
                self._stop.set()
                await self._say(peer, "interrupt_reply", {}, header)
            else:
                await self._work(peer, heard.kind, header, content)

    async def _work(self, peer: Peer, kind: str, header: dict[str, str], content: dict[str, str]) -> None:
        await self._publish("status", {"execution_state": "busy"}, header)
        reply: dict[str, object] = {"status": "ok", "execution_count": len(self.cells) + 1}
        if kind == "execute_request":
            self.cells.append(content["code"])
            reply.update(await self._cell(content["code"], header))
        await self._say(peer, kind.replace("request", "reply"), reply, header)
        await self._publish("status", {"execution_state": "idle"}, header)

    async def _cell(self, code: str, header: dict[str, str]) -> dict[str, object]:
        if code == "shout":
            await self._publish("stream", {"name": "stdout", "text": "out"}, header)
            await self._publish("stream", {"name": "stderr", "text": "err"}, header)
        elif code == "show":
            await self._publish("execute_result", {"data": {"text/plain": "42"}, "metadata": {}}, header)
        elif code == "raise":
            error = {"ename": "E", "evalue": "v", "traceback": ["E: v"]}
            await self._publish("error", error, header)
            return {"status": "error", **error}
        elif code in ("wait", "deaf"):
            self._stop.clear()
            await (asyncio.sleep(600) if code == "deaf" else self._stop.wait())
        elif code == "flood":
            for _ in range(FLOOD):
                await self._publish("stream", {"name": "stdout", "text": "x" * 10_000}, header)
        elif code == "huge":
            await self._publish("display_data", {"data": {"text/plain": "y" * HUGE}}, header)
        elif code == "foreign":
            other = Speech("another key", lambda: "foreign")
            _, parts = other.say("stream", {"name": "stdout", "text": "not me"})
            await self._outputs[-1].send((b"topic", *parts))
            await self._publish("stream", {"name": "stdout", "text": "not yours"}, {"msg_id": "another"})
        elif code == "garbage":
            for socket in self._sockets:
                await socket.write(b"\xff" * 100)
        elif code == "leave":
            self._hang_up()
        return {}

    async def _publish(self, kind: str, content: object, parent: dict[str, str]) -> None:
        await self._say(self._outputs[-1], kind, content, parent)

    async def _say(self, peer: Peer, kind: str, content: object, parent: dict[str, str]) -> None:
        _, parts = self._speech.say(kind, content)
        said = (parts[2], msgspec.json.encode(parent), b"{}", parts[5])
        await peer.send((b"topic", parts[0], self._speech._signature(said), *said))


def frame(body: bytes, *, command: bool) -> bytes:
    return bytes((command << 2, len(body))) + body
