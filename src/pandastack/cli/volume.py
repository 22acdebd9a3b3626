"""`pandastack volume`: disks that outlive sandboxes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pandastack.cli import copy
from pandastack.cli.session import age, session_of

if TYPE_CHECKING:
    from pandastack import VolumeAttachment

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Disks that outlive sandboxes.")

Name = Annotated[str, typer.Argument(metavar="NAME")]
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
    size: Annotated[
        int | None, typer.Option("--size", metavar="MIB", min=16, help="What it may hold; else 256.")
    ] = None,
    origin: Annotated[
        str | None, typer.Option("--from", metavar="VOLUME", help="With what is on this one now.")
    ] = None,
) -> None:
    """Make a volume, empty or as a copy."""
    session = session_of(ctx)
    made = session.client().volumes.create(name, size, from_volume=origin)
    session.show(made, made["name"])


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


def _holder(attachment: VolumeAttachment) -> str:
    return f"{attachment['sandbox_id'][:8]}{' (reads)' if attachment['read_only'] else ''}"
