"""`pandastack lsp`: a language server in a sandbox, for an editor that starts its servers as programs."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from threading import BoundedSemaphore, Thread
from typing import Annotated

import typer

from pandastack import AsyncClient, AsyncLanguageServer
from pandastack.cli.session import SandboxId, Session, session_of

app = typer.Typer(add_completion=False)

PIECE_BYTES = 64 << 10
PIECES_MOST = 16
AFTER_SECONDS = 30.0
"""How long the server may go on when its editor has said all: it was told to end, or nobody is there."""


@app.command()
def lsp(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    language: Annotated[str, typer.Argument(metavar="LANGUAGE", help="Of the files.")] = "python",
) -> None:
    """Be a language server, for an editor: it runs in a sandbox and knows the files there.

    The editor speaks the Language Server Protocol on standard input and output. Paths are the sandbox's own,
    e.g. file:///workspace.
    """
    raise typer.Exit(asyncio.run(_bridge(session_of(ctx), sandbox_id, language)))


async def _bridge(session: Session, sandbox_id: str, language: str) -> int:
    """The exit code: the server's, or 0 when the editor left first."""
    async with AsyncClient(api_url=session.api, api_key=session.token) as client:
        sandbox = await client.sandboxes.get(sandbox_id)
        async with sandbox.lsp(language, on_stderr=_complain) as server:
            await _converse(server, Typed())
            return server.exit_code or 0


async def _converse(server: AsyncLanguageServer, said: Typed) -> None:
    """Until the server has ended, or the editor has left for AFTER_SECONDS."""
    try:
        async with asyncio.TaskGroup() as group:
            showing = group.create_task(_show(server))
            telling = group.create_task(_tell(server, said, showing))
            await asyncio.wait([showing])
            telling.cancel()
    except BaseExceptionGroup as errors:  # both sides end by the first that goes wrong: it is what is told
        raise errors.exceptions[0] from None


async def _show(server: AsyncLanguageServer) -> None:
    async for piece in server.pieces():
        while piece:
            piece = piece[os.write(sys.stdout.fileno(), piece) :]


async def _tell(server: AsyncLanguageServer, said: Typed, showing: asyncio.Task[None]) -> None:
    while data := await said.get():
        await server.write(data)
    await asyncio.wait([showing], timeout=AFTER_SECONDS)
    showing.cancel()


class Typed:
    """What comes in here, as it comes; nothing at its end. A pipe, a file or a terminal may be there, hence a
    thread: it ends with the program.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._room = BoundedSemaphore(PIECES_MOST)
        Thread(target=self._read, daemon=True).start()

    async def get(self) -> bytes:
        """The next piece of it."""
        piece = await self._pieces.get()
        self._room.release()
        return piece

    def _read(self) -> None:
        piece = b"more"
        while piece:
            self._room.acquire()
            piece = os.read(sys.stdin.fileno(), PIECE_BYTES)
            with suppress(RuntimeError):  # the program has ended
                self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)


def _complain(line: str) -> None:
    typer.echo(line, err=True)
