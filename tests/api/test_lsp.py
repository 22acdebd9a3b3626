"""Language servers over WebSockets: the bytes of both sides, the frames beside them, and who may speak."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from pandastack.api.lsp import Conversation
from pandastack.api.server import serving
from pandastack.model.account import Caller, Scope
from pandastack.services.language_servers import LanguageServers, server_of
from tests.api.conftest import TOKEN, World

pytestmark = pytest.mark.anyio

ECHO = "#!/bin/sh\necho ready >&2\nexec cat\n"
"""A language server that says what it hears."""
MESSAGE = b'Content-Length: 17\r\n\r\n{"jsonrpc":"2.0"}'


async def box_with(world: World, tmp_path: Path, program: str | None) -> str:
    """A sandbox that finds this program as pylsp, or none."""
    folder = tmp_path / "programs"
    folder.mkdir()
    if program is not None:
        (folder / "pylsp").write_text(program)
        (folder / "pylsp").chmod(0o755)
    path = f"{folder}:/usr/bin:/bin" if program is not None else str(folder)
    return str((await world.create(env={"PATH": path}))["id"])


@asynccontextmanager
async def speaking(url: str, box: str, language: str = "python") -> AsyncIterator[ClientConnection]:
    path = f"{url.replace('http', 'ws', 1)}/v1/sandboxes/{box}/lsp/{language}"
    async with connect(path, additional_headers={"authorization": f"Bearer {TOKEN}"}) as socket:
        yield socket


async def heard(socket: ClientConnection) -> tuple[bytes, list[dict[str, Any]]]:
    """All that comes until the server hangs up: its bytes, and the frames beside them."""
    said, notices = b"", []
    async for frame in socket:
        if isinstance(frame, bytes):
            said += frame
        else:
            notices.append(json.loads(frame))
    return said, notices


async def test_bytes_go_both_ways_and_the_program_ends_with_the_socket(
    world: World, url: str, tmp_path: Path
) -> None:
    box = await box_with(world, tmp_path, ECHO)

    async def running() -> list[str]:
        found = (await world.http.get(f"/v1/sandboxes/{box}/processes")).json()
        return [each["command"] for each in found if each["running"]]

    async with speaking(url, box, "py") as socket:
        assert json.loads(await socket.recv()) == {"stream": "stderr", "line": "ready"}
        await socket.send(MESSAGE)
        await socket.send(MESSAGE.decode())
        said = b""
        while len(said) < 2 * len(MESSAGE):
            said += bytes(await socket.recv(decode=False))
        assert said == MESSAGE * 2
        assert await running() == ["pylsp"]

    async with asyncio.timeout(20):
        while await running():
            await asyncio.sleep(0.05)


async def test_how_it_ended_and_what_it_complained_of_is_told(world: World, url: str, tmp_path: Path) -> None:
    box = await box_with(world, tmp_path, "#!/bin/sh\nprintf 'one\\ntwo' >&2\necho said\nexit 3\n")
    async with speaking(url, box) as socket:
        said, notices = await heard(socket)
    assert said == b"said\n"
    assert [one["line"] for one in notices if "line" in one] == ["one", "two"]
    assert notices[-1] == {"exit": 3}


async def test_one_that_is_not_installed_is_told_with_what_to_do(
    world: World, url: str, tmp_path: Path
) -> None:
    box = await box_with(world, tmp_path, None)
    async with speaking(url, box) as socket:
        said, notices = await heard(socket)
    assert said == b""
    assert notices[-1]["error"] == "pylsp is not installed in this sandbox."
    assert "code-interpreter" in notices[-1]["hint"] and "pip install" in notices[-1]["hint"]
    assert not any("exit" in one for one in notices)


async def test_languages_and_strangers_are_refused(
    world: World, url: str, box: str, foreigner: httpx2.AsyncClient
) -> None:
    found = (await world.http.get("/v1/lsp/languages")).json()
    assert (found["supported"], found["languages"]) == (["python"], ["python"])
    for path, status, words in ((f"{box}/lsp/cobol", 400, b"python"), ("none/lsp/python", 404, b"")):
        with pytest.raises(InvalidStatus) as refused:
            async with speaking(url, *path.split("/lsp/")):
                pass
        assert refused.value.response.status_code == status
        assert words in refused.value.response.body
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"{url.replace('http', 'ws', 1)}/v1/sandboxes/{box}/lsp/python"):
            pass
    assert refused.value.response.status_code == 401


async def test_a_browser_brings_its_key_as_a_subprotocol_there_alone(
    world: World, url: str, tmp_path: Path
) -> None:
    box = await box_with(world, tmp_path, ECHO)
    root = f"{url.replace('http', 'ws', 1)}/v1/sandboxes/{box}"
    offered = [Subprotocol("lsp"), Subprotocol(f"bearer.{TOKEN}")]
    async with connect(f"{root}/lsp/python", subprotocols=offered) as socket:
        assert socket.subprotocol == "lsp"
        await socket.recv()
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"{root}/exec/pty", subprotocols=offered):
            pass
    assert refused.value.response.status_code == 401


async def test_a_frame_that_is_too_large_ends_it(world: World, url: str, tmp_path: Path) -> None:
    box = await box_with(world, tmp_path, ECHO)
    async with speaking(url, box) as socket:
        await socket.send(b"x" * ((1 << 20) + 1))
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await socket.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


async def test_a_silence_ends_it(world: World, tmp_path: Path) -> None:
    box = await box_with(world, tmp_path, ECHO)
    servers = LanguageServers(world.control.plane.sandboxes, lambda: "lsp-1", 0.5)
    caller = Caller("default", "", Scope.ADMIN, "test")

    async def serve(socket: WebSocket) -> None:
        async with servers.open(caller, box, "python") as process:
            await socket.accept()
            await Conversation(socket, process, server_of("python"), servers.idle_seconds).last()
        await socket.close()

    async with (
        serving(Starlette(routes=[WebSocketRoute("/", serve)]), "127.0.0.1:0") as url,
        connect(url.replace("http", "ws", 1)) as socket,
    ):
        for _ in range(4):  # each word is a new beginning
            await asyncio.sleep(0.3)
            await socket.send(b"word")
        said, notices = await heard(socket)
    assert said == b"word" * 4
    assert notices[-1]["error"].startswith("Nothing was said for")
    assert notices[-1]["hint"] == "Connect again."
