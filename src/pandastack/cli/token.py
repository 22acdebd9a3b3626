"""`pandastack token`: the keys of the API."""

from __future__ import annotations

from typing import Annotated

import typer

from pandastack.cli.session import session_of

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make and end API keys.")


@app.command("ls")
def list_all(ctx: typer.Context) -> None:
    """List the keys, without their secrets."""
    session = session_of(ctx)
    found = session.client().tokens.list()
    rows = [(each.prefix, each.name, each.created_at or "") for each in found]
    session.table(found, ("PREFIX", "NAME", "CREATED"), rows)


@app.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for.")],
    days: Annotated[int | None, typer.Option(help="Ends by itself after so many days.")] = None,
) -> None:
    """Make a key and print it: it is shown only now."""
    session = session_of(ctx)
    made = session.client().tokens.create(name, expires_in_days=days)
    session.show(made, made.token or "")


@app.command("rm")
def remove(ctx: typer.Context, prefix: Annotated[str, typer.Argument(metavar="PREFIX")]) -> None:
    """End a key, named by the prefix that `token ls` shows."""
    session_of(ctx).client().tokens.revoke(prefix)
