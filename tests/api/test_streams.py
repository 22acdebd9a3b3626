"""Streams through a real socket: server-sent events, WebSockets, and clients that wait or leave."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import requests
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from pandastack.api.server import serving
from pandastack.testing.fixtures import eventually, processes_with
from tests.api.conftest import BEAT_SECONDS, TOKEN, World, timeless

pytestmark = pytest.mark.anyio

AUTH = {"authorization": f"Bearer {TOKEN}"}


def socket_url(url: str, path: str) -> str:
    return f"{url.replace('http', 'ws', 1)}{path}"


async def next_frame(connection: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(5):
        return dict(json.loads(await connection.recv()))


async def test_a_stream_is_exactly_the_wires(http: httpx2.AsyncClient, box: str) -> None:
    command = {"cmd": "printf 'a\\n'; sleep 0.05; printf b >&2; exit 4"}
    answer = await http.post(f"/v1/sandboxes/{box}/exec/stream", json=command)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert timeless(answer.content) == (
        b": ready\n\n"
        b'event: stdout\ndata: {"chunk":"a\\n"}\n\n'
        b'event: stderr\ndata: {"chunk":"b"}\n\n'
        b'event: exit\ndata: {"exit_code":4,"duration_ms":0}\n\n'
    )


async def test_a_stream_tells_how_long_its_command_took(http: httpx2.AsyncClient, box: str) -> None:
    answer = await http.post(f"/v1/sandboxes/{box}/exec/stream", json={"cmd": "sleep 0.2"})
    data = answer.text.strip().rsplit("data: ")[-1]
    assert 200 <= json.loads(data)["duration_ms"] < 10_000


async def test_a_stream_never_cuts_a_character(http: httpx2.AsyncClient, box: str) -> None:
    command = {"cmd": r"printf '\342\202'; sleep 0.1; printf '\254'"}
    answer = await http.post(f"/v1/sandboxes/{box}/exec/stream", json=command)
    assert 'data: {"chunk":"€"}' in answer.text


async def test_a_stream_ends_with_its_error(http: httpx2.AsyncClient, box: str) -> None:
    command = {"cmd": "echo a; sleep 9", "timeout_seconds": 0.2}
    answer = await http.post(f"/v1/sandboxes/{box}/exec/stream", json=command)
    assert answer.status_code == 200
    event, data = answer.text.strip().split("\n\n")[-1].split("\n")
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"] == "command timeout: exceeded 0.2s"


async def test_what_cannot_start_is_an_ordinary_error(http: httpx2.AsyncClient, box: str) -> None:
    answer = await http.post(f"/v1/sandboxes/{box}/exec/stream", json={"cmd": ""})
    assert answer.status_code == 400 and answer.headers["content-type"] == "application/json"


async def test_a_quiet_stream_is_kept_open_by_comments(wire: httpx2.AsyncClient, box: str) -> None:
    command = {"cmd": f"sleep {4 * BEAT_SECONDS}"}
    async with wire.stream("POST", f"/v1/sandboxes/{box}/exec/stream", json=command) as stream:
        text = timeless(await stream.aread()).decode()
    assert text.count(": still here\n\n") >= 2
    assert text.endswith('event: exit\ndata: {"exit_code":0,"duration_ms":0}\n\n')


@pytest.mark.parametrize("verb", ["exec", "exec/stream"])
async def test_a_client_that_leaves_ends_its_command(url: str, box: str, tmp_path: Path, verb: str) -> None:
    mark = f"100; : {tmp_path}"
    body = json.dumps({"cmd": f"sh -c 'sleep 100; :' {tmp_path}"}).encode()
    head = (
        f"POST /v1/sandboxes/{box}/{verb} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((str(urlsplit(url).hostname), urlsplit(url).port or 0)) as line:
        line.sendall(head.encode() + body)
        await eventually(lambda: bool(processes_with(mark)))
    await eventually(lambda: not processes_with(mark))


async def test_a_client_that_leaves_a_create_leaves_nothing(world: World, url: str) -> None:
    head = f"POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\nx-api-key: {TOKEN}\r\ncontent-length: 2\r\n\r\n{{}}"
    for _ in range(5):
        with socket.create_connection((str(urlsplit(url).hostname), urlsplit(url).port or 0)) as line:
            line.sendall(head.encode())
            await asyncio.sleep(0.004)
    async with asyncio.timeout(10):
        while len(await counts(world)) > 1:
            await asyncio.sleep(0.02)


async def counts(world: World) -> set[int]:
    """How many sandboxes the books, the rows and the host know; one number when all is well."""
    used = (await world.http.get("/v1/quotas")).json()["used"]["sandboxes"]
    return {used, len((await world.http.get("/v1/sandboxes")).json()), len(world.host.vms.reports())}


def by_http_client(url: str, path: str, body: bytes) -> tuple[int, bytes]:
    """A plain client whose read timeout is shorter than the command is silent."""
    parts = urlsplit(url)
    line = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=3 * BEAT_SECONDS)
    with closing(line):
        line.request("POST", path, body, AUTH)
        answer = line.getresponse()
        return answer.status, answer.read()


def by_requests(url: str, path: str, body: bytes) -> tuple[int, bytes]:
    with requests.Session() as session:
        answer = session.post(url + path, body, headers=AUTH, timeout=3 * BEAT_SECONDS)
        again = session.get(f"{url}/v1/me", headers=AUTH, timeout=3 * BEAT_SECONDS)
        assert again.status_code == 200
        return answer.status_code, answer.content


@pytest.mark.parametrize("ask", [by_http_client, by_requests])
@pytest.mark.parametrize("ends", [200, 500])
async def test_a_silent_command_outlives_the_clients_patience(
    url: str, box: str, ask: Callable[[str, str, bytes], tuple[int, bytes]], ends: int
) -> None:
    silent = 8 * BEAT_SECONDS
    order = (
        {"cmd": f"sleep {silent}; echo done"}
        if ends == 200
        else {"cmd": "sleep 99", "timeout_seconds": silent}
    )
    body = json.dumps(order).encode()
    status, answer = await asyncio.to_thread(ask, url, f"/v1/sandboxes/{box}/exec", body)
    assert status == ends
    assert json.loads(answer).get("stdout", "done\n") == "done\n"
    assert (b"command timeout" in answer) == (ends == 500)


async def test_without_interim_answers_the_same_client_gives_up(idle_world: World) -> None:
    """The control of the test above."""
    idle_world.beat_seconds = 60
    await idle_world.start()
    box = (await idle_world.create())["id"]
    body = json.dumps({"cmd": f"sleep {8 * BEAT_SECONDS}"}).encode()
    async with serving(idle_world.control, "127.0.0.1:0") as url:
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(by_http_client, url, f"/v1/sandboxes/{box}/exec", body)


@pytest.mark.parametrize(("version", "interim"), [("1.1", True), ("1.0", False)])
async def test_interim_answers_are_for_those_who_know_them(
    url: str, box: str, version: str, interim: bool
) -> None:
    body = json.dumps({"cmd": f"sleep {4 * BEAT_SECONDS}"}).encode()
    head = (
        f"POST /v1/sandboxes/{box}/exec HTTP/{version}\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    with closing(writer):
        writer.write(head.encode() + body)
        answer = await reader.read()
    assert (answer.count(b"HTTP/1.1 100 Continue\r\n\r\n") >= 2) == interim
    assert answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n" * answer.count(b" 100 ")).startswith(
        b"HTTP/1.1 200 OK\r\n"
    )


async def test_many_commands_share_a_socket(url: str, box: str) -> None:
    path = f"/v1/sandboxes/{box}/exec/ws"
    async with connect(socket_url(url, path), additional_headers=AUTH) as connection:
        for number in (1, 2):
            await connection.send(json.dumps({"id": str(number), "cmd": f"echo {number}; exit {number}"}))
        frames = [await next_frame(connection) for _ in range(4)]
        for name in ("1", "2"):
            assert [frame for frame in frames if frame["id"] == name] == [
                {"id": name, "stream": "stdout", "data": f"{name}\n"},
                {"id": name, "exit": int(name)},
            ]


async def test_a_socket_answers_what_it_cannot_do_and_goes_on(url: str, box: str) -> None:
    path = f"/v1/sandboxes/{box}/exec/ws"
    async with connect(socket_url(url, path), additional_headers=AUTH) as connection:
        for sent, told in (
            ("{", {"error": "bad json"}),
            ('{"cmd": "true"}', {"error": "id required"}),
            ('{"id": "a"}', {"id": "a", "error": "cmd required"}),
            (
                '{"id": "b", "cmd": "sleep 9", "timeout_seconds": 0.1}',
                {"id": "b", "error": "command timeout"},
            ),
        ):
            await connection.send(sent)
            frame = await next_frame(connection)
            assert frame.get("id") == told.get("id")
            assert told["error"] in frame["error"]
        await connection.send('{"id": "d", "cmd": "od -An -tx1", "stdin_base64": "/w=="}')
        assert await next_frame(connection) == {"id": "d", "stream": "stdout", "data": " ff\n"}
        assert await next_frame(connection) == {"id": "d", "exit": 0}
        await connection.send('{"id": "c", "cmd": "true"}')
        assert await next_frame(connection) == {"id": "c", "exit": 0}


async def test_a_command_of_a_socket_is_cancelled_alone_or_with_it(
    url: str, box: str, tmp_path: Path
) -> None:
    path = f"/v1/sandboxes/{box}/exec/ws"
    marks = [f"100; : {tmp_path}/{number}" for number in (1, 2)]
    async with connect(socket_url(url, path), additional_headers=AUTH) as connection:
        for number in (1, 2):
            command = f"sh -c 'sleep 100; :' {tmp_path}/{number}"
            await connection.send(json.dumps({"id": number, "cmd": command}))
        await eventually(lambda: all(processes_with(mark) for mark in marks))
        await connection.send('{"id": 1, "cancel": true}')
        await eventually(lambda: not processes_with(marks[0]))
        assert processes_with(marks[1])
    await eventually(lambda: not processes_with(marks[1]))


async def test_a_terminal_is_one(url: str, box: str) -> None:
    path = f"/v1/sandboxes/{box}/exec/pty?rows=10&cols=33"
    async with connect(socket_url(url, path), additional_headers=AUTH) as connection:
        await connection.send(b"stty size; tty; stty -echo\n")
        await until(connection, b"10 33")
        await connection.send('{"resize": {"rows": 20, "cols": 40}}')
        await connection.send('{"stdin": "stty size\\n"}')
        await until(connection, b"20 40")
        await connection.send(b"exit 3\n")
        async with asyncio.timeout(5):
            frames = [frame async for frame in connection]
        assert json.loads(frames[-1]) == {"exit": 3}


async def until(connection: ClientConnection, words: bytes) -> None:
    seen = b""
    async with asyncio.timeout(5):
        while words not in seen:
            frame = await connection.recv()
            assert isinstance(frame, bytes)
            seen += frame


async def test_a_terminal_that_is_left_hangs_up(world: World, url: str, box: str, tmp_path: Path) -> None:
    mark = f"100; : {tmp_path}"
    async with connect(socket_url(url, f"/v1/sandboxes/{box}/ssh"), additional_headers=AUTH) as connection:
        await connection.send(f"sh -c 'sleep 100; :' {tmp_path}\n".encode())
        await eventually(lambda: bool(processes_with(mark)))
    await eventually(lambda: not processes_with(mark))
    assert (await world.http.get(f"/v1/sandboxes/{box}")).json()["status"] == "running"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/sandboxes/nobody/exec/ws", AUTH, 404),
        ("/v1/sandboxes/nobody/exec/pty", AUTH, 404),
        ("/v1/sandboxes/{box}/exec/ws", {}, 401),
        ("/v1/sandboxes/{box}/exec/pty?rows=0", AUTH, 400),
        ("/v1/nothing", AUTH, 404),
    ],
)
async def test_a_socket_is_refused_before_it_opens(
    url: str, box: str, path: str, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(socket_url(url, path.format(box=box)), additional_headers=headers):
            pytest.fail("it must not open")
    assert caught.value.response.status_code == status
    assert isinstance(json.loads(caught.value.response.body or b"{}")["error"], str)


async def test_a_browser_brings_its_key_in_the_query(url: str, box: str) -> None:
    path = f"/v1/sandboxes/{box}/exec/ws?access_token={TOKEN}"
    async with connect(socket_url(url, path), origin="https://elsewhere.example") as connection:  # type: ignore[arg-type]  # any text
        await connection.send('{"id": 1, "cmd": "true"}')
        assert await next_frame(connection) == {"id": 1, "exit": 0}


async def test_an_open_socket_keeps_its_sandbox_awake(world: World, url: str, box: str) -> None:
    path = f"/v1/sandboxes/{box}/exec/pty"
    async with connect(socket_url(url, path), additional_headers=AUTH) as connection:
        await connection.recv()
        world.time.passes(1000)
        await world.control.plane.reaper.reap()
        assert (await world.http.get(f"/v1/sandboxes/{box}")).status_code == 200
    world.time.passes(1000)
    await asyncio.sleep(0.1)
    world.time.passes(1000)
    await world.control.plane.reaper.reap()
    assert (await world.http.get(f"/v1/sandboxes/{box}")).status_code == 404


async def test_a_plain_request_to_a_socket_is_told_so(http: httpx2.AsyncClient, box: str) -> None:
    answer = await http.get(f"/v1/sandboxes/{box}/exec/ws")
    assert answer.status_code == 400 and "WebSocket" in answer.json()["error"]


async def test_a_head_without_end_is_cut_off(url: str) -> None:
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    writer.write(b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000)
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()
