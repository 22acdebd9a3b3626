"""Checkpoints: the state of a sandbox, kept by itself behind each of its commands.

A checkpoint that is due holds nobody's answer up. Whoever uses the sandbox next waits until it is taken, so
that it is the state behind its command and nothing else. It is taken within the sandbox's turn, in order.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

import msgspec
from msgspec import Struct

from pandastack.errors import Conflict, PandastackError, SandboxNotFound
from pandastack.model.account import Caller
from pandastack.model.restore import RestoreProof
from pandastack.model.sandbox import AWAKE, Checkpoints, Sandbox, SandboxState
from pandastack.model.snapshot import Deed, Snapshot, SnapshotKind
from pandastack.services.archive import Archive, published
from pandastack.services.causes import wrong_state
from pandastack.services.ground import Ground
from pandastack.services.ledger import Story, ended_meanwhile
from pandastack.store import events, sandboxes, snapshots
from pandastack.store.db import Connection
from pandastack.telemetry import logger

log = logger("recorder")

LABEL_CHARACTERS = 200
"""So much of a command's line is kept beside its checkpoint."""

TAKEN = "checkpoint.taken"
FAILED = "checkpoint.failed"
"""The event of one that could not be taken."""
CUT_OFF = "the server ended before it was taken"


class _Due(Struct, frozen=True):
    """A checkpoint to be taken for `caller`, whose step is `least` or later."""

    caller: Caller
    sandbox_id: str
    deed: Deed
    least: int
    back: asyncio.Event
    life: RestoreProof | None
    """How the machine that it is to be taken of came up."""
    draft: Snapshot | None
    """Its row; None when it could not be written yet."""


class Recorder:
    """Takes the checkpoints of all sandboxes that are to have some."""

    def __init__(self, ground: Ground, archive: Archive) -> None:
        self._database = ground.database
        self._ledger = ground.ledger
        self._archive = archive
        self._causes = ground.causes
        self._turns = ground.turns
        self._due: asyncio.Queue[_Due] = asyncio.Queue()

    async def begin(self, caller: Caller, sandbox: Sandbox) -> None:
        """The first of its steps is due, if it is to have any."""
        if sandbox.checkpoints is Checkpoints.EXEC:
            await self._owe(caller, sandbox, Deed(), 0)

    async def note(self, caller: Caller, sandbox_id: str, deed: Deed) -> None:
        """A command of a sandbox has ended: a step is due, if it is to have any."""
        query = partial(sandboxes.find, sandbox_id=sandbox_id, workspace=caller.workspace)
        found = await self._database.glance(query)
        if found is not None and found.checkpoints is Checkpoints.EXEC and found.status in AWAKE:
            label = msgspec.structs.replace(deed, command=deed.command[:LABEL_CHARACTERS])
            await self._owe(caller, found, label, 1)

    async def work(self) -> None:
        """Take what is due, for ever; one that fails is an event of its sandbox."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._settle(await self._due.get()))

    async def missed(self) -> None:
        """Before anything is served: tell of what was due when the last server ended."""
        for draft in await self._archive.interrupted():
            if draft.kind is SnapshotKind.CHECKPOINT:
                await self._tell(draft.sandbox_id, draft.command, CUT_OFF)

    async def _owe(self, caller: Caller, sandbox: Sandbox, deed: Deed, least: int) -> None:
        """Who would use it waits from now on; when this returns, the next server would know of it too."""
        back, life = self._turns.hold_off(sandbox.id), sandbox.restore_proof
        draft = None
        try:
            with suppress(PandastackError):  # why not, is told when it is to be taken
                draft = await self._archive.drafted(sandbox, SnapshotKind.CHECKPOINT, deed=deed)
        finally:
            self._due.put_nowait(_Due(caller.quietly(), sandbox.id, deed, least, back, life, draft))

    async def _settle(self, due: _Due) -> None:
        superseded: list[str] = []
        try:
            async with self._turns.turn(due.sandbox_id):
                superseded = await self._take(due)
        except SandboxNotFound:
            log.info("checkpoint.unneeded", sandbox_id=due.sandbox_id)
        except PandastackError as error:
            await self._tell(due.sandbox_id, due.deed.command, error.message)
        except Exception:  # a bug must not end the recording of the others
            log.exception("checkpoint.crashed", sandbox_id=due.sandbox_id)
            await self._tell(due.sandbox_id, due.deed.command, "an internal error of the server")
        except asyncio.CancelledError:
            await self._tell(due.sandbox_id, due.deed.command, CUT_OFF)
            raise
        finally:
            self._turns.let_in(due.sandbox_id, due.back)
            if due.draft is not None:
                await self._archive.give_up(due.draft)
        await self._drop(superseded)

    async def _drop(self, superseded: list[str]) -> None:
        """Nobody waits for it; what is left is dropped when the rows are settled with the host."""
        try:
            await self._archive.drop(superseded)
        except Exception:  # nor must that end the recording
            log.exception("checkpoint.not_dropped", snapshots=superseded)

    async def _take(self, due: _Due) -> list[str]:
        """The machine as it is, made a step; the ids of those that are too old now."""
        found = await self._ledger.find(due.caller, due.sandbox_id)
        if found.status not in AWAKE:
            raise wrong_state(found, SandboxState.RUNNING)
        if found.restore_proof != due.life:
            raise Conflict("The sandbox was rolled back before it was taken.")
        async with (
            self._causes.explaining(due.caller, found.id),
            self._archive.taken(found, SnapshotKind.CHECKPOINT, draft=due.draft) as snapshot,
        ):
            return await self._publish(due, found, snapshot)

    async def _publish(self, due: _Due, sandbox: Sandbox, taken: Snapshot) -> list[str]:
        """Make it the newest step; the ids of those that are too old now."""

        def transaction(connection: Connection) -> list[str]:
            now = sandboxes.find(connection, sandbox.id)
            if now is None or now.status not in AWAKE:
                raise ended_meanwhile(sandbox.id)
            number = max(due.least, _next_step(connection, sandbox.id))
            step = msgspec.structs.replace(taken, step=number, **msgspec.structs.asdict(due.deed))
            published(connection, step)
            self._ledger.tell(connection, sandbox.id, Story(TAKEN, _told(step)))
            return snapshots.doom_checkpoints(connection, sandbox.id, now.keep_checkpoints)

        return await self._ledger.write(sandbox.id, transaction)

    async def _tell(self, sandbox_id: str, command: str, why: str) -> None:
        """Into the history of the sandbox; what cannot be written there is in the log."""
        log.warning(FAILED, sandbox_id=sandbox_id, error=why)
        payload: dict[str, object] = {"command": command, "error": why}
        try:
            await self._ledger.change(sandbox_id, Story(FAILED, payload))
        except PandastackError as unwritten:
            log.warning("checkpoint.untold", sandbox_id=sandbox_id, error=unwritten.message)


def _next_step(connection: Connection, sandbox_id: str) -> int:
    """A number that no step of it ever had: of those that are deleted, the history tells."""
    last = events.newest(connection, sandbox_id, TAKEN, 1)
    return int(str(last[0].payload["step"])) + 1 if last else 0


def _told(step: Snapshot) -> dict[str, object]:
    sizes = {"size_bytes": step.size_bytes, "pause_ms": step.pause_ms}
    return {"step": step.step, "snapshot_id": step.id, "command": step.command, **sizes}
