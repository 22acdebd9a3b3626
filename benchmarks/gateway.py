"""What the gateway costs: a request, a WebSocket message, and those who only hold on."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import websockets
from msgspec import Struct

from benchmarks.api import Api, connected
from benchmarks.percentiles import summarize
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, Bar, at_most
from pandastack.host import procfs
from pandastack.testing.server import Server, running_server

WARM_UP = 50
VISITORS = 16
HALF_OPEN = 500
OVERHEAD_MS, ECHO_MS, HEALTHY_MS, RATE = 3.0, 2.0, 200.0, 1000.0
BODY = b"fine"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
PIECES = (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX: ")

HOW = (
    "A server of the process driver, so that no emulated guest is measured; its one sandbox's service is a "
    "bare loop of this program. One visitor asks again and again over a kept connection, through the gateway "
    "and straight; then 16 ask at once, and the rate is that of requests a second of the processor time of "
    "the server and its agent; then WebSocket messages are echoed; then one visitor asks among 500 who never "
    "end their head."
)


class Door(Struct, frozen=True):
    """Where the gateway is, by which name the service is known there, and where it is itself."""

    gateway: tuple[str, int]
    host: str
    service: tuple[str, int]


def measure(stage: Stage, count: int) -> Answer:
    """Ask so many times."""
    with _server() as (server, port), connected(server) as api:
        return asyncio.run(_measured(server, api, port, count))


@contextmanager
def _server() -> Iterator[tuple[Server, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options = ("--driver", "process", "--insecure-no-isolation", "--gateway", f"127.0.0.1:{port}")
    with (
        TemporaryDirectory(prefix="pandastack-bench-gateway-") as home,
        _environment("PANDASTACK_GATEWAY_CONNECTIONS_PER_ADDRESS", "2000"),
        running_server(Path(home), *options) as server,
    ):
        yield server, port


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


async def _measured(server: Server, api: Api, port: int, count: int) -> Answer:
    async with _service(_answer) as fine, _service(_echo) as echo:
        with api.sandbox() as box:
            door = Door(("127.0.0.1", port), f"{fine[1]}-{box}.localhost", fine)
            through = await _asked(door.gateway, door.host, count)
            straight = await _asked(fine, "localhost", count)
            rate = await _rate(server, door, count)
            echoed = await _echoed(door.gateway, f"{echo[1]}-{box}.localhost", count)
            healthy = await _among_half_open(door, count)
    samples = {"through_ms": through, "straight_ms": straight, "echo_ms": echoed, "healthy_ms": healthy}
    summaries = {name: summarize(values) for name, values in samples.items()}
    overhead = summaries["through_ms"].p50 - summaries["straight_ms"].p50
    enough = Bar(
        what="requests a second of one processor",
        measured=round(rate, 1),
        limit=RATE,
        relation="≥",
        met=rate >= RATE,
    )
    bars = [
        at_most("p50 of a request beyond a straight one", overhead, OVERHEAD_MS, "ms"),
        enough,
        at_most("p50 of a WebSocket echo", summaries["echo_ms"].p50, ECHO_MS, "ms"),
        at_most("p99 among 500 half-open connections", summaries["healthy_ms"].p99, HEALTHY_MS, "ms"),
    ]
    return Answer(how=HOW, bars=bars, summaries=summaries, samples=samples)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _service(serve: Serve) -> AsyncIterator[tuple[str, int]]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
    async with server:
        yield server.sockets[0].getsockname()[:2]
        server.close()
        await asyncio.sleep(0.1)  # who is left sees the end of its connection


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):  # the end of it all
        writer.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    protocol = websockets.ServerProtocol()
    while data := await reader.read(65_536):
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, websockets.Request):
                protocol.send_response(protocol.accept(event))
            elif isinstance(event, websockets.Frame) and event.opcode is websockets.Opcode.BINARY:
                protocol.send_binary(event.data)
        for out in protocol.data_to_send():
            writer.write(out)
    writer.close()


async def _asked(where: tuple[str, int], host: str, count: int) -> list[float]:
    """Milliseconds of each request over one connection."""
    reader, writer = await asyncio.open_connection(*where)
    spent = []
    for number in range(count + WARM_UP):
        began = time.perf_counter()
        writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        await reader.readuntil(BODY)
        if number >= WARM_UP:
            spent.append((time.perf_counter() - began) * 1000)
    writer.close()
    return spent


async def _rate(server: Server, door: Door, count: int) -> float:
    """Requests a second of processor time, of the server and of the sandbox's agent."""
    before = _busy(server.pid)
    share = max(1, count // VISITORS * 4)
    await asyncio.gather(*(_asked(door.gateway, door.host, share) for _ in range(VISITORS)))
    return VISITORS * (share + WARM_UP) / max(_busy(server.pid) - before, 0.01)


def _busy(pid: int) -> float:
    """Seconds of processor time of a process and its children."""
    ticks = 0
    for each in (pid, *procfs.children(pid)):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def _echoed(where: tuple[str, int], host: str, count: int) -> list[float]:
    opened = websockets.connect(f"ws://{host}/", host=where[0], port=where[1], proxy=None, compression=None)
    spent = []
    async with opened as connection:
        for _ in range(count):
            began = time.perf_counter()
            await connection.send(b"0123456789abcdef")
            await connection.recv()
            spent.append((time.perf_counter() - began) * 1000)
    return spent


async def _among_half_open(door: Door, count: int) -> list[float]:
    held = [await asyncio.open_connection(*door.gateway) for _ in range(HALF_OPEN)]
    for number, (_, writer) in enumerate(held):
        writer.write(PIECES[number % len(PIECES)])
    spent = await _asked(door.gateway, door.host, count)
    for _, writer in held:
        writer.close()
    return spent


QUESTION = Question("what the gateway costs its visitors", measure, count=2000, quick=100)
