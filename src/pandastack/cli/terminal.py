"""`pandastack terminal`: terminals of a sandbox, which go on when nobody looks at them."""

from __future__ import annotations

from typing import Annotated

import typer

from pandastack.cli.session import SandboxId, age, session_of

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Terminals that go on when you leave.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The terminal, as `terminal ls` shows it.")]


@app.command("ls")
def list_all(ctx: typer.Context, sandbox_id: SandboxId) -> None:
    """List the terminals of a sandbox, those included that have ended and are remembered."""
    session = session_of(ctx)
    found = session.named(sandbox_id).terminals.list()
    rows = [
        (
            each["name"],
            "running" if each["running"] else f"ended with {each['exit_code']}",
            str(each["viewers"]),
            age(each["started_at"]),
            each["command"],
        )
        for each in found
    ]
    session.table(found, ("NAME", "STATE", "VIEWERS", "AGE", "COMMAND"), rows)


@app.command()
def create(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Else it is given one.")] = None,
    cmd: Annotated[str | None, typer.Option("--cmd", help="Another program than the user's shell.")] = None,
    cwd: Annotated[str | None, typer.Option("--cwd", "-w", help="Its directory.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Its user; root by default.")] = None,
) -> None:
    """Start a terminal that nobody looks at yet and print its name."""
    session = session_of(ctx)
    made = session.named(sandbox_id).terminals.create(name, cmd=cmd, cwd=cwd, user=user)
    session.show(made, made["name"])


@app.command("rm")
def end(ctx: typer.Context, sandbox_id: SandboxId, name: Name) -> None:
    """Hang up a terminal, which ends its program."""
    session = session_of(ctx)
    session.named(sandbox_id).terminals.end(name)
    session.show({"name": name, "running": False}, name)
