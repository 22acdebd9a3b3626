"""What every command shares: which server, and how an answer is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

import pandastack
from pandastack import errors
from pandastack.errors import PandastackError

if TYPE_CHECKING:
    from rich.console import Console

    from pandastack import Client, Sandbox

ADVICE: Mapping[type[PandastackError], str] = {
    errors.Unauthorized: "Give a key with --token or PANDASTACK_API_KEY.",
    errors.SandboxNotFound: "`pandastack sandbox ls` lists those there are.",
    errors.SnapshotNotFound: "`pandastack snapshot ls` lists those there are.",
    errors.TemplateNotFound: "`pandastack template ls` lists those there are.",
    errors.QuotaExceeded: "Remove a sandbox with `pandastack sandbox rm`, or raise the limit of the server.",
    errors.NoCapacity: "Try again shortly.",
    errors.NoSpace: "Free disk space on the server's machine.",
    errors.BootFailed: "`pandastack doctor` tells what this machine lacks.",
}
"""What to do next, where the server's sentence does not say it."""

SandboxId = Annotated[str, typer.Argument(metavar="ID", help="The sandbox, as `sandbox ls` shows it.")]


@dataclass(frozen=True)
class Session:
    """The program's own options."""

    json: bool = False
    api: str | None = None
    token: str | None = None

    def client(self) -> Client:
        """A client of the server that is meant."""
        return pandastack.Client(api_url=self.api, api_key=self.token)

    def sandbox(self, sandbox_id: str) -> Sandbox:
        """The sandbox with this id; NotFound when there is none."""
        return self.client().sandboxes.get(sandbox_id)

    def named(self, sandbox_id: str) -> Sandbox:
        """The sandbox of this id, without asking whether there is one: the verb will."""
        return pandastack.Sandbox.from_dict({"id": sandbox_id}, self.client())

    def show(self, value: object, text: str) -> None:
        """Print the value as JSON for a program, the text for a person."""
        typer.echo(encoded(value) if self.json else text)

    def fields(self, values: Mapping[str, object]) -> None:
        """Print named values: as a JSON object for a program, a line each for a person."""
        said = {name: value for name, value in values.items() if value or isinstance(value, int | float)}
        told = (f"{name}: {plain(value)}" for name, value in said.items())
        self.show(values, "\n".join(told))

    def table(self, values: Sequence[object], columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print the values as a JSON array for a program, the rows as a table for a person."""
        if self.json:
            typer.echo(encoded(values))
        else:
            print_table(columns, rows)


def session_of(ctx: typer.Context) -> Session:
    """The session of a command."""
    session = ctx.find_object(Session)
    return session if session is not None else Session()


def encoded(value: object) -> str:
    """JSON, indented."""
    json = import_module("msgspec").json
    return str(json.format(json.encode(value), indent=2).decode())


def plain(value: object) -> str:
    """A value as a person reads it; what is inside of it as `name=value`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={plain(inside)}" for name, inside in value.items())
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    return str(value)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table without lines. Its first column is never cut, and piped to a program none is."""
    lines = [tuple(columns), *(tuple(row) for row in rows)]
    out = console()
    if not out.is_terminal:
        typer.echo("\n".join(_aligned(lines)))
        return
    table = import_module("rich.table").Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        width = max(len(line[0]) for line in lines) if index == 0 else None
        table.add_column(column, no_wrap=True, min_width=width)
    for row in lines[1:]:
        table.add_row(*row)
    out.print(table, markup=False)


def _aligned(lines: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def console(*, stderr: bool = False) -> Console:
    """Standard output (or error) as rich writes to it."""
    made: Console = import_module("rich.console").Console(stderr=stderr, highlight=False)
    return made


@contextmanager
def bytes_gone(what: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A bar over the bytes that have gone, on a terminal alone."""
    progress = import_module("rich.progress")
    columns = [progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn()]
    out = console(stderr=True)
    with progress.Progress(
        *columns, progress.TransferSpeedColumn(), console=out, transient=True, disable=not out.is_terminal
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def age(created_at: str | None) -> str:
    """How long ago, roughly: `12s`, `5m`, `3h`, `2d`."""
    if not created_at:
        return ""
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(created_at)).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{max(seconds, 0)}s"


def advise(error: PandastackError) -> str:
    """One sentence about an error, and what to do next."""
    sentence = str(error).strip() or type(error).__name__
    if sentence[-1] not in ".!?":
        sentence += "."
    advice = next((text for kind, text in ADVICE.items() if isinstance(error, kind)), "")
    return f"{sentence} {advice}".strip()


def summary(made: Sandbox) -> str:
    """How a sandbox came up, in a line, with what its jail lacks."""
    lacks = f" · degraded: {', '.join(made.degraded)}" if made.degraded else ""
    return f"{made.template} · {made.boot_mode} · {made.boot_ms} ms · {made.isolation}{lacks}"


def pairs(items: Sequence[str], option: str) -> dict[str, str]:
    """`KEY=VALUE` items as a dictionary; a usage error for an item without `=`."""
    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{option} takes KEY=VALUE, not {item!r}.")
        found[key] = value
    return found
