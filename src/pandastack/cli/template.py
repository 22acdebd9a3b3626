"""`pandastack template`: what sandboxes are made from."""

from __future__ import annotations

from typing import Annotated

import typer

from pandastack.cli.session import console, session_of

app = typer.Typer(no_args_is_help=True, help="List and prepare templates.")


@app.command("ls")
def list_all(ctx: typer.Context) -> None:
    """List the templates of the server."""
    session = session_of(ctx)
    found = session.client().templates.list()
    rows = [
        (
            each.name,
            str(each.cpu),
            f"{each.memory_mb} MiB",
            f"{(each.size_bytes or 0) / 1e6:.0f} MB",
            "yes" if each.baked else "no",
            each.description or "",
        )
        for each in found
    ]
    session.table(found, ("NAME", "CPU", "MEMORY", "IMAGE", "BAKED", "DESCRIPTION"), rows)


@app.command()
def bake(ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Make sure that the server restores a template instead of booting it."""
    session = session_of(ctx)
    with console(stderr=True).status(f"baking {name}: it boots once, for real"):
        baked = session.client().templates.bake(name)
    session.show(baked, f"{name} is baked")
