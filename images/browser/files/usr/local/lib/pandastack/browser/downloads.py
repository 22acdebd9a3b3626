"""Has the browser keep in one folder what its pages download, while nobody who drives it says another: this build of
Chromium refuses downloads unless it is told, and forgets it with the connection that it was told by. So that stays open
until the browser ends; nothing is sent over it, and nothing wakes it.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from urllib.error import URLError

import websockets

DEVTOOLS = "http://127.0.0.1:9222"
ORDER = {
    "id": 1,
    "method": "Browser.setDownloadBehavior",
    "params": {"behavior": "allow", "downloadPath": "/workspace/downloads"},
}
PAUSE_SECONDS = 0.5
TRIES = 600


def address() -> str:
    """Of the browser's WebSocket, once it listens. Errors: URLError after five minutes."""
    for attempt in range(1, TRIES + 1):
        try:
            with urllib.request.urlopen(f"{DEVTOOLS}/json/version") as answer:  # noqa: S310  # nothing else runs here
                return str(json.load(answer)["webSocketDebuggerUrl"])
        except URLError:
            if attempt == TRIES:
                raise
            time.sleep(PAUSE_SECONDS)
    raise AssertionError


async def hold(url: str) -> None:
    """Return when the browser has ended."""
    async with websockets.connect(url, ping_interval=None, max_size=None) as socket:
        await socket.send(json.dumps(ORDER))
        async for _ in socket:
            pass


asyncio.run(hold(address()))
