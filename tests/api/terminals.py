"""Somebody who looks at a terminal through a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect

from tests.api.conftest import TOKEN, World

PATIENCE = 30.0


class Eyes:
    """What one viewer has seen: `text` since it came or was told of a gap, and the notices in order."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.text = b""
        self.notices: list[dict[str, Any]] = []

    async def see(self) -> None:
        """Take the next frame."""
        async with asyncio.timeout(PATIENCE):
            frame = await self.connection.recv()
        if isinstance(frame, bytes):
            self.text += frame
            return
        notice = dict(json.loads(frame))
        if "lagged" in notice:
            self.text = b""
        self.notices.append(notice)

    async def until(self, words: bytes) -> None:
        """Look until these words are there."""
        while words not in self.text:
            await self.see()

    async def notice(self, kind: str) -> Any:  # noqa: ANN401  # any JSON value
        """Look until a notice of this kind came; what it holds."""
        while not any(kind in each for each in self.notices):
            await self.see()
        return next(each[kind] for each in self.notices if kind in each)

    async def type(self, line: str) -> None:
        await self.connection.send(f"{line}\n".encode())

    async def resize(self, rows: int, cols: int) -> None:
        await self.connection.send(json.dumps({"resize": {"rows": rows, "cols": cols}}))


@asynccontextmanager
async def looking(url: str, box: str, name: str, **query: object) -> AsyncIterator[Eyes]:
    """Look at a terminal while the block lasts."""
    path = f"{url.replace('http', 'ws', 1)}/v1/sandboxes/{box}/terminals/{name}/ws?{urlencode(query)}"
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with connect(path, additional_headers=headers, max_size=None) as connection:
        yield Eyes(connection)


async def opened(world: World, box: str, name: str = "main", **body: object) -> dict[str, Any]:
    """A new terminal of `sh`, as its answer."""
    request = {"name": name, "cmd": "PS1='$ ' exec sh", **body}
    answer = await world.http.post(f"/v1/sandboxes/{box}/terminals", json=request)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def known(world: World, box: str) -> dict[str, dict[str, Any]]:
    """All terminals of a sandbox by name."""
    answer = await world.http.get(f"/v1/sandboxes/{box}/terminals")
    assert answer.status_code == 200, answer.text
    return {each["name"]: each for each in answer.json()}
