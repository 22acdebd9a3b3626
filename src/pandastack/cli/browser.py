"""`pandastack browser`: links to the browser of a sandbox, and pictures of its pages."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from pandastack.cli.session import SandboxId, session_of
from pandastack.errors import InvalidRequest

app = typer.Typer(add_completion=False)

KINDS = {".png": "screenshot", ".pdf": "pdf"}


@app.command()
def browser(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    ttl: Annotated[int, typer.Option(metavar="SECONDS", help="How long the links are good.")] = 3600,
    live: Annotated[bool, typer.Option("--open", help="Open the live view here.")] = False,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page to FILE.png or FILE.pdf instead.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The page of --save; the one that is open by default.")
    ] = None,
) -> None:
    """Print where programs drive the browser of a sandbox (CDP), and where people look at it and click.

    Whoever has a link has the browser, with all that it is logged in to, until the link expires.
    """
    session = session_of(ctx)
    sandbox = session.named(sandbox_id)
    if save is not None:
        kind = KINDS.get(save.suffix.lower())
        if kind is None:
            raise InvalidRequest(f"A page is saved as .png or .pdf; got {save.name!r}.")
        content = sandbox.screenshot(url) if kind == "screenshot" else sandbox.pdf(url)
        save.write_bytes(content)
        session.show({"file": str(save), "bytes": len(content)}, f"{save}: {len(content)} bytes")
        return
    made = sandbox.browser(ttl_seconds=ttl)
    session.show(made, f"cdp   {made['cdp_url']}\nhttp  {made['http_url']}\nlive  {made['live_url']}")
    if live and not webbrowser.open(made["live_url"]):
        typer.echo("No browser of this machine can be opened: use the live link.", err=True)
