"""Connections that clients forward: to the sandbox's own ports, and nowhere else."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncssh
import pytest

from pandastack.sshd.limits import WINDOW
from pandastack.sshd.tunnel import Tunnel
from tests.api.conftest import World
from tests.sshd.conftest import PATIENCE, Pass

pytestmark = pytest.mark.anyio

SERVE = """
import socket, sys, threading
heard = socket.create_server(("127.0.0.1", int(sys.argv[1])))
def answer(one):
    while data := one.recv(65536):
        one.sendall(data)
    one.sendall(b"<end>")
    one.close()
while True:
    threading.Thread(target=answer, args=(heard.accept()[0],), daemon=True).start()
"""
"""Says what it hears, and behind the end of that one word more."""


DEAF = """
import socket, sys, time
heard = socket.create_server(("127.0.0.1", int(sys.argv[1])))
taken = []
while True:
    taken.append(heard.accept()[0])
"""
"""Takes connections, and never what they say."""


@pytest.fixture
def port() -> int:
    """One that is free here, where machines of the process driver listen too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def echo(world: World, box: str, port: int) -> AsyncIterator[int]:
    """A service on the sandbox's loopback."""
    async with serving(world, box, port, SERVE):
        yield port


@pytest.fixture
async def deaf(world: World, box: str, port: int) -> AsyncIterator[int]:
    """One that does not listen."""
    async with serving(world, box, port, DEAF):
        yield port


@asynccontextmanager
async def serving(world: World, box: str, port: int, program: str) -> AsyncIterator[None]:
    """A Python program that a sandbox runs while the block lasts, from when its port can be reached."""
    answer = await world.http.post(
        f"/v1/sandboxes/{box}/processes", json={"cmd": ["python3", "-c", program, str(port)]}
    )
    assert answer.status_code in (200, 201), answer.text
    ready = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
    line = f'for n in $(seq 200); do python3 -c "{ready}" 2>/dev/null && break; sleep 0.1; done'
    await world.exec(box, line)
    yield
    await world.http.delete(f"/v1/sandboxes/{box}")


