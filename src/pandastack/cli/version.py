"""`pandastack version`."""

from __future__ import annotations

import typer

import pandastack
from pandastack.cli.session import session_of

app = typer.Typer()


@app.command()
def version(ctx: typer.Context) -> None:
    """Print the version of this program."""
    number = pandastack.__version__
    session_of(ctx).show({"version": number}, f"pandastack {number}")
