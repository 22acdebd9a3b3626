"""What the egress proxy costs: time to the first byte, bytes a second, and how many connections it holds."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter

import dns.message
import dns.rrset
from msgspec import Struct

from benchmarks.percentiles import summarize
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, at_most, none_of
from pandastack.host.egress.client import EgressProcess
from pandastack.host.egress.orders import Attach, Begin
from pandastack.model.egress import CONNECTIONS, Egress

NAME = "server.example"
SERVER, PROXY, NAMES = "127.10.0.1", "127.11.0.1", "127.12.0.1"
REQUEST = f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
STREAM = REQUEST[:-2] + b"Upgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
MB = 1 << 20
STREAMED = 256 * MB
ADDED_MS = 5.0

HOW = (
    "An HTTP echo server on this machine, reached directly and through the proxy by its name: a connection, "
    "a request, the first bytes. Then 256 MiB back over one connection, and as many connections as a sandbox "
    "may have, and 50 more."
)

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Place(Struct, frozen=True):
    """Where to connect to."""

    address: str
    port: int

    async def open(self, words: bytes = REQUEST) -> Ends:
        """A connection that has spoken."""
        reader, writer = await asyncio.open_connection(self.address, self.port)
        writer.write(words)
        return reader, writer


def measure(stage: Stage, count: int) -> Answer:
    """So many connections each way."""
    return asyncio.run(_measured(stage.times(count, "connections")))


async def _measured(times: Iterable[int]) -> Answer:
    async with _stage() as (direct, proxied):
        ways = {"direct_ms": direct, "proxied_ms": proxied}
        samples: dict[str, list[float]] = {name: [] for name in ways}
        for _ in times:
            for name, place in ways.items():
                samples[name].append(await _first_bytes(place))
        facts: dict[str, float | str] = {
            "direct_mb_s": await _rate(direct),
            "proxied_mb_s": await _rate(proxied),
        }
        held, beyond = await _held(proxied)
    summaries = {name: summarize(values) for name, values in samples.items()}
    added = summaries["proxied_ms"].p50 - summaries["direct_ms"].p50
    return Answer(
        how=HOW,
        bars=[
            at_most("p50 added to the first bytes of a connection", added, ADDED_MS, "ms"),
            none_of(f"of {CONNECTIONS} connections not held", CONNECTIONS - held),
            none_of("connections beyond the limit", beyond),
        ],
        summaries=summaries,
        samples=samples,
        facts=facts,
    )


@asynccontextmanager
async def _stage() -> AsyncIterator[tuple[Place, Place]]:
    """A server, a name server, and the proxy; all on one port, since it goes where the guest meant to."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pandastack-bench-"))
        server = await asyncio.start_server(_serve, SERVER, 0, backlog=4096)
        stack.callback(server.close)
        port = server.sockets[0].getsockname()[1]
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(_Names, (NAMES, port))
        stack.callback(transport.close)
        process = await stack.enter_async_context(EgressProcess(Path(folder) / "egress.log"))
        await process.begin(Begin((f"{NAMES}:{port}",), reachable=(f"{SERVER}/32",)))
        sockets = [
            stack.enter_context(socket.socket(socket.AF_INET, kind))
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_STREAM)
        ]
        sockets[0].bind((PROXY, 0))
        for listener, number in zip(sockets[1:], (0, port), strict=True):
            listener.bind((PROXY, number))
            listener.listen(4096)
        await process.attach(Attach(1, "bench", Egress(allow_domains=(NAME,))), sockets)
        yield Place(SERVER, port), Place(PROXY, port)


async def _first_bytes(place: Place) -> float:
    began = perf_counter()
    reader, writer = await place.open()
    await reader.readexactly(len(REQUEST))
    elapsed = perf_counter() - began
    writer.transport.abort()
    return elapsed * 1000


async def _rate(place: Place) -> float:
    """MiB a second of one connection."""
    reader, writer = await place.open(STREAM)
    left = STREAMED
    began = perf_counter()
    while left > 0:
        left -= len(await reader.read(MB))
    elapsed = perf_counter() - began
    writer.transport.abort()
    return round(STREAMED / MB / elapsed, 1)


async def _held(place: Place) -> tuple[int, int]:
    """How many connections are answered at a time, and how many of those beyond the limit."""
    opened: list[Ends] = []
    answered = [await _is_answered(place, opened) for _ in range(CONNECTIONS)]
    beyond = [await _is_answered(place, opened) for _ in range(50)]
    for _, writer in opened:
        writer.transport.abort()
    return sum(answered), sum(beyond)


async def _is_answered(place: Place, opened: list[Ends]) -> bool:
    try:
        opened.append(await place.open())
        return bool(await opened[-1][0].read(1))
    except ConnectionError:
        return False


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give back what comes; to who asks for a stream, a long one."""
    try:
        while data := await reader.read(MB):
            if data == STREAM:
                writer.write(SWITCH)
            for part in [bytes(MB)] * (STREAMED // MB) if data == STREAM else [data]:
                writer.write(part)
                await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()


class _Names(asyncio.DatagramProtocol):
    """A name server that knows one name."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # it is one of UDP
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | int, int]) -> None:
        reply = dns.message.make_response(dns.message.from_wire(data))
        reply.answer = [dns.rrset.from_text(reply.question[0].name, 30, "IN", "A", SERVER)]
        self._transport.sendto(reply.to_wire(), addr)


QUESTION = Question("what the egress proxy costs", measure, count=500, quick=20)
