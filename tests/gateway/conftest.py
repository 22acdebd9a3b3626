"""A gateway in front of a sandbox whose service is the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from pandastack.gateway.listener import listening
from pandastack.gateway.visitor import Limits
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.process_driver import ProcessDriver
from tests.api.conftest import World, of_processes
from tests.gateway.upstream import Reader, Upstream, Writer, serving_upstream

PATIENCE = 15.0


class Gateway(msgspec.Struct):
    """Where it listens, and whose sandbox is behind it."""

    address: tuple[str, int]
    box: str
    port: int

    @property
    def host(self) -> str:
        return f"{self.port}-{self.box}.localhost"

    async def open(self) -> tuple[Reader, Writer]:
        return await asyncio.open_connection(*self.address)

    async def send(self, *pieces: bytes) -> bytes:
        """All that is answered to these bytes, until the gateway ends the connection."""
        reader, writer = await self.open()
        got = b""
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(PATIENCE):
                while piece := await reader.read(65_536):
                    got += piece
        except ConnectionError:
            pass
        finally:
            writer.close()
        return got

    async def get(self, path: str = "/", host: str | None = None, more: str = "") -> tuple[int, bytes]:
        """Status and body of a plain request."""
        head = f"GET {path} HTTP/1.1\r\nHost: {self.host if host is None else host}\r\n{more}"
        answer = await self.send(head.encode() + b"Connection: close\r\n\r\n")
        first, _, rest = answer.partition(b"\r\n")
        return int(first.split()[1]), rest.partition(b"\r\n\r\n")[2]


@pytest.fixture
async def world(leak_check: LeakCheck, tmp_path: Path, process_driver: ProcessDriver) -> AsyncIterator[World]:
    world = World(tmp_path, of_processes(process_driver))
    await world.start()
    yield world
    await world.host.end_all()
    await world.stop()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving_upstream() as upstream:
        yield upstream


Opener = Callable[[Limits], AbstractAsyncContextManager[Gateway]]


@pytest.fixture
async def box(world: World) -> str:
    return str((await world.create(ttl_seconds=3600))["id"])


@pytest.fixture
def opener(world: World, upstream: Upstream, box: str) -> Opener:
    """Opens gateways with limits of the test's choice."""

    @asynccontextmanager
    async def opened(limits: Limits) -> AsyncIterator[Gateway]:
        async with listening(world.control.plane.front(limits), "127.0.0.1:0", limits) as url:
            host, port = url.removeprefix("http://").split(":")
            yield Gateway((host, int(port)), box, upstream.port)

    return opened


@pytest.fixture
async def gateway(opener: Opener) -> AsyncIterator[Gateway]:
    async with opener(Limits()) as gateway:
        yield gateway
