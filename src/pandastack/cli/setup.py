"""`pandastack setup`: everything that a server would otherwise make at its first start."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from pandastack.cli.progress import Steps, reporting
from pandastack.cli.session import console
from pandastack.config import HostConfig, load
from pandastack.host.agent import find_images_dir
from pandastack.host.app import open_host
from pandastack.host.builder import prepare
from pandastack.host.manifest import load_recipe, template_names
from pandastack.host.paths import Cache

app = typer.Typer()


@app.command()
def setup(
    templates: Annotated[
        list[str] | None, typer.Argument(help="Only these; else all but those on demand.")
    ] = None,
    bake: Annotated[bool, typer.Option("--bake/--no-bake", help="Boot each once and keep it.")] = True,
    config: Annotated[Path | None, typer.Option(help="A configuration file (TOML).")] = None,
) -> None:
    """Build and bake what is missing; seconds when nothing is.

    What was finished before an interruption is not made again.
    """
    host = load(HostConfig, file=config, environment=dict(os.environ))
    stderr = console(stderr=True)
    with reporting(stderr) as steps:
        asyncio.run(_make(host, templates, steps, bake=bake))
    steps.tell(stderr)


async def _make(host: HostConfig, templates: list[str] | None, steps: Steps, *, bake: bool) -> None:
    images_dir = find_images_dir()
    names = templates or [name for name in template_names(images_dir) if not _waits(name, images_dir)]
    await prepare(Cache(host.cache_dir), images_dir, names, steps)
    if not bake:
        return
    with tempfile.TemporaryDirectory(prefix="pandastack-setup-") as state:
        async with open_host(msgspec.structs.replace(host, state_dir=Path(state)), steps) as opened:
            for name in names:
                steps(f"baking {name}", None)
                await opened.bake(name)


def _waits(name: str, images_dir: Path) -> bool:
    """Whether a template is made when it is first wanted, and not before."""
    return load_recipe(name, images_dir).manifest.on_demand
