"""What takes long, shown while it happens: a moving line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

WORTH_SECONDS = 0.05
"""Shorter steps do not appear in the table."""


class Steps:
    """Is told what goes on, shows it, and remembers how long each step took."""

    def __init__(self, show: Callable[[str, float | None], None], clock: Callable[[], float]) -> None:
        self.laps: list[tuple[str, float]] = []
        self._show = show
        self._clock = clock
        self._current = ""
        self._began = clock()

    def __call__(self, what: str, fraction: float | None) -> None:
        """`what` goes on, and so much of it (0…1) is done."""
        if what != self._current:
            self.finish()
            self._current = what
        self._show(what, fraction)

    def finish(self) -> None:
        """The current step is over."""
        now = self._clock()
        if self._current:
            self.laps.append((self._current, now - self._began))
        self._current, self._began = "", now

    def tell(self, console: Console) -> None:
        """Print where the time went, if it went anywhere."""
        table = Table(title="where the time went", box=None, title_justify="left", show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        for what, seconds in self.laps:
            if seconds >= WORTH_SECONDS:
                table.add_row(what, f"{seconds:.2f} s")
        if table.row_count:
            console.print(table, markup=False)


@contextmanager
def reporting(console: Console) -> Iterator[Steps]:
    """Steps that show themselves on `console` until the block ends."""
    if console.is_terminal:
        with _bar(console) as show:
            steps = Steps(show, time.monotonic)
            yield steps
    else:
        steps = Steps(_Lines(console), time.monotonic)
        yield steps
    steps.finish()


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[str, float | None], None]]:
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None, visible=False)

        def show(what: str, fraction: float | None) -> None:
            total = None if fraction is None else 1.0
            progress.update(task, description=what, completed=fraction or 0.0, total=total, visible=True)

        yield show


class _Lines:
    """One line for each new step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def __call__(self, what: str, fraction: float | None) -> None:
        if what != self._last:
            self._console.print(what, soft_wrap=True)
            self._last = what
