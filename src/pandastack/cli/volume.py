"""`pandastack volume`: disks that outlive sandboxes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pandastack.cli import copy
from pandastack.cli.progress import reporting
from pandastack.cli.session import age, console, session_of

if TYPE_CHECKING:
    from pandastack import Backup, VolumeAttachment

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Disks that outlive sandboxes.")

Name = Annotated[str, typer.Argument(metavar="NAME")]
BackupId = Annotated[str, typer.Argument(metavar="BACKUP")]
Size = Annotated[
    int | None,
    typer.Option(
        "--size", metavar="MIB", min=16, help="What it may hold; else 256, or what the other one may."
    ),
]
Volumes = Annotated[
    list[str] | None,
    typer.Option(
        "--volume",
        metavar="NAME[:PATH][:ro]",
        help="Have this volume, mounted at PATH, else at /mnt/NAME; `:ro` to read alone; again for more.",
    ),
]


@app.command("ls")
def list_all(ctx: typer.Context) -> None:
    """List the volumes."""
    session = session_of(ctx)
    found = session.client().volumes.list()
    rows = [
        (
            each["name"],
            f"{each['size_mb']} MiB",
            "snapshot" if each["frozen"] else "",
            f"{each['size_bytes'] / 1e6:.1f} MB",
            age(each["created_at"]),
            ", ".join(map(_holder, each["attachments"])),
        )
        for each in found
    ]
    head = ("NAME", "SIZE", "KIND", "TAKES", "AGE", "ATTACHED TO")
    session.table(found, head, rows)


@app.command()
def create(
    ctx: typer.Context,
    name: Name,
    size: Size = None,
    origin: Annotated[
        str | None, typer.Option("--from", metavar="VOLUME", help="With what is on this one now.")
    ] = None,
) -> None:
    """Make a volume, empty or as a copy."""
    session = session_of(ctx)
    made = session.client().volumes.create(name, size, from_volume=origin)
    session.show(made, made["name"])


@app.command()
def backup(
    ctx: typer.Context,
    name: Name,
    wait: Annotated[bool, typer.Option(help="Go on until it is ready.")] = True,
) -> None:
    """Keep what is on a volume now where the server keeps blobs."""
    session = session_of(ctx)
    client, stderr = session.client(), console(stderr=True)
    begun = client.volumes.backup(name)
    if not wait:
        session.show(begun, begun["id"])
        return
    try:
        with reporting(stderr) as steps:
            done = client.backups.wait(
                begun["id"], on_progress=lambda each: steps(f"saving {name}", _share(each))
            )
    except KeyboardInterrupt:
        typer.echo(f"It goes on: `pandastack volume cancel {begun['id']}` gives it up.", err=True)
        raise
    session.show(done, done["id"])


@app.command()
def backups(ctx: typer.Context, name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None) -> None:
    """List backups: all of them, or those of a volume, there or not."""
    session = session_of(ctx)
    found = session.client().backups.list(name)
    rows = [
        (
            each["id"],
            each["volume"],
            _standing(each),
            f"{each['size_mb']} MiB",
            f"{each['total_bytes'] / 1e6:.1f} MB",
            f"{each['stored_bytes'] / 1e6:.1f} MB",
            age(each["created_at"]),
        )
        for each in found
    ]
    session.table(found, ("ID", "VOLUME", "STATUS", "SIZE", "HAS", "TOOK", "AGE"), rows)


@app.command()
def restore(ctx: typer.Context, backup_id: BackupId, name: Name, size: Size = None) -> None:
    """Make a volume with what one had at a backup."""
    session = session_of(ctx)
    with console(stderr=True).status(f"restoring {name}"):
        made = session.client().volumes.create(name, size, from_backup=backup_id)
    session.show(made, made["name"])


@app.command()
def verify(ctx: typer.Context, backup_id: BackupId) -> None:
    """Read all of a backup, and name what is not as it was kept."""
    session = session_of(ctx)
    with console(stderr=True).status("reading"):
        found = session.client().backups.verify(backup_id)
    session.show(found, "\n".join(found["damaged"]) or "whole")
    if found["damaged"]:
        raise typer.Exit(1)


@app.command()
def cancel(ctx: typer.Context, backup_id: BackupId) -> None:
    """Give up a backup that is being saved."""
    session = session_of(ctx)
    ended = session.client().backups.cancel(backup_id)
    session.show(ended, ended["status"])


@app.command("rm-backup")
def remove_backup(ctx: typer.Context, backup_id: BackupId) -> None:
    """Delete a backup."""
    session_of(ctx).client().backups.delete(backup_id)


@app.command()
def snapshot(ctx: typer.Context, name: Name, to: Annotated[str, typer.Argument(metavar="SNAPSHOT")]) -> None:
    """Keep what is on a volume now as one that is never written."""
    session = session_of(ctx)
    made = session.client().volumes.snapshot(name, to)
    session.show(made, made["name"])


@app.command()
def grow(ctx: typer.Context, name: Name, size: Annotated[int, typer.Argument(metavar="MIB", min=16)]) -> None:
    """Have a volume hold more, whoever has it."""
    session = session_of(ctx)
    grown = session.client().volumes.grow(name, size)
    session.show(grown, f"{grown['size_mb']} MiB")


@app.command()
def get(ctx: typer.Context, name: Name) -> None:
    """Show everything about a volume."""
    session = session_of(ctx)
    session.fields(dict(session.client().volumes.get(name)))


@app.command("cp")
def copy_files(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC")],
    target: Annotated[str, typer.Argument(metavar="DST")],
) -> None:
    """Copy a file or directory; one side is NAME:/path. No sandbox may write the volume meanwhile."""
    copy.between(session_of(ctx).client().volumes.files, source, target)


@app.command("files")
def list_files(
    ctx: typer.Context, name: Name, path: Annotated[str, typer.Argument(metavar="PATH")] = "/"
) -> None:
    """List a directory of a volume."""
    session = session_of(ctx)
    found = sorted(session.client().volumes.files(name).listdir(path), key=lambda each: each.name)
    rows = [
        (f"{each.name}{'/' * each.is_dir}", str(each.size), f"{each.permissions or 0:04o}") for each in found
    ]
    session.table([dataclasses.asdict(each) for each in found], ("NAME", "BYTES", "MODE"), rows)


@app.command("rm")
def remove(ctx: typer.Context, name: Name) -> None:
    """Delete a volume and all that is in it."""
    session_of(ctx).client().volumes.delete(name)


def wishes_of(options: list[str] | None) -> list[dict[str, Any]]:
    """What `--volume` says."""
    return [_wish(option) for option in options or []]


def _wish(option: str) -> dict[str, Any]:
    name, *rest = option.split(":")
    read_only = rest[-1:] == ["ro"]
    path = rest[: len(rest) - read_only]
    if not name or len(path) > 1:
        raise typer.BadParameter(f"--volume takes NAME[:PATH][:ro], not {option!r}.")
    return {"name": name, "read_only": read_only, **({"path": path[0]} if path else {})}


def _share(backup: Backup) -> float:
    """So much of it (0…1) has been read."""
    return backup["done_bytes"] / (backup["total_bytes"] or 1)


def _standing(backup: Backup) -> str:
    if backup["status"] == "saving":
        return f"{_share(backup):.0%}"
    return "damaged" if backup["damaged"] else backup["status"]


def _holder(attachment: VolumeAttachment) -> str:
    return f"{attachment['sandbox_id'][:8]}{' (reads)' if attachment['read_only'] else ''}"
