"""`pandastack doctor`: what this machine can do for sandboxes, and what mends what it lacks."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pandastack.cli.session import console, session_of
from pandastack.cli.state import DEFAULT_STATE
from pandastack.config import ControlConfig, HostConfig, load
from pandastack.host.checks import Check, Outcome
from pandastack.host.doctor import Report, examine
from pandastack.model.sandbox import Isolation

app = typer.Typer(add_completion=False)

MARKS = {Outcome.OK: ("✓", "green"), Outcome.WARN: ("!", "yellow"), Outcome.FAIL: ("✗", "red")}

VERDICTS = {
    Isolation.HARDWARE: "Sandboxes run on hardware virtualization.",
    Isolation.EMULATED: "Sandboxes run emulated: slower, and not the boundary that hardware is.",
    Isolation.NONE: "Sandboxes have no isolation.",
}


@app.command()
def doctor(
    ctx: typer.Context,
    state: Annotated[Path, typer.Option(help="The state directory that is meant.")] = DEFAULT_STATE,
    listen: Annotated[str | None, typer.Option(help="The address that is meant.")] = None,
    config: Annotated[Path | None, typer.Option(help="A configuration file (TOML).")] = None,
) -> None:
    """Tell what this machine can do, and one line that mends each lack.

    Exits with 1 when no sandbox can be had here.
    """
    environment = dict(os.environ)
    control = load(ControlConfig, file=config, environment=environment, flags={"listen": listen})
    host = load(HostConfig, file=config, environment=environment, flags={"state_dir": state})
    with console(stderr=True).status("looking at this machine"):
        report = asyncio.run(examine(host, control.listen, environment))
    session = session_of(ctx)
    if session.json:
        session.show(report, "")
    else:
        show(report, console())
    if not report.works:
        raise typer.Exit(1)


def show(report: Report, out: Console) -> None:
    """A line a check; below those that are not well, why it matters and what mends it."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in report.checks:
        mark, style = MARKS[check.ok]
        table.add_row(Text(mark, style), Text(check.name, "bold"), Text(check.found))
        if check.ok is not Outcome.OK:
            table.add_row("", "", Padding(advice(check), (0, 0, 0, 2)))
    out.print(table)
    out.print()
    out.print(VERDICTS[report.isolation] if report.works else "No sandbox can be had here yet: see ✗ above.")


def advice(check: Check) -> Text:
    """Why a lack matters, and the line that mends it."""
    text = Text(check.why_it_matters, "dim")
    return text.append(f"\n→ {check.mend}", "cyan") if check.mend else text
