"""Changes of sandboxes: the guarded move, its event and its audit row, always in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import msgspec
from msgspec import Struct

from pandastack.errors import Conflict, QuotaExceeded, SandboxNotFound
from pandastack.model.account import Caller, Limits, Usage
from pandastack.model.clock import Clock
from pandastack.model.sandbox import AWAKE, Sandbox, SandboxState
from pandastack.model.snapshot import Snapshot, SnapshotKind
from pandastack.services.events import Bell
from pandastack.store import accounts, audit, events, idempotency, sandboxes, secrets, snapshots, volumes
from pandastack.store.db import Connection, Database

T = TypeVar("T")


class Story(Struct, frozen=True):
    """How a change is told: the event (none when `event` is empty) and who asked for it with which answer."""

    event: str = ""
    payload: dict[str, object] = {}
    caller: Caller | None = None
    status: int = 200


class Ledger:
    """The rows of sandboxes and their history."""

    def __init__(self, database: Database, clock: Clock, bell: Bell) -> None:
        self._database = database
        self._clock = clock
        self._bell = bell

    async def find(self, caller: Caller, sandbox_id: str) -> Sandbox:
        """In any state but DELETED. Errors: SandboxNotFound, which tells the cause while it is remembered."""
        found = await self.find_any(caller, sandbox_id)
        if found.status is SandboxState.DELETED:
            raise deleted(found)
        return found

    async def find_any(self, caller: Caller, sandbox_id: str) -> Sandbox:
        """In any state. Errors: SandboxNotFound."""
        query = partial(sandboxes.find, sandbox_id=sandbox_id, workspace=caller.workspace)
        found = await self._database.glance(query)
        if found is None:
            raise SandboxNotFound(f"There is no sandbox {sandbox_id}.")
        return found

    async def find_owned(self, sandbox_id: str) -> Sandbox:
        """One of any workspace, not deleted, for who comes by its name alone. Errors: SandboxNotFound."""
        found = await self._database.glance(partial(sandboxes.find, sandbox_id=sandbox_id))
        if found is None or found.status is SandboxState.DELETED:
            raise SandboxNotFound(f"There is no sandbox {sandbox_id}.")
        return found

    async def await_cause(self, caller: Caller, sandbox_id: str, seconds: float) -> Sandbox:
        """The sandbox once its end has a cause, or as it stands after `seconds`. Errors: SandboxNotFound."""
        waiting = self._bell.expect(sandbox_id)
        try:
            found = await self.find_any(caller, sandbox_id)
            if found.cause is None and found.status in AWAKE:
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await waiting.wait()
                found = await self.find_any(caller, sandbox_id)
            return found
        finally:
            self._bell.leave(sandbox_id, waiting)

    async def listing(self, states: Iterable[SandboxState], workspace: str | None = None) -> list[Sandbox]:
        """Every sandbox in one of these states, of one workspace or of all."""
        return await self._database.read(partial(sandboxes.listing, states=states, workspace=workspace))

    async def count_by_state(self) -> dict[SandboxState, int]:
        """How many there are in each state."""
        return await self._database.read(sandboxes.count_by_state)

    async def reserve(
        self, sandbox: Sandbox, limits: Limits, story: Story, before: Callable[[Connection], None]
    ) -> None:
        """Write the row of a sandbox to be, within the quota, and what comes `before` it. Errors:
        QuotaExceeded.
        """

        def transaction(connection: Connection) -> None:
            before(connection)
            if not sandboxes.insert(connection, sandbox, limits):
                raise _over_quota(accounts.usage(connection, sandbox.workspace), limits)
            self.tell(connection, sandbox.id, story)

        await self._database.write_soon(transaction)

    async def check_room(self, sandbox: Sandbox, limits: Limits) -> None:
        """Errors: QuotaExceeded when the workspace has no room for one more of its size."""
        share = Usage(1, sandbox.cpu, sandbox.memory_mb)
        room = partial(_refuse_over_quota, workspace=sandbox.workspace, share=share, limits=limits)
        await self._database.glance(room)

    async def revive(self, before: Sandbox, limits: Limits, story: Story, **values: object) -> Sandbox:
        """Move one that no machine was held for to RUNNING, within the quota.

        Flushed: what is done in it from now on must not be taken for what its image holds. Errors:
        QuotaExceeded; Conflict when somebody ended it.
        """

        def transaction(connection: Connection) -> Sandbox:
            _refuse_over_quota(connection, before.workspace, Usage(1, before.cpu, before.memory_mb), limits)
            moved = sandboxes.move(
                connection, before.id, SandboxState.RUNNING, only_from=[before.status], **values
            )
            if moved is None:
                raise ended_meanwhile(before.id)
            self.tell(connection, before.id, story)
            return moved[1]

        return await self.write(before.id, transaction)

    async def hibernated(self, sandbox: Sandbox, image: Snapshot, story: Story) -> list[str]:
        """Publish the image and move to HIBERNATED in one: the ids of the images that it supersedes.

        Errors: Conflict when somebody ended the sandbox, and then nothing is written.
        """
        now = self._clock.now()

        def transaction(connection: Connection) -> list[str]:
            moved = sandboxes.move(
                connection,
                sandbox.id,
                SandboxState.HIBERNATED,
                snapshot_id=image.id,
                used_seconds=sandbox.used_by(now),
                awake_since=None,
                cause=None,
                ended_at=None,
            )
            if moved is None or not snapshots.publish(connection, image):
                raise ended_meanwhile(sandbox.id)
            self.tell(connection, sandbox.id, story)
            return snapshots.doom(connection, sandbox.id, SnapshotKind.HIBERNATION, but=image.id)

        return await self.write(sandbox.id, transaction)

    async def move(
        self,
        sandbox_id: str,
        to: SandboxState,
        story: Story,
        *,
        only_from: Iterable[SandboxState] | None = None,
        also: Callable[[Connection, Sandbox], None] | None = None,
        **values: object,
    ) -> Sandbox | None:
        """Change the state and `values` if the table of moves allows it: the sandbox after it, or None. What
        is `also` to be done is in the same transaction.

        Safe from the death of any process. Not flushed: the machine that it tells of would not outlive the
        power either, and the next start finds out what became of it.
        """

        def transaction(connection: Connection) -> Sandbox | None:
            moved = sandboxes.move(connection, sandbox_id, to, only_from=only_from, **values)
            if moved is None:
                return None
            self.tell(connection, sandbox_id, story)
            if also is not None:
                also(connection, moved[1])
            return moved[1]

        return await self.write_soon(sandbox_id, transaction)

    async def change(self, sandbox_id: str, story: Story, **values: object) -> None:
        """Set fields other than the state."""

        def transaction(connection: Connection) -> None:
            sandboxes.change(connection, sandbox_id, **values)
            self.tell(connection, sandbox_id, story)

        await self.write(sandbox_id, transaction)

    async def alter(self, sandbox_id: str, story: Story, write: Callable[[Connection], None]) -> None:
        """Change what belongs to it and is not of its row. Errors: SandboxNotFound."""

        def transaction(connection: Connection) -> None:
            _there(connection, sandbox_id)
            write(connection)
            self.tell(connection, sandbox_id, story)

        await self.write(sandbox_id, transaction)

    async def annotate(
        self,
        sandbox_id: str,
        more: dict[str, str],
        story: Story,
        *,
        check: Callable[[dict[str, str]], None] | None = None,
        drop: str | None = None,
        **values: object,
    ) -> Sandbox:
        """Set these keys of its metadata, keep the others but `drop` as they are by then, and set `values`.

        Errors: SandboxNotFound, and those of `check`, which is given all of it.
        """

        def transaction(connection: Connection) -> Sandbox:
            found = _there(connection, sandbox_id)
            metadata = found.metadata | more
            metadata.pop(drop or "", None)
            if check is not None:
                check(metadata)
            sandboxes.change(connection, sandbox_id, metadata=metadata, **values)
            self.tell(connection, sandbox_id, story)
            return msgspec.structs.replace(found, metadata=metadata, **values)

        return await self.write(sandbox_id, transaction)

    async def begin_end(self, caller: Caller, sandbox_id: str, cause: str, status: int) -> Sandbox | None:
        """Move to STOPPING for good; one that is dead already keeps its own cause. None when that had been
        done.

        Not yet flushed: `complete_end` does both. Errors: SandboxNotFound for one that is unknown, another
        workspace's, or DELETED.
        """

        def transaction(connection: Connection) -> Sandbox | None:
            found = _there(connection, sandbox_id, caller.workspace)
            cause_kept = found.cause or cause
            moved = sandboxes.move(connection, sandbox_id, SandboxState.STOPPING, cause=cause_kept)
            self.tell(connection, sandbox_id, Story(caller=caller, status=status))
            return moved[1] if moved else None

        return await self._database.write_soon(transaction)

    async def fail(self, sandbox_id: str, cause: str, story: Story) -> Sandbox | None:
        """Move to FAILED with the cause; None for one that was being created or ended, or ended before."""
        return await self.move(
            sandbox_id,
            SandboxState.FAILED,
            story,
            only_from=[SandboxState.RUNNING, SandboxState.PAUSED],
            cause=cause,
            ended_at=self._clock.now(),
        )

    async def begin_undo(self, sandbox_id: str, cause: str) -> None:
        """Move one whose creation came to nothing to STOPPING, and free the Idempotency-Key that made it: at
        once, so that it is free whoever finishes this.
        """

        def transaction(connection: Connection) -> None:
            sandboxes.move(connection, sandbox_id, SandboxState.STOPPING, cause=cause)
            idempotency.forget(connection, sandbox_id)

        await self.write_soon(sandbox_id, transaction)

    async def complete_end(self, sandbox_id: str, story: Story) -> list[str]:
        """Move from STOPPING to DELETED; its secrets are forgotten, and others can have its volumes.

        Returns the hibernation images and the checkpoints that nobody needs any more.
        """

        def transaction(connection: Connection) -> list[str]:
            if sandboxes.move(connection, sandbox_id, SandboxState.DELETED, ended_at=self._clock.now()):
                self.tell(connection, sandbox_id, story)
            secrets.forget(connection, sandbox_id)
            volumes.release(connection, sandbox_id)
            return snapshots.doom_with_sandbox(connection, sandbox_id)

        return await self.write(sandbox_id, transaction)

    async def write(self, sandbox_id: str, transaction: Callable[[Connection], T]) -> T:
        """Run a transaction about the sandbox, flushed, and wake those who follow it."""
        try:
            return await self._database.write(transaction)
        finally:  # it was written also for a caller who left meanwhile
            self._bell.ring(sandbox_id)

    async def write_soon(self, sandbox_id: str, transaction: Callable[[Connection], T]) -> T:
        """As `write`, not flushed: for what the power would take with it anyway."""
        try:
            return await self._database.write_soon(transaction)
        finally:
            self._bell.ring(sandbox_id)

    def ring(self, sandbox_id: str) -> None:
        """Wake those who follow it, after a transaction about another sandbox that told of it too."""
        self._bell.ring(sandbox_id)

    def tell(self, connection: Connection, sandbox_id: str, story: Story) -> None:
        """Write the event and the audit row of a change, in its transaction."""
        now = self._clock.now()
        if story.event:
            events.add(connection, sandbox_id, now, story.event, story.payload)
        if story.caller is not None and story.caller.method:
            audit.add(connection, audit.Deed(story.caller, now, story.status, {"sandbox_id": sandbox_id}))


def _there(connection: Connection, sandbox_id: str, workspace: str | None = None) -> Sandbox:
    """In any state but DELETED. Errors: SandboxNotFound."""
    found = sandboxes.find(connection, sandbox_id, workspace)
    if found is None:
        raise SandboxNotFound(f"There is no sandbox {sandbox_id}.")
    if found.status is SandboxState.DELETED:
        raise deleted(found)
    return found


def deleted(sandbox: Sandbox) -> SandboxNotFound:
    """The refusal for a sandbox that is no more, with what became of it."""
    when = sandbox.ended_at.isoformat(timespec="seconds") if sandbox.ended_at else "a moment ago"
    return SandboxNotFound(
        f"Sandbox {sandbox.id} is gone since {when}: {sandbox.cause or 'deleted'}", cause=sandbox.cause
    )


def ended_meanwhile(sandbox_id: str) -> Conflict:
    """The refusal of a change whose sandbox went away while it was made."""
    return Conflict(f"Sandbox {sandbox_id} was ended at the same moment.")


def _refuse_over_quota(connection: Connection, workspace: str, share: Usage, limits: Limits) -> None:
    if not accounts.has_room(connection, workspace, share.vcpus, share.memory_mb, limits):
        raise _over_quota(accounts.usage(connection, workspace), limits)


def _over_quota(usage: Usage, limits: Limits) -> QuotaExceeded:
    used = [
        f"{getattr(usage, name)} of {limit} {label}"
        for name, label in (("sandboxes", "sandboxes"), ("vcpus", "vCPUs"), ("memory_mb", "MiB of memory"))
        if (limit := getattr(limits, name)) is not None
    ]
    return QuotaExceeded(f"max sandboxes reached: the workspace holds {', '.join(used)}. Delete some first.")
