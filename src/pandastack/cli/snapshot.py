"""`pandastack snapshot`: states of sandboxes that were kept."""

from __future__ import annotations

from typing import Annotated

import typer

from pandastack.cli.session import SandboxId, age, console, session_of

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Keep states of sandboxes, and go on from them."
)

SnapshotId = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="As `snapshot ls` shows it.")]


@app.command()
def create(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    name: Annotated[str | None, typer.Option("--name", "-n", help="What people call it.")] = None,
    comment: Annotated[str | None, typer.Option("--comment", "-c", help="Noted beside it.")] = None,
) -> None:
    """Keep a sandbox's memory and disk as they are now, and print the snapshot's id; the sandbox runs on."""
    session = session_of(ctx)
    with console(stderr=True).status("writing the snapshot"):
        made = session.client().snapshots.create(sandbox_id, name=name, comment=comment)
    typer.echo(f"{megabytes(made['size_bytes'])} · stood still for {made['pause_ms']:.0f} ms", err=True)
    session.show(made, made["id"])


@app.command("ls")
def list_all(
    ctx: typer.Context,
    sandbox_id: Annotated[
        str | None, typer.Option("--sandbox", "-s", metavar="ID", help="Only those of this sandbox.")
    ] = None,
) -> None:
    """List the snapshots, the newest first."""
    session = session_of(ctx)
    found = session.client().snapshots.list(sandbox_id=sandbox_id)
    rows = [
        (
            each["id"],
            each.get("name") or "",
            each["sandbox_id"],
            each["template"],
            megabytes(each["size_bytes"]),
            age(each["created_at"]),
            "damaged" if each.get("damaged") else each["state"],
            each.get("comment") or "",
        )
        for each in found
    ]
    session.table(found, ("ID", "NAME", "SANDBOX", "TEMPLATE", "SIZE", "AGE", "STATE", "COMMENT"), rows)


@app.command()
def get(ctx: typer.Context, snapshot_id: SnapshotId) -> None:
    """Show everything about a snapshot."""
    session = session_of(ctx)
    session.fields(session.client().snapshots.get(snapshot_id))


@app.command()
def rename(
    ctx: typer.Context,
    snapshot_id: SnapshotId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
) -> None:
    """Give a snapshot another name; a checkpoint that has one is kept until somebody removes it."""
    session = session_of(ctx)
    session.fields(session.client().snapshots.update(snapshot_id, name=name))


@app.command("rm")
def remove(
    ctx: typer.Context,
    snapshot_ids: Annotated[list[str], typer.Argument(metavar="SNAPSHOT...")],
) -> None:
    """Remove snapshots; what was made from them stays whole."""
    client = session_of(ctx).client()
    for each in snapshot_ids:
        client.snapshots.delete(each)
        typer.echo(each)


def megabytes(size_bytes: int) -> str:
    """A size for a person."""
    return f"{size_bytes / 1e6:.1f} MB"
