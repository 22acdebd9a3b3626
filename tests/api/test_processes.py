"""Background processes: what they are given to read, and waiting for their end."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import pytest

from pandastack.testing.fixtures import eventually, processes_with
from tests.api.conftest import TOKEN, World

pytestmark = pytest.mark.anyio

PIPE_AND_WINDOW = (64 + 256) << 10
"""Bytes that a process's pipe and its guest's agent keep of what it does not read."""


async def started(world: World, box: str, cmd: object, **body: object) -> str:
    """The path of a background process."""
    path = f"/v1/sandboxes/{box}/processes"
    answer = await world.http.post(path, json={"cmd": cmd, **body})
    assert answer.status_code == 201, answer.text
    return f"{path}/{answer.json()['process_id']}"


async def output(world: World, process: str) -> str:
    """All that it has written, once it has ended."""
    return (await world.http.get(f"{process}/stream")).text


async def asked(world: World, process: str, **query: str) -> dict[str, Any]:
    answer = await world.http.get(process, params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_a_process_is_written_to_until_its_input_ends(world: World, box: str) -> None:
    process = await started(world, box, "cat", stdin=True)
    assert (await asked(world, process))["stdin"] is True
    first = await world.http.post(f"{process}/stdin", content=b"a\xff")
    assert (first.status_code, first.content) == (204, b"")
    assert (
        await world.http.post(f"{process}/stdin", params={"eof": "true"}, content=b"b")
    ).status_code == 204
    assert '"a\N{REPLACEMENT CHARACTER}b"' in await output(world, process)
    assert (await asked(world, process))["stdin"] is False


async def test_input_ends_without_another_byte(world: World, box: str) -> None:
    process = await started(world, box, "wc -c", stdin=True)
    assert (await world.http.post(f"{process}/stdin", content=b"")).status_code == 204
    assert (await world.http.post(f"{process}/stdin?eof=1")).status_code == 204
    assert '"0\\n"' in await output(world, process)


async def test_what_takes_no_input_says_so(world: World, box: str) -> None:
    unfed = await started(world, box, "sleep 100")
    answer = await world.http.post(f"{unfed}/stdin", content=b"x")
    assert answer.status_code == 409 and "started without stdin" in answer.json()["error"]
    ended = await started(world, box, "exit 0", stdin=True)
    assert (await asked(world, ended, wait_seconds="20"))["running"] is False
    answer = await world.http.post(f"{ended}/stdin", content=b"x")
    assert answer.status_code == 409 and "it has ended" in answer.json()["error"]
    closed = await started(world, box, "sleep 100", stdin=True)
    assert (await world.http.post(f"{closed}/stdin?eof=true")).status_code == 204
    answer = await world.http.post(f"{closed}/stdin", content=b"x")
    assert answer.status_code == 409 and "stdin is closed" in answer.json()["error"]
    unknown = f"/v1/sandboxes/{box}/processes/nobody"
    assert (await world.http.post(f"{unknown}/stdin", content=b"x")).status_code == 404
    assert (await world.http.post(f"{closed}/stdin?eof=perhaps")).status_code == 400


async def test_a_process_that_ends_while_it_is_written_to(world: World, box: str) -> None:
    process = await started(world, box, "head -c 1000; exit 4", stdin=True)
    answer = await world.http.post(f"{process}/stdin", content=pieces(64, bytes(65536)))
    assert answer.status_code == 409
    assert (await asked(world, process, wait_seconds="20"))["exit_code"] == 4


async def test_the_next_server_still_knows_who_takes_input(world: World, box: str) -> None:
    fed = await started(world, box, "cat", stdin=True)
    unfed = await started(world, box, "sleep 100")
    assert (await world.http.post(f"{fed}/stdin", content=b"before ")).status_code == 204
    await world.stop()
    await world.start()
    assert (await asked(world, fed))["stdin"] is True
    assert (await world.http.post(f"{unfed}/stdin", content=b"x")).status_code == 409
    assert (await world.http.post(f"{fed}/stdin?eof=true", content=b"after")).status_code == 204
    assert '"before after"' in await output(world, fed)


async def pieces(count: int, piece: bytes) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield piece


def resident() -> int:
    """Bytes of memory that this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_much_input_takes_little_memory(world: World, wire: httpx2.AsyncClient, box: str) -> None:
    process = await started(world, box, "sleep 0.5; sha256sum; cat", stdin=True)
    piece, count = os.urandom(1 << 16), 1024
    before = resident()
    answer = await wire.post(f"{process}/stdin?eof=true", content=pieces(count, piece))
    assert answer.status_code == 204
    assert resident() - before < 16 << 20
    assert sha256(piece * count).hexdigest() in await output(world, process)


