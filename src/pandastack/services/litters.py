"""Forks as they are remembered: begun, complete, cut off.

The row of a fork is written with its first child and completed with its last: whatever is not complete was
told to nobody, and none of its children stays.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from pandastack.errors import InFlight, PandastackError
from pandastack.model.account import Caller
from pandastack.model.snapshot import Fork, Litter
from pandastack.services.endings import Endings, server_of
from pandastack.services.ground import Ground
from pandastack.store import forks, idempotency
from pandastack.store.db import Connection
from pandastack.store.idempotency import Identity
from pandastack.telemetry import logger

log = logger("litters")


class Litters:
    """The children of all forks."""

    def __init__(self, ground: Ground, endings: Endings) -> None:
        self._database = ground.database
        self._ledger = ground.ledger
        self._endings = endings
        self._making: set[str] = set()

    @asynccontextmanager
    async def begun(
        self, fork: Fork, identity: Identity | None
    ) -> AsyncIterator[Callable[[Connection], None]]:
        """A fork whose children are made in the block, by transactions that do first what this yields; unless
        it is complete at its end, none of them stays, and its key is free again.
        """
        self._making.add(fork.id)
        try:
            yield partial(_insert, fork=fork, identity=identity)
        except BaseException:
            # a single child may have completed it, and is gone: only what several have made together stays
            await self._give_up(fork, "its fork was given up", complete_too=len(fork.children) == 1)
            raise
        finally:
            self._making.remove(fork.id)

    def conclude(self, connection: Connection, fork: Fork, litter: Litter) -> None:
        """Within a transaction: it is complete, and no crash takes its children back."""
        forks.conclude(connection, fork.id, [each.id for each in litter.children], litter.errors, litter.at)

    async def find(self, caller: Caller, fork_id: str) -> Litter:
        """What a fork has given, its children as they are now. Errors: SandboxNotFound; InFlight for one that
        is being undone.
        """
        query = partial(forks.find, fork_id=fork_id, workspace=caller.workspace)
        fork = await self._database.glance(query)
        if fork is None or fork.at is None:
            raise InFlight("The fork of this Idempotency-Key was cut off and is being undone.")
        return Litter(
            parent_id=fork.parent_id,
            snapshot_id=fork.snapshot_id,
            children=[await self._ledger.find_any(caller, each) for each in fork.children],
            errors=fork.errors,
            at=fork.at,
            tree_id=fork.tree_id,
        )

    async def end_half_made(self) -> None:
        """End the children of forks that were cut off: nobody was told of them."""
        for fork in await self._database.read(forks.half_made):
            if fork.id not in self._making:
                await self._give_up(fork, "its fork was cut off")

    async def _give_up(self, fork: Fork, cause: str, *, complete_too: bool = False) -> None:
        """Undo it unless it is complete; what cannot be undone now is left to `end_half_made`."""
        row = await self._database.glance(partial(forks.find, fork_id=fork.id))
        if row is None or (row.at is not None and not complete_too):
            return
        failures = await self._endings.delete_all(server_of(fork), fork.children, cause)
        if failures:
            log.warning("fork.not_undone", parent_id=fork.parent_id, failures=failures)
            return
        try:
            await self._database.write_soon(partial(_forget, fork_id=fork.id))
        except PandastackError as error:
            log.warning("fork.not_forgotten", parent_id=fork.parent_id, error=error.message)


def _insert(connection: Connection, fork: Fork, identity: Identity | None) -> None:
    """With its first child."""
    if forks.find(connection, fork.id) is not None:
        return
    idempotency.insert(connection, fork.workspace, identity, fork.id, fork.begun_at)
    forks.insert(connection, fork)


def _forget(connection: Connection, fork_id: str) -> None:
    idempotency.forget(connection, fork_id)
    forks.forget(connection, fork_id)