@asynccontextmanager
async def forwarding(visit: Pass, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`ssh -N` with these options."""
    options = (*visit.options, "-o", "ExitOnForwardFailure=yes", "-N", *words, visit.address[0])
    process = await asyncio.create_subprocess_exec("ssh", *options, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.05)


def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_port_of_the_sandbox_here(visit: Pass, echo: int) -> None:
    """`ssh -L`, as editors reach their own half: both directions, each to its own end."""
    here = free()
    data = os.urandom(5 << 20)
    async with forwarding(visit, "-L", f"{here}:localhost:{echo}"):
        reader, writer = await connected(here)

        async def say() -> None:
            writer.write(data)
            await writer.drain()
            writer.write_eof()

        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(say())
            got = await reader.read(-1)
        writer.close()
    assert hashlib.sha256(got).digest() == hashlib.sha256(data + b"<end>").digest()


async def test_a_service_that_does_not_listen(visit: Pass, deaf: int) -> None:
    """What it does not take is not taken from the client: little of it is kept here."""
    data, before = bytes(32 << 20), tunnels()
    async with visit.connected() as connection:
        _, writer = await connection.open_connection("localhost", deaf)
        (tunnel,) = [each for each in tunnels() if each not in before]
        writer.write(data)
        async with asyncio.timeout(PATIENCE):
            sizes = [-1, kept_in(tunnel)]
            while sizes[-1] == 0 or sizes[-1] != sizes[-2]:  # the buffers of both kernels take in some first
                await asyncio.sleep(1.0)
                sizes.append(kept_in(tunnel))
        assert 0 < max(sizes) < 4 * WINDOW
        writer.close()
        connection.abort()


def tunnels() -> list[Tunnel]:
    """Those of servers in this program, also of servers that have ended."""
    return [each for each in gc.get_objects() if isinstance(each, Tunnel)]


def kept_in(tunnel: Tunnel) -> int:
    """Bytes that a server keeps of a client for what it reaches."""
    return tunnel._kept + sum(len(data) for data, _ in tunnel._chan._recv_buf)


async def test_many_at_a_time(visit: Pass, echo: int) -> None:
    async def one(connection: asyncssh.SSHClientConnection, number: int) -> None:
        reader, writer = await connection.open_connection("127.0.0.1", echo)
        writer.write(b"%d" % number)
        writer.write_eof()
        assert await reader.read() == b"%d<end>" % number
        writer.close()

    async with visit.connected() as connection, asyncio.timeout(PATIENCE):
        for _ in range(4):
            await asyncio.gather(*(one(connection, number) for number in range(40)))


async def test_where_nothing_listens(visit: Pass, port: int) -> None:
    async with visit.connected() as connection:
        with pytest.raises(asyncssh.ChannelOpenError, match="nothing listens"):
            await connection.open_connection("localhost", port)
        with pytest.raises(asyncssh.ChannelOpenError, match="reserved"):
            await connection.open_connection("localhost", 22)
        with pytest.raises(asyncssh.ChannelOpenError, match="1 to 65535"):
            await connection.open_connection("localhost", 0)


ELSEWHERE = ("127.0.0.2", "169.254.169.254", "example.com", "192.168.0.1", "10.0.0.1", "::", "localhost.")


async def test_only_into_the_sandbox(visit: Pass, echo: int) -> None:
    """The control: by its own name the same port is reached."""
    async with visit.connected() as connection:
        for host in ELSEWHERE:
            with pytest.raises(asyncssh.ChannelOpenError, match="localhost alone"):
                await connection.open_connection(host, echo)
        _, writer = await connection.open_connection("localhost", echo)
        writer.close()


async def test_no_way_out_by_socks(visit: Pass, echo: int) -> None:
    """`ssh -D`: to the sandbox itself it leads, and nowhere else."""
    here = free()

    async def asked(host: bytes) -> int:
        reader, writer = await connected(here)
        writer.write(b"\x05\x01\x00")
        assert await reader.readexactly(2) == b"\x05\x00"
        writer.write(b"\x05\x01\x00\x03" + bytes((len(host),)) + host + echo.to_bytes(2, "big"))
        try:
            answer = await reader.readexactly(10)
            writer.write(b"x")
            writer.write_eof()
            said = await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            return 0
        finally:
            writer.close()
        return len(said) if answer[1] == 0 else 0

    async with forwarding(visit, "-D", f"127.0.0.1:{here}"), asyncio.timeout(PATIENCE):
        assert await asked(b"example.com") == 0
        assert await asked(b"localhost") == len(b"x<end>")


async def test_nobody_listens_here(visit: Pass, port: int) -> None:
    """`ssh -R` is refused, also for sockets of the file system, and so is an agent."""
    async with forwarding(visit, "-R", f"{port}:localhost:22") as process:
        assert process.stderr is not None
        said = await asyncio.wait_for(process.stderr.read(), PATIENCE)
        assert b"remote port forwarding failed" in said
    async with visit.connected() as connection:
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_path("/tmp/never.sock", "/tmp/other.sock")
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_unix_connection("/run/never.sock")
    done = await visit.run("ssh", "-A", "HOST", "echo [$SSH_AUTH_SOCK]")
    assert done.out == b"[]\n"


async def test_one_that_sleeps_is_woken(visit: Pass, world: World, box: str, echo: int) -> None:
    """And what listened in it listens on."""
    async with visit.connected() as connection:
        if world.host.vms.driver.name != "process":  # whose processes begin anew
            assert (await world.http.post(f"/v1/sandboxes/{box}/hibernate")).status_code == 200
        reader, writer = await connection.open_connection("localhost", echo)
        writer.write(b"awake")
        assert await reader.readexactly(5) == b"awake"
        writer.close()
