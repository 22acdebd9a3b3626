"""Lines to kernels that are kept open from one cell to the next: to open one takes longer than most cells.

A line is no use of its sandbox. It ends with its machine (which is also how it ends at a hibernation, a
rollback or a delete), with its kernel, or when it was not used for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from pandastack.carrying import undone
from pandastack.errors import PandastackError, PortClosed
from pandastack.jupyter.line import Line, open_line
from pandastack.jupyter.messages import ConnectionFile
from pandastack.jupyter.places import Record
from pandastack.model.guest import Guest
from pandastack.telemetry import logger

log = logger("kernels")

IDLE_SECONDS = 600.0


class Key(NamedTuple):
    """Whose line it is."""

    sandbox_id: str
    context_id: str


class Held(NamedTuple):
    """An open line, and the context's record as it was when it was opened."""

    line: Line
    record: Record


class _Kept:
    """A line, the task that holds it open, and when it was last asked for."""

    def __init__(self, guest: Guest, file: ConnectionFile, record: Record) -> None:
        self.guest = guest
        self.record = record
        self.file = file
        self.line: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        self.used = asyncio.get_running_loop().time()
        self.task: asyncio.Task[None] | None = None


class KernelLines:
    """All lines of a server; they are open while `work` runs."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._kept: dict[Key, _Kept] = {}
        self._wanted: asyncio.Queue[tuple[Key, _Kept]] = asyncio.Queue()

    async def work(self) -> None:
        """Open the lines that are wanted, and hold them, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                key, kept = await self._wanted.get()
                kept.task = group.create_task(self._hold(key, kept))

    def known(self, key: Key) -> Held | None:
        """The line that is open; None when there is none."""
        kept = self._kept.get(key)
        if kept is None or not kept.line.done() or kept.line.cancelled() or kept.line.exception():
            return None
        line = kept.line.result()
        if line.broken:
            return None
        kept.used = asyncio.get_running_loop().time()
        return Held(line, kept.record)

    async def open(self, key: Key, guest: Guest, file: ConnectionFile, record: Record) -> Held:
        """A line to the kernel of this file, which takes connections and answers.

        Errors: PortClosed, TimeoutError, and those of the guest.
        """
        if (held := self.known(key)) is not None:
            return held
        kept = self._kept.get(key)
        if kept is None or kept.line.done():
            kept = self._kept[key] = _Kept(guest, file, record)
            self._wanted.put_nowait((key, kept))
        return Held(await asyncio.shield(kept.line), kept.record)

    async def close(self, key: Key) -> None:
        """Close one; fine when there is none."""
        kept = self._kept.pop(key, None)
        if kept is not None and kept.task is not None:
            await undone(kept.task)

    async def _hold(self, key: Key, kept: _Kept) -> None:
        """Until it breaks, is closed, or was not used for a while. Nobody is left waiting for it."""
        error: Exception = PortClosed("the connection to the kernel was closed")
        try:
            async with open_line(kept.guest, kept.file, self._new_id) as line:
                await self._serve(kept, line)
        except* (PandastackError, TimeoutError) as errors:
            error = errors.exceptions[0]
        except* Exception:  # a bug must not end the lines of the others
            log.exception("line.crashed", sandbox_id=key.sandbox_id)
        finally:
            if not kept.line.done():
                kept.line.set_exception(error)
                kept.line.exception()
            if self._kept.get(key) is kept:
                del self._kept[key]

    @staticmethod
    async def _serve(kept: _Kept, line: Line) -> None:
        async with asyncio.TaskGroup() as group:
            beside = (group.create_task(_meet(kept, line)), group.create_task(_until_unused(kept, line)))
            await line.serve()
            for task in beside:
                task.cancel()


async def _meet(kept: _Kept, line: Line) -> None:
    await line.meet()
    kept.line.set_result(line)


async def _until_unused(kept: _Kept, line: Line) -> None:
    clock = asyncio.get_running_loop()
    while line.lock.locked() or clock.time() < kept.used + IDLE_SECONDS:  # noqa: ASYNC110  # each use moves it
        await asyncio.sleep(IDLE_SECONDS / 10)
    raise PortClosed("nobody has used the kernel for a while")
