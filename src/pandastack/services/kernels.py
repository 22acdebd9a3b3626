"""Code contexts of sandboxes: Jupyter kernels in their guests, and the cells that run in them.

A cell counts as use of its sandbox for as long as it runs, and wakes one that sleeps; a context by itself
keeps nothing awake. What contexts there are the guest tells, so a fork or a snapshot has those of its origin.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime

from pandastack.carrying import carried_through
from pandastack.errors import (
    Conflict,
    KernelDied,
    MachineError,
    PandastackError,
    PortClosed,
    QuotaExceeded,
)
from pandastack.jupyter.places import Places, Record, language_of
from pandastack.model.account import Caller
from pandastack.model.clock import Clock
from pandastack.model.code import (
    CellRequest,
    CellResult,
    CodeContext,
    ContextRequest,
    SnippetRequest,
)
from pandastack.model.guest import Guest
from pandastack.model.snapshot import Deed
from pandastack.services.activity import Use
from pandastack.services.cells import Cell, RunningCell, interrupt
from pandastack.services.kernel_lines import Held, KernelLines, Key
from pandastack.services.recorder import Recorder
from pandastack.services.sandboxes import Sandboxes

CONTEXTS_MOST = 16
"""Of one sandbox. Each keeps three connections open."""

START_SECONDS = 60.0
"""For a kernel that was just started to take connections."""
POLL_SECONDS = 0.05


class Kernels:
    """The verbs on contexts. Errors of all: SandboxNotFound, NotFound for the context, Conflict, KernelDied,
    and those of a wake.
    """

    def __init__(
        self,
        sandboxes: Sandboxes,
        recorder: Recorder,
        clock: Clock,
        new_id: Callable[[], str],
        new_key: Callable[[], bytes],
        *,
        max_output: int,
    ) -> None:
        self._sandboxes = sandboxes
        self._recorder = recorder
        self._clock = clock
        self._new_id = new_id
        self._new_key = new_key
        self._max_output = max_output
        self._lines = KernelLines(new_id)

    async def work(self) -> None:
        """Hold the connections to kernels that are in use, for ever."""
        await self._lines.work()

    async def create(self, caller: Caller, sandbox_id: str, request: ContextRequest) -> CodeContext:
        """A new context, whose kernel answers. One that the template has started ahead is taken first.

        Errors: NotSupported when there is no kernel for the language, QuotaExceeded beyond 16 contexts.
        """
        language, context_id = language_of(request.language), self._new_id()
        async with self._sandboxes.use(caller, sandbox_id) as guest:
            places = Places(guest)
            if len(await places.records()) >= CONTEXTS_MOST:
                raise QuotaExceeded(f"A sandbox has at most {CONTEXTS_MOST} contexts; delete one first.")
            record = await self._begin(guest, Key(sandbox_id, context_id), language)
        return _context(sandbox_id, context_id, record, 0)

    async def listing(self, caller: Caller, sandbox_id: str) -> list[CodeContext]:
        """The contexts of a sandbox that runs, oldest first. It wakes nobody."""
        guest = await self._sandboxes.glance(caller, sandbox_id)
        found = []
        for context_id, record in (await Places(guest).records()).items():
            held = self._lines.known(Key(sandbox_id, context_id))
            found.append(_context(sandbox_id, context_id, record, held.line.cells if held else 0))
        return sorted(found, key=lambda context: (context.created_at, context.id))

    async def run(self, caller: Caller, sandbox_id: str, context_id: str, request: CellRequest) -> CellResult:
        """Run a cell to its end and give all that it showed.

        At its deadline it is interrupted and CellTimeout raised; when the caller is cancelled it is
        interrupted too. The context stays.
        """
        cell = Cell(self._clock.steady(), self._max_output)
        opening = self.open(caller, sandbox_id, context_id, request)
        async with opening as running, aclosing(running.events()) as events:
            async for event in events:
                cell.add(event)
        return cell.result(running.language, self._clock.steady())

    @asynccontextmanager
    async def open(
        self, caller: Caller, sandbox_id: str, context_id: str, request: CellRequest
    ) -> AsyncIterator[RunningCell]:
        """A cell while it runs; leaving the block before its end interrupts it."""
        key = Key(sandbox_id, context_id)
        async with self._sandboxes.use(caller, sandbox_id, Use.EXEC) as guest:
            held = await self._line(guest, key)
            async with held.line.lock:
                running = RunningCell(held, guest, request, self._clock)
                try:
                    yield running
                except PortClosed as error:
                    await self._lines.close(key)
                    died = await Places(guest).fate(context_id, held.record)
                    raise died or MachineError(f"The kernel cannot be reached: {error.message}") from error
                finally:
                    if not running.over:
                        await carried_through(running.give_up())
            label = request.code.strip().partition("\n")[0]
            spent = round((self._clock.steady() - running.began) * 1000)
            await self._recorder.note(caller, sandbox_id, Deed(label, running.exit_code, spent))

    async def snippet(self, caller: Caller, sandbox_id: str, request: SnippetRequest) -> CellResult:
        """Run a cell in a context of its own, which is gone behind it."""
        context = await self.create(caller, sandbox_id, ContextRequest(request.language))
        try:
            return await self.run(
                caller, sandbox_id, context.id, CellRequest(request.code, request.timeout_ms)
            )
        finally:
            await carried_through(self._tidy(caller, sandbox_id, context.id))

    async def _tidy(self, caller: Caller, sandbox_id: str, context_id: str) -> None:
        with suppress(PandastackError):  # the sandbox may have ended, and the answer be there
            await self.delete(caller, sandbox_id, context_id)

    async def interrupt(self, caller: Caller, sandbox_id: str, context_id: str) -> None:
        """Stop the cell that runs, if one does; the context stays."""
        async with self._sandboxes.use(caller, sandbox_id) as guest:
            held = await self._line(guest, Key(sandbox_id, context_id))
            try:
                await interrupt(held, guest)
            except TimeoutError:
                raise Conflict("The kernel does not hear: restart the context.") from None

    async def restart(self, caller: Caller, sandbox_id: str, context_id: str) -> CodeContext:
        """Give the context a new kernel: what it knew is gone, and a cell that runs ends."""
        key = Key(sandbox_id, context_id)
        async with self._sandboxes.use(caller, sandbox_id) as guest:
            places = Places(guest)
            record = await places.record(context_id)
            await self._lines.close(key)
            await places.end(context_id, record)
            new = await self._start(guest, key, record.language, record)
        return _context(sandbox_id, context_id, new, 0)

    async def delete(self, caller: Caller, sandbox_id: str, context_id: str) -> None:
        """End its kernel and forget it."""
        async with self._sandboxes.use(caller, sandbox_id) as guest:
            places = Places(guest)
            record = await places.record(context_id)
            await self._lines.close(Key(sandbox_id, context_id))
            await places.end(context_id, record)
            await places.forget(context_id)

    async def _begin(self, guest: Guest, key: Key, language: str) -> Record:
        """The kernel of a new context: one that was started ahead, when it lives."""
        places = Places(guest)
        record = await places.claim(key.context_id, language, self._clock.now())
        if record is not None:
            try:
                await self._connected(guest, key, record)
            except (KernelDied, PortClosed):
                await places.end(key.context_id, record)
            else:
                return record
            finally:
                await places.replenish(key.context_id)
        return await self._start(guest, key, language, None)

    async def _start(self, guest: Guest, key: Key, language: str, before: Record | None) -> Record:
        """A new kernel, once it answers; what does not come about leaves no context behind."""
        places = Places(guest)
        starts = before.starts + 1 if before else 0
        now = before.created_at if before and before.created_at else self._clock.now()
        secret = self._new_key()[:16].hex()
        try:
            record = await places.start(key.context_id, language, secret, now, starts)
            await self._connected(guest, key, record)
        except (PandastackError, asyncio.CancelledError):
            if before is None:
                await carried_through(self._undo(places, key))
            raise
        return record

    async def _undo(self, places: Places, key: Key) -> None:
        """Leave nothing of a context that did not come about, as far as that is possible."""
        with suppress(PandastackError):
            await self._lines.close(key)
            await places.end(key.context_id, await places.record(key.context_id))
            await places.forget(key.context_id)

    async def _line(self, guest: Guest, key: Key) -> Held:
        """The line to a context's kernel. Errors: NotFound, KernelDied."""
        if (held := self._lines.known(key)) is not None:
            return held
        record = await Places(guest).record(key.context_id)
        try:
            return await self._connected(guest, key, record)
        except PortClosed as error:
            raise MachineError(f"The kernel cannot be reached: {error.message}") from error

    async def _connected(self, guest: Guest, key: Key, record: Record) -> Held:
        """The line to a kernel that may have just been started. Errors: KernelDied, PortClosed."""
        places = Places(guest)
        file = await places.connection(key.context_id)
        began = self._clock.steady()
        while True:
            try:
                return await self._lines.open(key, guest, file, record)
            except (PortClosed, TimeoutError) as error:
                if died := await places.fate(key.context_id, record, seconds=POLL_SECONDS):
                    raise died from error
                if self._clock.steady() - began > START_SECONDS or isinstance(error, TimeoutError):
                    raise PortClosed("the kernel does not answer; restart it") from error
                await asyncio.sleep(POLL_SECONDS)


def _context(sandbox_id: str, context_id: str, record: Record, cells: int) -> CodeContext:
    began = record.created_at or datetime.fromtimestamp(0, UTC)
    return CodeContext(context_id, sandbox_id, record.language, began, cells)
