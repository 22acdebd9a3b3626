"""A cell: while it runs, and what it has shown in the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from msgspec import structs

from pandastack.errors import CellTimeout, PandastackError
from pandastack.jupyter.places import Places
from pandastack.model.clock import Clock
from pandastack.model.code import (
    CellEnd,
    CellError,
    CellEvent,
    CellRequest,
    CellResult,
    Missed,
    Shown,
    Text,
)
from pandastack.model.guest import Guest
from pandastack.services.commands import Tail
from pandastack.services.kernel_lines import Held

HEAR_SECONDS = 3.0
"""For a kernel to understand that it is to stop what it does."""
STOP_SECONDS = 5.0
"""For a cell that was interrupted to end, before it is told that it does not."""
TEXT_MOST = 4 << 20
"""Bytes of each of its two texts that are told; their end is."""
RESULTS_MOST = 256
RESULT_BYTES_MOST = 16 << 20
"""Of one cell; what comes behind them is left out."""


class RunningCell:
    """A cell, given to its kernel when its events are read."""

    def __init__(self, held: Held, guest: Guest, request: CellRequest, clock: Clock) -> None:
        self._held = held
        self._guest = guest
        self._request = request
        self._clock = clock
        self._timeout = request.timeout_ms / 1000
        self._expired = False
        self.began = clock.steady()
        self._end = self.began + self._timeout if request.timeout_ms else None
        self.over = False
        self.exit_code = 1
        self.language = held.record.language

    async def events(self) -> AsyncGenerator[CellEvent, None]:
        """What it shows, as it comes; not reading on holds the kernel up. CellEnd is the last.

        Errors: CellTimeout, behind what an interrupted cell has shown; PortClosed when the kernel has left.
        """
        async with aclosing(self._held.line.run(self._request.code, self)) as run:
            async for event in run:
                if isinstance(event, CellEnd):
                    self.over = True
                    self.exit_code = event.exit_code
                    spent = round((self._clock.steady() - self.began) * 1000)
                    event = structs.replace(event, duration_ms=spent)  # the same, completed
                if not (self.over and self._expired):
                    yield event
        if self._expired:
            raise CellTimeout(f"{self._exceeded()}; it was interrupted, and its context goes on")

    def left(self) -> float | None:
        """Seconds until its deadline."""
        return None if self._end is None else max(0.0, self._end - self._clock.steady())

    async def pass_(self) -> None:
        """Interrupt it, and give it a moment to end. Errors: CellTimeout when it has had that."""
        stubborn = f"{self._exceeded()}, and it does not stop: restart its context"
        if self._expired:
            self.over = True
            raise CellTimeout(stubborn)
        self._expired = True
        try:
            await interrupt(self._held, self._guest)
        except TimeoutError:
            self.over = True
            raise CellTimeout(stubborn) from None
        self._end = self._clock.steady() + STOP_SECONDS

    async def give_up(self) -> None:
        """Interrupt it, as far as that can be done: nobody waits for it any more."""
        with suppress(PandastackError, TimeoutError):
            await interrupt(self._held, self._guest)

    def _exceeded(self) -> str:
        return f"cell timeout: exceeded {self._timeout:g}s"


async def interrupt(held: Held, guest: Guest) -> None:
    """Have a kernel stop its cell, in the way that it understands. Errors: TimeoutError."""
    if held.record.interrupt == "signal":
        await Places(guest).interrupt(held.record)
    else:
        await held.line.interrupt(HEAR_SECONDS)


class Cell:
    """Collects what a cell shows, and no more of it than is told."""

    def __init__(self, began: float, text_most: int) -> None:
        self._began = began
        most = min(text_most, TEXT_MOST)
        self._text = {"stdout": Tail(most), "stderr": Tail(most)}
        self._results: list[Shown] = []
        self._size = 0
        self._missed = False
        self._error: CellError | None = None
        self._end = CellEnd(1, 0)

    def add(self, event: CellEvent) -> None:
        """One more event."""
        if isinstance(event, Text):
            self._text[event.channel].add(event.text.encode("utf-8", "replace"))
        elif isinstance(event, Shown):
            self._show(event)
        elif isinstance(event, CellError):
            self._error = event
        elif isinstance(event, CellEnd):
            self._end = event
        elif isinstance(event, Missed):
            self._missed = True

    def _show(self, shown: Shown) -> None:
        """One more result, or for an update another content of those that it names.

        What an earlier cell has displayed is told no more; an update of that is a result of this cell.
        """
        places = [place for place, other in enumerate(self._results) if _is_updated(other, shown)]
        grown = _size(shown) * max(1, len(places)) - sum(_size(self._results[place]) for place in places)
        if (not places and len(self._results) >= RESULTS_MOST) or self._size + grown > RESULT_BYTES_MOST:
            self._missed = True
            return
        self._size += grown
        for place in places:
            self._results[place] = structs.replace(self._results[place], data=shown.data)
        if not places:
            self._results.append(shown)

    def result(self, language: str, now: float) -> CellResult:
        """All of it, at its end."""
        stdout, stderr = self._text["stdout"], self._text["stderr"]
        texts = stdout.text(), stderr.text()
        mains = [place for place, shown in enumerate(self._results) if shown.main]
        return CellResult(
            stdout=texts[0],
            stderr=texts[1],
            results=tuple(shown.data for shown in self._results),
            main=mains[-1] if mains else None,
            error=self._error.formatted() if self._error else None,
            error_detail=self._error,
            exit=self._end.exit_code,
            exit_code=self._end.exit_code,
            execution_count=self._end.execution_count,
            duration_ms=round((now - self._began) * 1000),
            language=language,
            truncated=self._missed or stdout.cut or stderr.cut,
            kernel_ms=self._end.kernel_ms,
        )


def _size(shown: Shown) -> int:
    return sum(len(name) + len(value) for name, value in shown.data.items())


def _is_updated(shown: Shown, update: Shown) -> bool:
    return update.update and shown.display_id == update.display_id
