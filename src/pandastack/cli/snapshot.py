"""`pandastack snapshot`: states of sandboxes that were kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pandastack.cli.session import SandboxId, age, bytes_gone, console, session_of

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Keep states of sandboxes, and go on from them."
)

SnapshotId = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="As `snapshot ls` shows it.")]

Comment = Annotated[str | None, typer.Option("--comment", "-c", help="Noted beside it.")]


@app.command()
def create(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    name: Annotated[str | None, typer.Option("--name", "-n", help="What people call it.")] = None,
    comment: Comment = None,
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
    comment: Comment = None,
) -> None:
    """Give a snapshot another name; a checkpoint that has one is kept until somebody removes it."""
    session = session_of(ctx)
    session.fields(session.client().snapshots.update(snapshot_id, name=name, comment=comment))


@app.command("export")
def write_file(
    ctx: typer.Context,
    snapshot_id: SnapshotId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Replaced when all of it is there.")],
) -> None:
    """Write a snapshot into one file, with all that a restore of it needs, sealed by the server's key.

    The file has what was in the sandbox's memory, secrets too.
    """
    session = session_of(ctx)
    with bytes_gone("exporting", None) as progress:
        session.client().snapshots.export(snapshot_id, file, on_progress=progress)
    session.show({"file": str(file), "size_bytes": file.stat().st_size}, str(file))


@app.command("import")
def read_file(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="From `snapshot export`.", exists=True, dir_okay=False)
    ],
    name: Annotated[str | None, typer.Option("--name", "-n", help="What people call it.")] = None,
    comment: Comment = None,
) -> None:
    """Make a snapshot from a file of this server, or of one whose key it has, and print its id."""
    session = session_of(ctx)
    with bytes_gone("importing", file.stat().st_size) as progress:
        made = session.client().snapshots.import_(file, name=name, comment=comment, on_progress=progress)
    session.show(made, made["id"])


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
