"""`pandastack ports` and `pandastack preview`: what listens in a sandbox, and links to it."""

from __future__ import annotations

from typing import Annotated

import typer

from pandastack.cli.session import SandboxId, session_of
from pandastack.errors import InvalidRequest

app = typer.Typer(add_completion=False)

Port = Annotated[int, typer.Argument(metavar="PORT", min=1, max=65_535)]


@app.command()
def ports(ctx: typer.Context, sandbox_id: SandboxId) -> None:
    """List the ports of a sandbox: those that are listened on, and those with names."""
    session = session_of(ctx)
    sandbox = session.named(sandbox_id)
    found = sandbox.ports()
    rows = [
        (
            str(each["port"]),
            "yes" if each["listening"] else "no",
            each["label"] or "",
            sandbox.preview_url(each["port"]),
        )
        for each in found
    ]
    session.table(found, ("PORT", "LISTENING", "LABEL", "PREVIEW"), rows)


@app.command()
def preview(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    port: Port,
    ttl: Annotated[int, typer.Option(metavar="SECONDS", help="How long the link is good.")] = 3600,
    path: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Good for this path and below alone; repeatable.")
    ] = None,
    own_host: Annotated[
        bool, typer.Option("--own-host", help="To the port's own host name, for applications with cookies.")
    ] = False,
) -> None:
    """Make a link to a port and print it. Whoever has it may use it until it expires."""
    session = session_of(ctx)
    if own_host:
        if path:
            raise InvalidRequest("A link to the port's own host is good for all paths.")
        url = session.named(sandbox_id).visit_url(port, ttl_seconds=ttl)
        session.show({"url": url}, url)
        return
    made = session.named(sandbox_id).preview(port, ttl_seconds=ttl, paths=path or ())
    session.show(made, made["url"])
