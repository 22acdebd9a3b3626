"""A browser of a sandbox as Playwright has it, and a way for it to this machine, which no sandbox reaches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

from pandastack import AsyncSandbox
from pandastack.client import AsyncPortConnection
from pandastack.errors import PandastackError

PATIENCE_MS = 90_000
"""A page may take so long, on a machine that others load too."""
MEETING = 8999
"""The port of the sandbox where connections from here wait for those of its browser."""
WAITING = 8
PIECE = 1 << 16
PROGRAM = f"""
import asyncio
import sys

waiting = asyncio.Queue()


async def offered(*connection):
    await waiting.put(connection)


async def asked(reader, writer):
    there_reader, there_writer = await waiting.get()
    there_writer.write(writer.get_extra_info("sockname")[1].to_bytes(2, "big"))
    await asyncio.gather(piped(reader, there_writer), piped(there_reader, writer))


async def piped(reader, writer):
    try:
        while data := await reader.read({PIECE}):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


async def main():
    for port in map(int, sys.argv[1:]):
        await asyncio.start_server(asked, "127.0.0.1", port)
    await asyncio.start_server(offered, "127.0.0.1", {MEETING})
    open("/run/meeting", "w").close()
    await asyncio.Event().wait()


asyncio.run(main())
"""


@asynccontextmanager
async def driven(address: str) -> AsyncIterator[Browser]:
    """The browser behind an address."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(address, timeout=PATIENCE_MS)
        for context in browser.contexts:
            context.set_default_timeout(PATIENCE_MS)
        yield browser


async def until(page: Page, expression: str, fits: Callable[[Any], bool]) -> None:
    """Return once what a page says fits."""
    async with asyncio.timeout(PATIENCE_MS / 1000):
        while not fits(await page.evaluate(expression)):
            await asyncio.sleep(0.2)


@asynccontextmanager
async def leading_here(box: AsyncSandbox, *ports: int) -> AsyncIterator[None]:
    """Have ports of a sandbox's loopback be those of this machine's.

    Nothing leads from a sandbox to its host: so connections are made from here, and wait there to be used.
    """
    await box.files.write("/srv/meeting.py", PROGRAM)
    await box.commands.start(f"exec python3 /srv/meeting.py {' '.join(map(str, ports))}")
    await box.exec("until test -e /run/meeting; do sleep 0.1; done", check=True, timeout_seconds=60)
    async with asyncio.TaskGroup() as group:
        ways = group.create_task(_ways(box))
        yield
        ways.cancel()


async def _ways(box: AsyncSandbox) -> None:
    """Have so many connections wait, and one more for each that is taken."""
    async with asyncio.TaskGroup() as group:

        async def wait() -> None:
            try:
                async with box.connect(MEETING) as connection:
                    if wanted := await connection.read():
                        group.create_task(wait())
                        await _lead(connection, int.from_bytes(wanted[:2], "big"), wanted[2:])
            except* (PandastackError, OSError):
                pass  # one side has hung up, as browsers do

        for _ in range(WAITING):
            group.create_task(wait())


async def _lead(there: AsyncPortConnection, port: int, data: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def back() -> None:
        while answer := await reader.read(PIECE):
            await there.write(answer)
        await there.end()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(back())
            writer.write(data)
            while data := await there.read():
                writer.write(data)
                await writer.drain()
            writer.close()
    finally:
        writer.close()