async def test_a_process_that_does_not_read_holds_up_its_writer_alone(
    world: World, wire: httpx2.AsyncClient, box: str
) -> None:
    process = await started(world, box, "sleep 100", stdin=True)
    writing = asyncio.ensure_future(wire.post(f"{process}/stdin", content=pieces(8, bytes(PIPE_AND_WINDOW))))
    assert (await world.exec(box, "echo through"))["stdout"] == "through\n"
    assert not writing.done()
    assert (await world.http.delete(process)).status_code == 204
    assert (await writing).status_code == 409


async def test_a_client_that_leaves_ends_its_writing(world: World, url: str, box: str) -> None:
    process = await started(world, box, "sleep 100; cat", stdin=True)
    size = PIPE_AND_WINDOW + 1000
    head = f"POST {process}/stdin?eof=1 HTTP/1.1\r\nhost: x\r\nx-api-key: {TOKEN}\r\n"
    with connected(url) as line:
        await asyncio.to_thread(line.sendall, f"{head}content-length: {size}\r\n\r\n".encode() + bytes(size))
        await asyncio.sleep(0.2)
        assert await outlives_its_ttl(world, box)
    async with asyncio.timeout(10):
        while await outlives_its_ttl(world, box):
            await asyncio.sleep(0.05)


def connected(url: str) -> socket.socket:
    return socket.create_connection((str(urlsplit(url).hostname), urlsplit(url).port or 0))


async def outlives_its_ttl(world: World, box: str) -> bool:
    """Whether somebody uses a sandbox at this moment."""
    world.time.passes(1000)
    await world.control.plane.reaper.reap()
    return (await world.http.get(f"/v1/sandboxes/{box}")).status_code == 200


async def test_an_end_is_told_as_soon_as_it_comes(world: World, box: str) -> None:
    process = await started(world, box, "sleep 0.4; exit 3")
    began = time.monotonic()
    seen = await asked(world, process, wait_seconds="20")
    assert 0.2 < time.monotonic() - began < 5
    assert (seen["running"], seen["exit_code"]) == (False, 3)
    assert await asked(world, process, wait_seconds="20") == seen


async def test_output_that_nobody_reads_holds_no_end_up(world: World, box: str) -> None:
    process = await started(world, box, "head -c 5000000 /dev/zero")
    assert (await asked(world, process, wait_seconds="20"))["exit_code"] == 0


async def test_a_wait_has_an_end_of_its_own(world: World, box: str) -> None:
    process = await started(world, box, "sleep 100")
    began = time.monotonic()
    assert (await asked(world, process, wait_seconds="0.3"))["running"] is True
    assert 0.25 < time.monotonic() - began < 5
    assert (await asked(world, process))["running"] is True


@pytest.mark.parametrize(
    ("wait", "status"), [("31", 400), ("-1", 400), ("soon", 400), ("1", 404), ("0", 404)]
)
async def test_a_wait_that_cannot_be(http: httpx2.AsyncClient, box: str, wait: str, status: int) -> None:
    answer = await http.get(f"/v1/sandboxes/{box}/processes/nobody", params={"wait_seconds": wait})
    assert answer.status_code == status, answer.text


async def test_a_client_that_leaves_ends_its_waiting(
    world: World, url: str, box: str, tmp_path: Path
) -> None:
    process = await started(world, box, f"sh -c 'sleep 100; :' {quote(str(tmp_path))}")
    with connected(url) as line:
        head = f"GET {process}?wait_seconds=30 HTTP/1.1\r\nhost: x\r\nx-api-key: {TOKEN}\r\n\r\n"
        line.sendall(head.encode())
        await asyncio.sleep(0.2)
        assert await outlives_its_ttl(world, box)
    async with asyncio.timeout(10):
        while await outlives_its_ttl(world, box):
            await asyncio.sleep(0.05)
    await eventually(lambda: not processes_with(f"100; : {tmp_path}"))
