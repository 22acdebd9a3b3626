"""One change at a time a sandbox, and one of a kind for all who ask for the same at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Generic, TypeVar

from pandastack.carrying import undone

T = TypeVar("T")


class _Place:
    """A lock, and how many hold it or wait for it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class Turns:
    """Changes of one sandbox's machine take turns: snapshot, hibernate, wake, rollback, pause, resume.

    A delete takes none: it wins over whatever is under way.
    """

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._away: dict[str, list[asyncio.Event]] = {}

    @asynccontextmanager
    async def turn(self, sandbox_id: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Not to be asked for within one's own."""
        place = self._places.setdefault(sandbox_id, _Place())
        place.users += 1
        try:
            async with place.lock:
                yield
        finally:
            place.users -= 1
            if not place.users:
                del self._places[sandbox_id]

    @contextmanager
    def away(self, sandbox_id: str) -> Iterator[None]:
        """Within a turn: its machine stands still, is exchanged or ended, and who would use it waits."""
        back = self.hold_off(sandbox_id)
        try:
            yield
        finally:
            self.let_in(sandbox_id, back)

    def hold_off(self, sandbox_id: str) -> asyncio.Event:
        """Who would use its machine from now on waits, until what this gives is given to `let_in`."""
        back = asyncio.Event()
        self._away.setdefault(sandbox_id, []).append(back)
        return back

    def let_in(self, sandbox_id: str, back: asyncio.Event) -> None:
        """Let in who waits, unless there is another reason to wait."""
        reasons = self._away[sandbox_id]
        reasons.remove(back)
        if not reasons:
            del self._away[sandbox_id]
        back.set()

    async def settled(self, sandbox_id: str) -> None:
        """Return when its machine is not away and nobody is held off."""
        while reasons := self._away.get(sandbox_id):
            await reasons[0].wait()

    def is_taken(self, sandbox_id: str) -> bool:
        """Whether somebody has its turn, or waits for one."""
        return sandbox_id in self._places


class _Flight(Generic[T]):
    def __init__(self, task: asyncio.Task[T]) -> None:
        self.task = task
        self.waiting = 0


class Flights(Generic[T]):
    """The same work, asked for by many at once, is done once; each is given its result or its error.

    It is cancelled, and its end awaited, when the last who waits for it has left.
    """

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[T]] = {}

    async def join(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the flight under way for `key`, or of one that begins now."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(work(), name=f"flight {key}"))
            flight.task.add_done_callback(lambda _: self._landed(key, flight))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._landed(key, flight)
                await undone(flight.task)

    def _landed(self, key: str, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
