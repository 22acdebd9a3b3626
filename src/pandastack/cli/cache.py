"""`pandastack cache`: what was built and baked on this machine, and the removal of what nobody needs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from pandastack.cli.session import console, session_of
from pandastack.config import HostConfig, load
from pandastack.host import prune
from pandastack.host.paths import Cache
from pandastack.host.prune import Entry

app = typer.Typer(no_args_is_help=True, help="See and free what this machine keeps of images and snapshots.")

COLUMNS = ("KIND", "NAME", "DIGEST", "SIZE", "LAST USED", "IN USE BY")


@app.command("ls")
def list_all(ctx: typer.Context) -> None:
    """List what is in the cache of this machine."""
    with console(stderr=True).status("looking through the cache"):
        found = prune.entries(_cache())
    session_of(ctx).table(found, COLUMNS, _rows(found))


@app.command("prune")
def remove(
    ctx: typer.Context,
    keep_days: Annotated[
        float, typer.Option(min=0, help="Keep what was used within so many days.")
    ] = prune.KEEP_DAYS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
) -> None:
    """Remove what is superseded, not in use, and was not used for some days.

    Never removed: what a server or a machine uses, the image and snapshot of each template that were used
    last, and what was used within the hour.
    """
    with console(stderr=True).status("looking through the cache"):
        gone = prune.prune(_cache(), now=time.time(), keep_days=keep_days, dry_run=dry_run)
    freed = sum(entry.size_bytes for entry in gone)
    session = session_of(ctx)
    if session.json:
        session.show({"removed": gone, "freed_bytes": freed, "dry_run": dry_run}, "")
        return
    if gone:
        session.table(gone, COLUMNS, _rows(gone))
    typer.echo(f"{'would be freed' if dry_run else 'freed'}: {_megabytes(freed)}")


def _cache() -> Cache:
    return Cache(load(HostConfig, environment=dict(os.environ)).cache_dir)


def _rows(found: Sequence[Entry]) -> Iterator[tuple[str, ...]]:
    for entry in found:
        yield (
            entry.kind.value,
            entry.name or "-",
            entry.digest[:12] or "-",
            _megabytes(entry.size_bytes),
            f"{entry.last_used.astimezone():%Y-%m-%d %H:%M}",
            ", ".join(entry.in_use_by) or "-",
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
