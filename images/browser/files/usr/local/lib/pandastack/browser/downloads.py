"""Has the browser keep in one folder what its pages download, while nobody who drives it says another: this build of
Chromium refuses downloads unless it is told, and forgets it with the connection that it was told by. So that stays open
until the browser ends. Who leaves takes along what was said before him too; then it is said again.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from urllib.error import URLError

import websockets

DEVTOOLS = "http://127.0.0.1:9222"
WHERE = {"behavior": "allow", "downloadPath": "/workspace/downloads"}
ORDER = json.dumps({"id": 1, "method": "Browser.setDownloadBehavior", "params": WHERE})
WATCH = json.dumps({"id": 2, "method": "Target.setDiscoverTargets", "params": {"discover": True}})
LEFT = ("Target.targetInfoChanged", '"type":"page"', '"attached":false')
"""In what is said of a page whose driver has left it."""
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
        await socket.send(ORDER)
        await socket.send(WATCH)
        async for told in socket:
            if all(word in told for word in LEFT):
                await socket.send(ORDER)


asyncio.run(hold(address()))
