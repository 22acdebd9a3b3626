"""Who looks at a terminal. Each viewer follows it by a stream of its own, so none waits for another.

What a viewer has not taken yet waits in memory, at most BACKLOG bytes of it. Somebody who looks alone holds
the program up, as at any terminal. Among several nobody does: one who is too slow stops following, takes what
waits, and comes back to what the guest has kept, told how much it has missed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

from msgspec import Struct

from pandastack.errors import Forbidden, PandastackError, RateLimited
from pandastack.model.guest import Place, Process

BACKLOG = 256 << 10
"""Bytes that may wait for a viewer."""
SMALL = 4096
"""Pieces below are joined while they wait."""
VIEWERS_MOST = 32
"""Viewers of all terminals of a sandbox: the guest has streams for these and for its commands."""


class Attached(Struct, frozen=True):
    """The viewer follows from here on. First come `replayed` bytes that are old."""

    replayed: int
    size: tuple[int, int] | None


class Live(Struct, frozen=True):
    """What comes from here on is new."""


class Lagged(Struct, frozen=True):
    """The viewer was too slow and has missed `skipped` bytes. Behind this `replayed` old ones come again, the
    last that are kept.
    """

    skipped: int
    replayed: int
    size: tuple[int, int] | None


class Resized(Struct, frozen=True):
    """Another viewer has changed the size."""

    rows: int
    columns: int


class Ended(Struct, frozen=True):
    """The program has ended; nothing comes behind this."""

    exit_code: int


Notice = Attached | Live | Lagged | Resized | Ended
Attach = Callable[[], AbstractAsyncContextManager[Process]]


class Audience:
    """The viewers of one terminal."""

    def __init__(self) -> None:
        self.seats = 0
        """How many look at it, or are about to."""
        self._viewers: list[Viewer] = []

    @contextmanager
    def seat(self, viewer: Viewer) -> Iterator[None]:
        """One of them while the block lasts."""
        self._viewers.append(viewer)
        self._nudge()
        try:
            yield
        finally:
            self._viewers.remove(viewer)
            self._nudge()

    def tell_size(self, rows: int, columns: int, by: Viewer) -> None:
        """Let all others know what one has made of the size."""
        for viewer in self._viewers:
            if viewer is not by:
                viewer.hear_size(rows, columns)

    def _nudge(self) -> None:
        for viewer in self._viewers:
            viewer.look_again()


class Audiences:
    """All that look at terminals now, by sandbox and process."""

    def __init__(self) -> None:
        self._open: dict[str, dict[str, Audience]] = {}

    def count(self, sandbox_id: str, process_id: str) -> int:
        """How many look at this one."""
        audience = self._open.get(sandbox_id, {}).get(process_id)
        return 0 if audience is None else audience.seats

    @contextmanager
    def of(self, sandbox_id: str, process_id: str) -> Iterator[Audience]:
        """The audience of a terminal, for one more viewer. Errors: RateLimited beyond VIEWERS_MOST."""
        terminals = self._open.setdefault(sandbox_id, {})
        if sum(audience.seats for audience in terminals.values()) >= VIEWERS_MOST:
            raise RateLimited(f"{VIEWERS_MOST} viewers look at the terminals of this sandbox already.")
        audience = terminals.setdefault(process_id, Audience())
        audience.seats += 1
        try:
            yield audience
        finally:
            audience.seats -= 1
            if not audience.seats:
                del terminals[process_id]
            if not terminals:
                del self._open[sandbox_id]


class Viewer:
    """One who looks at a terminal. `follow` reads for it, `frames` is what it sees."""

    def __init__(self, attach: Attach, audience: Audience, hand: Process | None) -> None:
        self._attach = attach
        self._audience = audience
        self._hand = hand
        self._waiting: deque[bytes | Notice] = deque()
        self._bytes = 0
        self._position: int | None = None
        self._live_at: int | None = None
        self._size: Resized | None = None
        self._failure: PandastackError | None = None
        self._over = False
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()

    # -- what the viewer does

    async def frames(self) -> AsyncIterator[bytes | Notice]:
        """What there is to see, until the program has ended. Errors: those of the guest that was lost."""
        while True:
            self._arrived.clear()
            if self._waiting:
                item = self._waiting.popleft()
                self._bytes -= len(item) if isinstance(item, bytes) else 0
                self._taken.set()
                yield item
            elif self._size is not None:
                size, self._size = self._size, None
                yield size
            elif self._failure is not None:
                raise self._failure
            elif self._over:
                return
            else:
                await self._arrived.wait()

    async def write(self, data: bytes) -> None:
        """Type. Errors: Forbidden for one who only looks."""
        await self._hands().write(data)

    async def resize(self, rows: int, columns: int) -> None:
        """Give the terminal this size: whoever did so last decides for all. Errors: as `write`."""
        await self._hands().resize(rows, columns)
        self._audience.tell_size(rows, columns, self)

    def _hands(self) -> Process:
        if self._hand is None:
            raise Forbidden("This viewer only looks: it cannot type or change the size.")
        return self._hand

    # -- what it is told by the others

    def hear_size(self, rows: int, columns: int) -> None:
        """Another viewer has changed the size; only the last one counts."""
        self._size = Resized(rows, columns)
        self._arrived.set()

    def look_again(self) -> None:
        """Somebody came or left: whether it may hold the program up is another question now."""
        self._taken.set()

    # -- what is done for it

    async def follow(self) -> None:
        """Read for the viewer until the program has ended or the guest is lost, which `frames` then tells."""
        try:
            while not self._over:
                async with self._attach() as process:
                    await self._read(process)
                while self._waiting and not self._over:
                    await self._next_take()
        except PandastackError as error:
            self._failure = error
        finally:
            self._over = True
            self._arrived.set()

    async def _read(self, process: Process) -> None:
        """Until the program has ended, or this viewer is too slow for the others."""
        old = self._begin(process.place)
        async for piece in process.output():
            data = piece.data[old:]
            old = max(0, old - len(piece.data))
            if not await self._has_room(len(data)):
                return
            self._keep(data)
        self._put(Ended((await process.wait()).exit_code))
        self._over = True

    def _begin(self, place: Place) -> int:
        """Go on where it was, or tell that this is elsewhere. How many of the next bytes it has had."""
        before, self._position = self._position, place.offset
        if before is not None and place.offset <= before <= place.offset + place.replayed:
            self._position = before
            return before - place.offset
        self._live_at = place.offset + place.replayed
        if before is None:
            self._put(Attached(place.replayed, place.size))
        else:
            self._put(Lagged(max(0, place.offset - before), place.replayed, place.size))
        self._tell_live()
        return 0

    async def _has_room(self, size: int) -> bool:
        """Wait until so many bytes may wait too; False when others need not wait for that."""
        while self._bytes and self._bytes + size > BACKLOG:
            if self._audience.seats > 1:
                return False
            await self._next_take()
        return True

    async def _next_take(self) -> None:
        """Wait for something to be taken, or the audience to change."""
        self._taken.clear()
        await self._taken.wait()

    def _keep(self, data: bytes) -> None:
        if self._live_at is not None and self._position is not None:
            old = max(0, self._live_at - self._position)
            self._add(data[:old])
            self._tell_live()
            data = data[old:]
        self._add(data)

    def _tell_live(self) -> None:
        if self._live_at is not None and self._position is not None and self._position >= self._live_at:
            self._live_at = None
            self._put(Live())

    def _add(self, data: bytes) -> None:
        if not data:
            return
        self._position = (self._position or 0) + len(data)
        self._bytes += len(data)
        last = self._waiting[-1] if self._waiting else None
        if isinstance(last, bytes) and len(last) < SMALL:
            self._waiting[-1] = last + data
        else:
            self._waiting.append(data)
        self._arrived.set()

    def _put(self, notice: Notice) -> None:
        self._waiting.append(notice)
        self._arrived.set()
