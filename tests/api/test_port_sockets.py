"""WebSockets to services of sandboxes, and plain connections as WebSockets."""

from __future__ import annotations

from typing import Any

import pytest
import websockets

from tests.api.conftest import TOKEN, below
from tests.gateway.upstream import Reader, Upstream, Writer, echo_websocket

pytestmark = pytest.mark.anyio


def ws(url: str) -> str:
    return url.replace("http", "ws")


def keyed(**more: Any) -> dict[str, Any]:  # noqa: ANN401  # arguments of the library
    return {"additional_headers": {"authorization": f"Bearer {TOKEN}"}, "proxy": None, **more}


async def test_a_websocket_echoes(url: str, box: str, upstream: Upstream) -> None:
    upstream.answer = echo_websocket
    address = ws(url) + below(box, upstream.port, "/chat?x=1")
    async with websockets.connect(address, **keyed(subprotocols=["chat"])) as socket:
        assert socket.subprotocol == "chat"
        for message in ("ü", b"bytes", "x" * 500_000, b""):
            await socket.send(message)
            assert await socket.recv() == message


async def test_a_websocket_that_is_not_wanted(url: str, box: str, upstream: Upstream) -> None:
    with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
        async with websockets.connect(ws(url) + below(box, upstream.port, "/"), **keyed()):
            pass
    assert caught.value.response.status_code == 502
    with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
        async with websockets.connect(ws(url) + below(box, upstream.port, "/"), proxy=None):
            pass
    assert caught.value.response.status_code == 401


async def test_a_plain_connection(url: str, box: str, upstream: Upstream) -> None:
    async def answer(reader: Reader, writer: Writer) -> None:
        writer.write(b"hello ")
        writer.write(await reader.read())  # to the end of the other direction
        writer.write(b" bye")
        await writer.drain()

    upstream.answer = answer
    address = f"{ws(url)}/v1/sandboxes/{box}/tcp/{upstream.port}"
    async with websockets.connect(address, **keyed()) as socket:
        assert await socket.recv() == b"hello "
        await socket.send(b"some")
        await socket.send(b"thing")
        await socket.send(b"")
        got = b""
        while piece := await socket.recv():
            got += bytes(piece, "ascii") if isinstance(piece, str) else piece
        assert got == b"something bye"
