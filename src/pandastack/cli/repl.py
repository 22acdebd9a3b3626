"""`pandastack repl`: cells typed one after the other, in a context of a sandbox."""

from __future__ import annotations

import sys
from codeop import compile_command
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from typing import Annotated

import typer

from pandastack import CodeContext, Execution, PandastackError
from pandastack.cli.code import context_of, show
from pandastack.cli.session import SandboxId, advise, session_of

app = typer.Typer(add_completion=False)

FOREVER = 0.0


@app.command()
def repl(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    language: Annotated[
        str, typer.Option("--language", "-l", help="python, bash, javascript, or what is installed there.")
    ] = "python",
    new: Annotated[bool, typer.Option("--new", help="In a new context.")] = False,
) -> None:
    """Type cells into a sandbox and see their results, in the context of `pandastack code`.

    Ctrl-C stops the cell that runs, Ctrl-D leaves; what the context knows stays.
    """
    context = context_of(session_of(ctx).named(sandbox_id), language, new=new)
    if sys.stdin.isatty():
        with suppress(ImportError):  # without it lines cannot be edited
            import_module("readline")
    number = 1
    while (cell := _read(context.language, number)) is not None:
        if not cell.strip():
            continue
        try:
            done = _run(context, cell)
        except PandastackError as error:
            typer.echo(f"pandastack: {advise(error)}", err=True)
            continue
        number = done.execution_count + 1
        if done.error:
            typer.echo(done.error, err=True)


def _read(language: str, number: int) -> str | None:
    """The next cell; None when nobody types any more. Ctrl-C drops what was typed of it."""
    lines: list[str] = []
    while True:
        try:
            lines.append(input(f"[{number}] " if not lines else " " * len(f"[{number}]") + " "))
        except EOFError:
            typer.echo("")
            return None
        except KeyboardInterrupt:
            typer.echo("")
            lines.clear()
            continue
        if _is_whole(language, lines):
            return "\n".join(lines)


def _is_whole(language: str, lines: list[str]) -> bool:
    """A cell is a line, or of Python all that belongs to what it has begun."""
    if language != "python":
        return not lines[-1].endswith("\\")
    text = "\n".join(lines)
    if text.lstrip()[:1] in ("%", "!"):  # IPython's own
        return True
    try:
        return compile_command(text) is not None
    except (SyntaxError, ValueError, OverflowError):
        return not lines[-1].strip() or len(lines) == 1  # the kernel says what is wrong with it


def _run(context: CodeContext, cell: str) -> Execution:
    """Run a cell to its end; Ctrl-C interrupts it there, and its end is waited for."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            context.run_code,
            cell,
            FOREVER,
            on_stdout=lambda piece: typer.echo(piece, nl=False),
            on_stderr=lambda piece: typer.echo(piece, nl=False, err=True),
            on_result=show,
        )
        while True:
            try:
                return running.result()
            except KeyboardInterrupt:
                context.interrupt()
