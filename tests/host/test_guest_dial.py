"""Connections to services in the guest, against the real agent."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pandastack.errors import GuestUnreachable, InvalidRequest, PortClosed, RateLimited
from pandastack.host.guest import GuestLink
from pandastack.model.guest import Port

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while got := await reader.read(65_536):
            writer.write(got)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_both_ways_with_back_pressure(guest: GuestLink) -> None:
    content = os.urandom(8 << 20)
    got = hashlib.sha256()
    async with echo() as port, asyncio.timeout(30), guest.dial(port) as connection:

        async def send() -> None:
            await connection.write(content)
            await connection.end()
            await connection.end()

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            while piece := await connection.read():
                got.update(piece)
        assert await connection.read() == b""
    assert got.digest() == hashlib.sha256(content).digest()


async def test_nothing_listens(guest: GuestLink) -> None:
    async with echo() as port:
        pass
    with pytest.raises(PortClosed, match=rf"port {port} of the sandbox: nothing listens there"):
        async with guest.dial(port):
            pass


@pytest.mark.parametrize("port", [0, -1, 65_536])
async def test_no_port(guest: GuestLink, port: int) -> None:
    with pytest.raises(InvalidRequest):
        async with guest.dial(port):
            pass


async def test_more_connections_than_there_may_be(guest: GuestLink) -> None:
    async with echo() as port, asyncio.TaskGroup() as group:
        leave = asyncio.Event()

        async def hold() -> None:
            async with guest.dial(port) as connection:
                await connection.write(b"x")
                assert await connection.read() == b"x"
                await leave.wait()

        held = [group.create_task(hold()) for _ in range(256)]
        await asyncio.sleep(0.5)
        with pytest.raises(RateLimited):
            async with guest.dial(port):
                pass
        assert (await guest.metrics()).process_count > 0
        leave.set()
        await asyncio.gather(*held)
        async with guest.dial(port) as connection:
            await connection.end()
            assert await connection.read() == b""


async def test_a_lost_guest_fails_who_reads(guest: GuestLink) -> None:
    async with echo() as port, guest.dial(port) as connection:
        reading = asyncio.gather(connection.read(), return_exceptions=True)
        await asyncio.sleep(0)
        await guest.close()
        (error,) = await reading
        assert isinstance(error, GuestUnreachable)


async def test_ports_are_told(guest: GuestLink) -> None:
    async with echo() as port:
        assert Port(port, loopback=True) in await guest.ports()
    assert port not in {found.number for found in await guest.ports()}
