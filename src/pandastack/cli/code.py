"""`pandastack code`: a cell in a sandbox, which finds what the last one has left."""

from __future__ import annotations

import base64
import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from pandastack import CodeContext, Execution, Result, Sandbox
from pandastack.cli.session import SandboxId, session_of

app = typer.Typer(add_completion=False)

ENDINGS = {"image/png": "png", "image/jpeg": "jpeg", "image/svg+xml": "svg"}


@app.command()
def code(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    cell: Annotated[
        str | None, typer.Argument(metavar="CODE", help="What to run; what comes in here by default.")
    ] = None,
    language: Annotated[
        str, typer.Option("--language", "-l", help="python, bash, javascript, or what is installed there.")
    ] = "python",
    timeout: Annotated[
        float | None, typer.Option(help="Seconds until it is interrupted; 30 by default, 0 for never.")
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="In a new context.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Forget first what the context knows.")] = False,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FOLDER", help="Keep the images that it shows here.")
    ] = None,
) -> None:
    """Run a piece of code in a sandbox, where the last one's variables still are, and print its results.

    It runs in the oldest context of its language, which is made when there is none. The exit code is 0, or 1
    when the code failed; of a shell the status.
    """
    session = session_of(ctx)
    context = context_of(session.named(sandbox_id), language, new=new)
    if restart:
        context.restart()
    text = sys.stdin.read() if cell is None else cell
    quiet = session.json
    done = context.run_code(
        text,
        timeout,
        on_stdout=None if quiet else lambda piece: typer.echo(piece, nl=False),
        on_stderr=None if quiet else lambda piece: typer.echo(piece, nl=False, err=True),
        on_result=None if quiet else show,
    )
    if save is not None:
        _save(done, save)
    if quiet:
        session.show(dataclasses.asdict(done), "")
    elif done.error:
        typer.echo(done.error, err=True)
    raise typer.Exit(done.exit_code)


def context_of(sandbox: Sandbox, language: str, *, new: bool) -> CodeContext:
    """The oldest of this language, or a new one."""
    if not new:
        if sandbox.refresh().status == "hibernated":
            sandbox.wake()
        for context in sandbox.code_contexts():
            if context.language == language:
                return context
    return sandbox.create_code_context(language)


def show(result: Result) -> None:
    """What of a result fits into a terminal."""
    if result.text is not None:
        typer.echo(result.text)


def _save(done: Execution, folder: Path) -> None:
    """Each image in a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for result in done.results:
        for kind, ending in ENDINGS.items():
            if (content := result.data.get(kind)) is None:
                continue
            number += 1
            data = content.encode() if ending == "svg" else base64.b64decode(content)
            path = folder / f"{number}.{ending}"
            path.write_bytes(data)
            typer.echo(str(path), err=True)
