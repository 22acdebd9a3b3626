"""`pandastack forward`: ports of a sandbox as ports of this machine."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, NamedTuple

import typer

from pandastack import AsyncClient, AsyncPortConnection, AsyncSandbox
from pandastack.cli.session import SandboxId, session_of
from pandastack.errors import Conflict, PandastackError

app = typer.Typer(add_completion=False)

LOCAL = "127.0.0.1"
PIECE = 65_536
_PAIR = re.compile(r"(?:([0-9]{1,5}):)?([0-9]{1,5})", re.ASCII)


class Pair(NamedTuple):
    """A port here, 0 for any that is free, and the one in the sandbox."""

    here: int
    there: int


@app.command()
def forward(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    ports: Annotated[list[str], typer.Argument(metavar="HERE:THERE...", help="5432:5432, or 5432 for both.")],
) -> None:
    """Have ports of a sandbox as ports of this machine, until Ctrl-C.

    Whatever speaks TCP goes through, also to services that listen on the sandbox's loopback alone. A
    connection wakes a sandbox that sleeps, and keeps it awake.
    """
    session = session_of(ctx)
    asyncio.run(_forward(session.api, session.token, sandbox_id, [pair_of(word) for word in ports]))


def pair_of(word: str) -> Pair:
    """`HERE:THERE`, or one number for both."""
    found = _PAIR.fullmatch(word)
    if found is None or not 0 < int(found[2]) <= 65_535 or int(found[1] or 1) > 65_535:
        raise typer.BadParameter(f"{word} is no HERE:THERE of ports, as in 5432:5432.")
    return Pair(int(found[1] or found[2]), int(found[2]))


async def _forward(api: str | None, token: str | None, sandbox_id: str, pairs: list[Pair]) -> None:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(AsyncClient(api_url=api, api_key=token))
        sandbox = await client.sandboxes.get(sandbox_id)
        for pair in pairs:
            here = await stack.enter_async_context(listening(sandbox, pair))
            typer.echo(f"{LOCAL}:{here} leads to port {pair.there} of {sandbox_id}")
        await asyncio.Event().wait()


@asynccontextmanager
async def listening(sandbox: AsyncSandbox, pair: Pair) -> AsyncIterator[int]:
    """Carry every connection to a port of this machine into the sandbox; which port it is."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with sandbox.connect(pair.there) as connection:
                await _carried(connection, reader, writer)
        except* (PandastackError, ConnectionError) as errors:
            typer.echo(f"port {pair.there}: {errors.exceptions[0]}", err=True)
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(carry, LOCAL, pair.here)
    except OSError as error:
        raise Conflict(f"{LOCAL}:{pair.here} cannot be listened on: {error.strerror}.") from error
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _carried(
    connection: AsyncPortConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Both directions, each to its own end."""

    async def inwards() -> None:
        while data := await reader.read(PIECE):
            await connection.write(data)
        await connection.end()

    async def outwards() -> None:
        while data := await connection.read():
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(inwards())
        group.create_task(outwards())
