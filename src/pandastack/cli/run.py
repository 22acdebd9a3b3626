"""`pandastack run`: create, run, stream, destroy."""

from __future__ import annotations

import sys
from typing import Annotated, BinaryIO

import typer

from pandastack import Sandbox
from pandastack.cli.session import pairs, session_of

app = typer.Typer()

GREEDY = {"allow_interspersed_args": False, "ignore_unknown_options": True}


@app.command(context_settings=GREEDY)
def run(  # noqa: PLR0913  # each is an option of the command line
    ctx: typer.Context,
    command: Annotated[list[str], typer.Argument(metavar="[--] COMMAND...", help="What to run.")],
    template: Annotated[str, typer.Option("--template", "-t", help="Made from this.")] = "code-interpreter",
    timeout: Annotated[float | None, typer.Option(help="Seconds until it is killed.")] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", metavar="KEY=VALUE", help="Its environment.")
    ] = None,
    file: Annotated[
        list[str] | None, typer.Option("--file", "-f", metavar="SRC:DST", help="Copied in first.")
    ] = None,
    cwd: Annotated[str | None, typer.Option("--cwd", "-w", help="Its directory.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Its user; root by default.")] = None,
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Give it what comes in here.")] = False,
) -> None:
    """Run one command in a sandbox of its own, which is destroyed afterwards, and exit with its exit code.

    One word is a line for the shell, several are a program and its arguments.
    """
    session = session_of(ctx)
    files = [split_copy(item) for item in file or []]
    environment = pairs(env or [], "--env")
    with session.client() as client, client.sandboxes.create(template, ttl_seconds=3600) as sandbox:
        for source, target in files:
            sandbox.files.upload(source, target)
        code = attached(
            sandbox,
            command,
            timeout,
            cwd=cwd,
            env=environment,
            user=user,
            stdin=standard_input() if stdin else None,
        )
    raise typer.Exit(code)


def attached(  # passed on as they came
    sandbox: Sandbox,
    command: list[str],
    timeout: float | None,
    *,
    cwd: str | None = None,
    env: dict[str, str] | None = None,
    user: str | None = None,
    stdin: bytes | None = None,
) -> int:
    """Run a command with its output on ours; its exit code."""
    return sandbox.exec_stream(
        command[0] if len(command) == 1 else command,
        on_stdout=lambda text: _write(sys.stdout.buffer, text),
        on_stderr=lambda text: _write(sys.stderr.buffer, text),
        timeout_seconds=timeout,
        cwd=cwd,
        env=env,
        user=user,
        stdin=stdin,
    )


def standard_input() -> bytes:
    """All that comes in here."""
    return sys.stdin.buffer.read()


def _write(stream: BinaryIO, text: str) -> None:
    stream.write(text.encode("utf-8", "surrogateescape"))
    stream.flush()


def split_copy(item: str) -> tuple[str, str]:
    """`SRC:DST` in two; a usage error for anything else."""
    source, colon, target = item.rpartition(":")
    if not colon or not source or not target.startswith("/"):
        raise typer.BadParameter(f"--file takes SRC:/absolute/path, not {item!r}.")
    return source, target
