"""Has the browser do once what it will be asked for first, so that all of that is in memory: a page is loaded,
drawn, clicked in, photographed, printed and watched. Then all pages are closed, the first one too: what draws a
page has its chance (Math.random, the order of hashes) from when it was started, so none is started before the
snapshot that all sandboxes go on from.
"""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import websockets

DEVTOOLS = "http://127.0.0.1:9222"
SECONDS = 240
PAGE = b"""<!doctype html><html lang=en><meta charset=utf-8><title>Warm</title>
<link rel=stylesheet href=/style.css>
<h1>A page, <b>drawn</b> <i>once</i> <code>code</code></h1>
<p style="font-family: serif">Text of all kinds: caf\xc3\xa9, \xe2\x82\xac, \xf0\x9f\x99\x82.
<form><input id=word name=word><input type=password><select><option>one<option>two</select>
<button id=go type=button>Go</button></form>
<table><tr><td>1<td>2</table><img src=/dot.svg alt=dot><canvas id=canvas width=80 height=40></canvas>
<script src=/script.js></script>"""
STYLE = b"body { font: 16px sans-serif; display: grid; gap: 1em } button { transition: all .1s; border-radius: 4px }"
SCRIPT = b"""
const draw = document.getElementById('canvas').getContext('2d');
draw.fillStyle = '#3a6'; draw.fillRect(0, 0, 40, 40); draw.fillText('text', 45, 20);
document.getElementById('go').addEventListener('click', async () => {
  localStorage.setItem('warm', '1'); sessionStorage.setItem('warm', '1'); document.cookie = 'warm=1';
  const told = await (await fetch('/data.json')).json();
  document.title = told.word + [3, 1, 2].sort().map(String).join('') + /a(b)/.exec('ab')[1];
  document.body.insertAdjacentHTML('beforeend', `<p>${JSON.stringify(told)}</p>`);
});
"""
DOT = b'<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><circle cx="10" cy="10" r="9"/></svg>'
SITE = {
    "/": ("text/html", PAGE),
    "/style.css": ("text/css", STYLE),
    "/script.js": ("text/javascript", SCRIPT),
    "/dot.svg": ("image/svg+xml", DOT),
    "/data.json": ("application/json", b'{"word": "done"}'),
}


class Site(BaseHTTPRequestHandler):
    """A page with what pages are made of."""

    def do_GET(self) -> None:
        """The file of this path."""
        kind, body = SITE.get(self.path, ("text/plain", b""))
        self.send_response(200 if self.path in SITE else 404)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Nobody reads it."""


class Browser:
    """The browser at the other end of a WebSocket."""

    def __init__(self, socket: Any) -> None:  # noqa: ANN401  # the library has no types
        self.socket, self.number = socket, 0
        self.heard: list[dict[str, Any]] = []

    async def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        """The result of one order; what happens meanwhile is kept."""
        self.number += 1
        order = {"id": self.number, "method": method, "params": params}
        await self.socket.send(json.dumps(order | ({"sessionId": session} if session else {})))
        while True:
            told = json.loads(await self.socket.recv())
            if told.get("id") == self.number:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']}")
                return told["result"]
            self.heard.append(told)

    async def until(self, event: str) -> dict[str, Any]:
        """What has happened or will."""
        while True:
            for at, told in enumerate(self.heard):
                if told.get("method") == event:
                    return self.heard.pop(at)
            self.heard.append(json.loads(await self.socket.recv()))


@asynccontextmanager
async def connected() -> AsyncIterator[Browser]:
    """The browser that runs here."""
    with urllib.request.urlopen(f"{DEVTOOLS}/json/version") as answer:  # noqa: ASYNC210, S310  # nothing else runs
        url = json.load(answer)["webSocketDebuggerUrl"]
    async with websockets.connect(url, max_size=None) as socket:
        yield Browser(socket)


async def visit(browser: Browser, site: str) -> None:
    """What a program that drives a browser does with a page, from its making to its end."""
    target = (await browser.call("Target.createTarget", url="about:blank"))["targetId"]
    session = (await browser.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
    page = partial(browser.call, session=session)
    for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
        await page(f"{domain}.enable")
    await page("Page.setLifecycleEventsEnabled", enabled=True)
    await page("Emulation.setFocusEmulationEnabled", enabled=True)
    await page("Page.addScriptToEvaluateOnNewDocument", source="1", worldName="warm")
    browser.heard.clear()
    await page("Page.navigate", url=site)
    await browser.until("Page.loadEventFired")
    box = await page(
        "Runtime.evaluate",
        expression="(({x, y}) => ({x: x + 5, y: y + 5}))(document.getElementById('go').getBoundingClientRect())",
        returnByValue=True,
    )
    place = {**box["result"]["value"], "button": "left", "clickCount": 1}
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        await page("Input.dispatchMouseEvent", type=kind, **place)
    await page("Input.insertText", text="word")
    expression = "new Promise(done => setTimeout(() => done(document.title), 300))"
    await page("Runtime.evaluate", expression=expression, awaitPromise=True)
    picture = await page("Page.captureScreenshot", format="png")
    printed = await page("Page.printToPDF")
    for data, begins in ((picture["data"], b"\x89PNG"), (printed["data"], b"%PDF")):
        if not base64.b64decode(data).startswith(begins):
            raise RuntimeError(f"what should begin with {begins!r} does not")
    await page("Page.startScreencast", format="jpeg", quality=70, maxWidth=1280, maxHeight=800)
    frame = await browser.until("Page.screencastFrame")
    await page("Page.screencastFrameAck", sessionId=frame["params"]["sessionId"])
    await page("Page.stopScreencast")
    await browser.call("Target.closeTarget", targetId=target)


async def main() -> None:
    """Visit a site of our own, and forget it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    Thread(target=server.serve_forever, daemon=True).start()
    async with connected() as browser:
        await asyncio.wait_for(visit(browser, f"http://127.0.0.1:{server.server_port}/"), SECONDS)
        await browser.call("Storage.clearCookies")
        for target in (await browser.call("Target.getTargets"))["targetInfos"]:
            if target["type"] == "page":
                await browser.call("Target.closeTarget", targetId=target["targetId"])
    server.shutdown()


asyncio.run(main())
