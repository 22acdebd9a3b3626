"""Secrets of sandboxes: told to the host that puts them in, and never to anybody else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pandastack.carrying import carried_through
from pandastack.model.account import Caller
from pandastack.model.sandbox import AWAKE, Sandbox, SandboxState
from pandastack.model.secret import Secret, SecretWish, check_values
from pandastack.services.causes import wrong_state
from pandastack.services.ground import Ground
from pandastack.services.ledger import Story
from pandastack.services.requests import check_secrets
from pandastack.services.safe import Bound
from pandastack.store import secrets
from pandastack.store.db import Connection


class Secrets:
    """The verbs on secrets. None of them wakes a sandbox; a caller who leaves stops no change. Errors of
    all: SandboxNotFound.
    """

    def __init__(self, ground: Ground) -> None:
        self._ledger = ground.ledger
        self._placement = ground.placement
        self._turns = ground.turns
        self._causes = ground.causes
        self._safe = ground.safe

    async def list(self, caller: Caller, sandbox_id: str) -> list[Secret]:
        """What there is, without values, by name."""
        found = await self._ledger.find(caller, sandbox_id)
        return [row.told for row in await self._safe.rows(found.id)]

    async def set(self, caller: Caller, sandbox_id: str, name: str, wish: SecretWish) -> Secret:
        """Set one, or set it anew: then its placeholder stays. It holds at once for one that is awake, where
        connections end that it changes; for one that sleeps from its wake on. Errors: InvalidRequest,
        NotSupported, Conflict for one that is paused, and the host's.
        """
        async with self._turns.turn(sandbox_id):
            found = await self._ledger.find(caller, sandbox_id)
            if found.status not in (SandboxState.RUNNING, SandboxState.HIBERNATED):
                raise wrong_state(found, SandboxState.RUNNING)
            rows = {row.told.name: row.told for row in await self._safe.rows(sandbox_id)}
            check_secrets({**rows, name: wish}, {}, self._placement.report.network)
            await self._safe.check_hosts((wish,))
            bound = self._safe.rebound(name, wish, rows.get(name))
            row = self._safe.sealed(found, bound, rows.get(name))
            before = await self._safe.of(found)
            after = (*(each for each in before if each.name != name), bound)
            check_values(each.value for each in after)
            story = Story("sandbox.secret_set", {"name": name, "hosts": bound.hosts}, caller)
            write = partial(secrets.put, sandbox_id=sandbox_id, workspace=found.workspace, row=row)
            await carried_through(self._change(found, before, after, story, write))
        return row.told

    async def remove(self, caller: Caller, sandbox_id: str, name: str) -> None:
        """Remove one; fine when there is none. It is put in no more when this returns. Errors: Conflict for
        one that is being created, and the host's.
        """
        async with self._turns.turn(sandbox_id):
            found = await self._ledger.find(caller, sandbox_id)
            if found.status is SandboxState.CREATING:  # its machine is being started with what there was
                raise wrong_state(found, SandboxState.RUNNING)
            if name not in {row.told.name for row in await self._safe.rows(sandbox_id)}:
                await self._ledger.change(sandbox_id, Story(caller=caller, status=204))
                return
            before = await self._safe.of(found)
            after = tuple(each for each in before if each.name != name)
            story = Story("sandbox.secret_removed", {"name": name}, caller, 204)
            write = partial(secrets.drop, sandbox_id=sandbox_id, name=name)
            await carried_through(self._change(found, before, after, story, write))

    async def _change(
        self, found: Sandbox, before: Bound, after: Bound, story: Story, write: Callable[[Connection], None]
    ) -> None:
        """The host first. What is not written down then it is told to undo."""
        await self._order(found, after, story)
        try:
            await self._ledger.alter(found.id, story, write)
        except BaseException:
            await self._order(found, before, story)
            raise

    async def _order(self, found: Sandbox, bound: Bound, story: Story) -> None:
        if found.status in AWAKE and story.caller is not None:
            host = self._placement.host_of(found.id)
            async with self._causes.explaining(story.caller, found.id, found):
                order = host.set_egress(found.id, found.egress, bound)
                await self._placement.ordered(order, "set_egress")
