"""`pandastack diff`: what leads from one state to another, a line each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from pandastack import Diff, NotFoundError, Point
from pandastack.cli.session import Session, console, session_of

app = typer.Typer()

STYLES = {"+": "green", "-": "red", "~": "yellow"}
PIPED_COLUMNS = 1000
"""For a program nothing is cut or wrapped."""

Place = Annotated[str, typer.Argument(help="A sandbox, a snapshot, or ID@STEP of a timeline.")]


@app.command()
def diff(
    ctx: typer.Context,
    a: Place,
    b: Place,
    path: Annotated[str, typer.Option("--path", "-p", help="Only files below this.")] = "/",
    limit: Annotated[int | None, typer.Option(min=1, max=100_000, help="So many of each kind.")] = None,
) -> None:
    """Show what leads from A to B: files, processes and listening ports that came, went or changed."""
    session = session_of(ctx)
    with console(stderr=True).status("comparing"):
        found = session.client().diff(_point(session, a), _point(session, b), path=path, limit=limit)
    if session.json:
        session.show(asdict(found), "")
        return
    out = console()
    if not out.is_terminal:
        out.width = PIPED_COLUMNS
    for sign, line in lines(found):
        out.print(Text(f"{sign} {line}", style=STYLES[sign]))
    typer.echo(summary(found), err=True)


def lines(found: Diff) -> Iterator[tuple[str, str]]:
    """Every difference: `+` came, `-` went, `~` changed."""
    for file in found.added:
        yield "+", f"{file.path}  {file.size} B"
    for file in found.removed:
        yield "-", f"{file.path}  {file.size} B"
    for change in found.changed:
        grown = "" if change.size_a == change.size_b else f"  {change.size_a} -> {change.size_b} B"
        yield "~", f"{change.path}  {change.reason}{grown}"
    for sign, processes in (("+", found.started), ("-", found.ended)):
        for process in processes:
            yield sign, f"process {process.pid}  {process.command}"
    for sign, ports in (("+", found.opened), ("-", found.closed)):
        for port in ports:
            yield sign, f"port {port.port}  {port.address}"


def summary(found: Diff) -> str:
    """All of it in one line."""
    files = f"{len(found.added)} files added, {len(found.removed)} removed, {len(found.changed)} changed"
    processes = f"{len(found.started)} processes started, {len(found.ended)} ended"
    ports = f"{len(found.opened)} ports opened, {len(found.closed)} closed"
    return f"{files}; {processes}; {ports}" + ("; there is more: raise --limit" if found.truncated else "")


def _point(session: Session, place: str) -> Point:
    """What a word names: a step, a sandbox, else a snapshot."""
    try:
        point = Point.of(place)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if point.step is not None:
        return point
    try:
        session.sandbox(place)
    except NotFoundError:
        return Point(snapshot_id=place)
    return point
