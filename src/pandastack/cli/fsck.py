"""`pandastack fsck`: whether all snapshots in a state directory are as they were written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pandastack.cli.session import console, session_of
from pandastack.cli.state import DEFAULT_STATE, held, holder
from pandastack.errors import Conflict
from pandastack.host import fsck as checker
from pandastack.host.fsck import Finding, Progress, State

app = typer.Typer(add_completion=False)

COLUMNS = ("KIND", "ID", "SANDBOX", "SIZE", "STATE", "WHAT")


@app.command()
def fsck(
    ctx: typer.Context,
    state: Annotated[Path, typer.Option(help="The state directory that is checked.")] = DEFAULT_STATE,
    delete_damaged: Annotated[
        bool, typer.Option("--delete-damaged", help="Remove what is damaged; no server may run.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before that.")] = False,
) -> None:
    """Read all snapshots and compare them with their hashes; a server may run meanwhile.

    Exits with 1 when one is damaged, and tells its file and which 4 MiB of it.
    """
    state = state.expanduser()
    session = session_of(ctx)
    with _bar(console(stderr=True)) as progress:
        found = checker.check(state, progress, in_use=holder(state) is not None)
    session.table(found, COLUMNS, _rows(found))
    damaged = [finding for finding in found if finding.state is State.DAMAGED]
    if damaged and delete_damaged:
        _delete(state, damaged, yes=yes)
    if damaged:
        raise typer.Exit(1)


def _delete(state: Path, damaged: Sequence[Finding], *, yes: bool) -> None:
    """Remove them, once that is wanted, while no server works on the directory."""
    if holder(state) is not None:
        raise Conflict(
            f"A server runs on {state}: end it with `pandastack down`, or use `pandastack snapshot rm`."
        )
    if not yes:
        typer.confirm(f"Remove {len(damaged)} for ever?", abort=True, err=True)
    with held(state):
        checker.remove(damaged)
    typer.echo(f"removed: {len(damaged)}", err=True)


def _rows(found: Sequence[Finding]) -> Iterator[tuple[str, ...]]:
    for finding in found:
        yield (
            finding.kind,
            finding.id,
            finding.vm or "-",
            f"{finding.size_bytes / 1e6:.0f} MB",
            finding.state.value,
            finding.reason or "-",
        )


@contextmanager
def _bar(out: Console) -> Iterator[Progress]:
    """A bar over the bytes, on a terminal alone."""
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Bar(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("checking", total=None)

        def show(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield show
