"""`pandastack template`: what sandboxes are made from."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer

from pandastack.cli.progress import Steps, reporting
from pandastack.cli.session import console, session_of
from pandastack.config import HostConfig, load
from pandastack.host.agent import ensure_agent, find_images_dir
from pandastack.host.builder import build_image
from pandastack.host.image import Image
from pandastack.host.paths import Cache

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List and prepare templates.")


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


@app.command()
def build(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    refresh: Annotated[bool, typer.Option("--refresh", help="Look for newer packages.")] = False,
) -> None:
    """Build a template's image on this machine, unless it is there and made from the same."""
    config = load(HostConfig, environment=dict(os.environ))
    stderr = console(stderr=True)
    with reporting(stderr) as steps:
        image = asyncio.run(_build(Cache(config.cache_dir), name, steps, refresh=refresh))
    steps.tell(stderr)
    session_of(ctx).show({"name": name, "digest": image.digest}, image.digest)


async def _build(cache: Cache, name: str, steps: Steps, *, refresh: bool) -> Image:
    agent = await ensure_agent(cache)
    return await build_image(name, cache, find_images_dir(), agent, steps, refresh=refresh)
