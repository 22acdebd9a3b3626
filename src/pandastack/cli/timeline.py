"""`pandastack sandbox …`: the steps of a sandbox, and what goes on from them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pandastack import Step
from pandastack.cli.session import SandboxId, age, console, pairs, session_of, summary
from pandastack.cli.snapshot import megabytes

app = typer.Typer(add_completion=False)

Number = Annotated[
    int, typer.Argument(metavar="STEP", help="As `sandbox timeline` shows it; -1 is the newest.")
]


@app.command()
def timeline(ctx: typer.Context, sandbox_id: SandboxId) -> None:
    """List the steps of a sandbox that was created with --checkpoints: one behind each command."""
    session = session_of(ctx)
    sandbox = session.named(sandbox_id)
    steps = sandbox.timeline()
    columns = ("STEP", "AGE", "EXIT", "TOOK", "SIZE", "NAME", "COMMAND")
    session.table([asdict(each) for each in steps], columns, [_row(each) for each in steps])
    for missed in sandbox.missed_steps():
        line = " ".join(missed.command.split())
        where = f"behind {line}" if line else "before the first command"
        console(stderr=True).print(f"no step {where}: {missed.error}", style="yellow", markup=False)


@app.command(context_settings={"ignore_unknown_options": True})
def at(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    step: Number,
    ttl: Annotated[int | None, typer.Option(help="Seconds it may idle.")] = None,
    persistent: Annotated[bool, typer.Option("--persistent", help="Never end it for idling.")] = False,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", "-m", metavar="KEY=VALUE", help="Noted beside it.")
    ] = None,
) -> None:
    """Make a sandbox that goes on from a step of this one, and print its id."""
    session = session_of(ctx)
    notes = pairs(metadata or [], "--metadata")
    with console(stderr=True).status("going back"):
        made = session.named(sandbox_id).at(step, metadata=notes, ttl_seconds=ttl, persistent=persistent)
    typer.echo(summary(made), err=True)
    session.show(made.to_dict(), made.id)


def _row(step: Step) -> tuple[str, ...]:
    code = "" if step.exit_code is None else str(step.exit_code)
    took = "" if step.duration_ms is None else f"{step.duration_ms} ms"
    line = " ".join(step.command.split())
    return str(step.step), age(step.at), code, took, megabytes(step.size_bytes), step.name, line
