"""Sandboxes that are there: found, listed, used, paused, resumed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pandastack.errors import InternalError, NoSpace
from pandastack.model.account import Caller
from pandastack.model.guest import Guest
from pandastack.model.host import Host
from pandastack.model.sandbox import AWAKE, Sandbox, SandboxState
from pandastack.services.activity import Use
from pandastack.services.causes import wrong_state
from pandastack.services.ground import Ground
from pandastack.services.ledger import Story, ended_meanwhile
from pandastack.services.requests import check_metadata
from pandastack.services.sleep import Sleep

SEEN = frozenset(SandboxState) - {SandboxState.DELETED}
"""States that a list shows."""


class Sandboxes:
    """The verbs on sandboxes. A caller sees its workspace's alone: another's is SandboxNotFound."""

    def __init__(self, ground: Ground, sleep: Sleep) -> None:
        self._ledger = ground.ledger
        self._placement = ground.placement
        self._activity = ground.activity
        self._causes = ground.causes
        self._sleep = sleep
        self._turns = ground.turns

    async def get(self, caller: Caller, sandbox_id: str, *, deleted: bool = False) -> Sandbox:
        """The sandbox; with `deleted` also one that is no more but remembered. Errors: SandboxNotFound."""
        find = self._ledger.find_any if deleted else self._ledger.find
        return await find(caller, sandbox_id)

    async def list(self, caller: Caller) -> list[Sandbox]:
        """All that are not deleted, oldest first."""
        return await self._ledger.listing(SEEN, caller.workspace)

    async def count_by_state(self) -> dict[SandboxState, int]:
        """How many there are, of all workspaces."""
        return await self._ledger.count_by_state()

    async def pause(self, caller: Caller, sandbox_id: str) -> None:
        """Stop its virtual CPUs; fine when they are stopped. Errors: SandboxNotFound, Conflict."""
        async with self._turns.turn(sandbox_id):
            found = await self._ledger.find(caller, sandbox_id)
            if found.status is SandboxState.PAUSED:
                return
            if found.status is not SandboxState.RUNNING:
                raise wrong_state(found, SandboxState.RUNNING)
            async with self._causes.explaining(caller, sandbox_id):
                await self._placement.ordered(self._host(sandbox_id).pause(sandbox_id), "pause")
            try:
                await self._moved(caller, sandbox_id, SandboxState.PAUSED, "sandbox.paused")
            except (NoSpace, InternalError):  # not written down: it goes on as its row says
                await self._placement.ordered(self._host(sandbox_id).resume(sandbox_id), "resume")
                raise

    async def resume(self, caller: Caller, sandbox_id: str) -> None:
        """Let its virtual CPUs run on, also those that the host's full disk has stopped; fine when they run.

        A hibernated one is woken. Errors: SandboxNotFound, Conflict, and those of a wake.
        """
        async with self._turns.turn(sandbox_id):
            found = await self._ledger.find(caller, sandbox_id)
            if found.status in AWAKE:
                await self._go_on(caller, found)
                return
        if found.status is not SandboxState.HIBERNATED:
            raise wrong_state(found, SandboxState.PAUSED)
        await self._sleep.wake(caller, sandbox_id)

    async def merge_metadata(self, caller: Caller, sandbox_id: str, more: dict[str, str]) -> Sandbox:
        """Set these keys, keep the others; counts as activity. Errors: SandboxNotFound, InvalidRequest."""
        await self._ledger.find(caller, sandbox_id)
        story = Story(caller=caller)
        changed = await self._ledger.annotate(sandbox_id, more, story, check=check_metadata)
        self._activity.touch(sandbox_id)
        return changed

    @asynccontextmanager
    async def use(self, caller: Caller, sandbox_id: str, use: Use = Use.EXEC) -> AsyncIterator[Guest]:
        """Its guest, to work with; it counts as used until the block ends. A hibernated one is woken first.

        A machine that ends within the block is told as such, with the cause: MachineError when it died,
        Conflict when somebody ended it, put it to sleep or rolled it back. Errors: SandboxNotFound, Conflict,
        and those of a wake.
        """
        found = await self.awake(caller, sandbox_id)
        with self._activity.using(sandbox_id, use):
            async with self._causes.explaining(caller, sandbox_id, found):
                yield self._host(sandbox_id).guest(sandbox_id)

    async def awake(self, caller: Caller, sandbox_id: str) -> Sandbox:
        """The sandbox when it runs, woken if it sleeps; between this and what follows nothing else can come.

        Errors: SandboxNotFound, Conflict, and those of a wake.
        """
        while True:
            await self._turns.settled(sandbox_id)
            found = await self._ledger.find(caller, sandbox_id)
            if found.status is SandboxState.RUNNING:
                return found
            if found.status is not SandboxState.HIBERNATED:
                raise wrong_state(found, SandboxState.RUNNING)
            await self._sleep.wake(caller.quietly(), sandbox_id)

    async def host_for(self, caller: Caller, sandbox_id: str) -> Host:
        """The host of one that is awake, to look at it; no use of it. Errors: SandboxNotFound, Conflict."""
        found = await self._ledger.find(caller, sandbox_id)
        if found.status not in AWAKE:
            raise wrong_state(found, SandboxState.RUNNING)
        return self._host(sandbox_id)

    async def glance(self, caller: Caller, sandbox_id: str) -> Guest:
        """The guest of one that runs, to look at it; no use of it, and nobody is woken. Errors:
        SandboxNotFound, Conflict.
        """
        found = await self._ledger.find(caller, sandbox_id)
        if found.status is not SandboxState.RUNNING:
            raise wrong_state(found, SandboxState.RUNNING)
        return self._host(sandbox_id).guest(sandbox_id)

    async def _go_on(self, caller: Caller, found: Sandbox) -> None:
        async with self._causes.explaining(caller, found.id):
            await self._placement.ordered(self._host(found.id).resume(found.id), "resume")
        if found.status is not SandboxState.PAUSED:
            return
        try:
            await self._moved(caller, found.id, SandboxState.RUNNING, "sandbox.resumed")
        except (NoSpace, InternalError):
            await self._placement.ordered(self._host(found.id).pause(found.id), "pause")
            raise

    async def _moved(self, caller: Caller, sandbox_id: str, to: SandboxState, event: str) -> None:
        after = await self._ledger.move(sandbox_id, to, Story(event, {}, caller, 204))
        self._activity.touch(sandbox_id)
        if after is None:
            raise ended_meanwhile(sandbox_id)

    def _host(self, sandbox_id: str) -> Host:
        return self._placement.host_of(sandbox_id)
