"""What a question is given to be answered with, and what takes long shown while it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn, track

from benchmarks.api import Api
from benchmarks.result import Answer
from pandastack.host.qemu_command import Vmm
from pandastack.testing.server import Server


class Stage(Struct, frozen=True):
    """A fresh server, a client of it, and the VMM that both of them start; `baseline` is a checkout of
    another version to compare with, where one was given.
    """

    server: Server
    api: Api
    vmm: Vmm
    console: Console
    baseline: Path | None = None

    def times(self, count: int, what: str) -> Iterable[int]:
        """Count to `count`, with a bar on a terminal."""
        quiet = not self.console.is_terminal
        return track(range(count), f"[dim]{what}", console=self.console, transient=True, disable=quiet)

    @contextmanager
    def transfer(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Bytes on their way, with a bar on a terminal; the block tells how many have passed."""
        columns = (TextColumn(f"[dim]{what}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        quiet = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=quiet) as progress:
            task = progress.add_task(what, total=total)
            yield lambda size: progress.update(task, advance=size)


class Question(Struct, frozen=True):
    """Something to be found out; `quick` is so many times or so much as shows that it works."""

    asks: str
    measure: Callable[[Stage, int], Answer]
    count: int
    quick: int
