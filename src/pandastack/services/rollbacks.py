"""Rollback in place: the same sandbox, with the same name, as it was at an earlier snapshot."""

from __future__ import annotations

from functools import partial

from pandastack.carrying import carried_through
from pandastack.errors import Conflict, NotSupported, SnapshotNotFound
from pandastack.model.account import Caller
from pandastack.model.host import VmSpec
from pandastack.model.image import image_of
from pandastack.model.sandbox import AWAKE, Sandbox, SandboxState
from pandastack.model.snapshot import SHOWN, Snapshot, SnapshotState
from pandastack.services.archive import Archive
from pandastack.services.births import hostname, risen
from pandastack.services.causes import ended, wrong_state
from pandastack.services.endings import Endings
from pandastack.services.ground import Ground
from pandastack.services.ledger import Story, ended_meanwhile
from pandastack.services.sleep import Sleep
from pandastack.store import sandboxes

REVIVED = frozenset({SandboxState.HIBERNATED, SandboxState.FAILED})
"""States in which there is no machine to replace, and one is started."""


class Rollbacks:
    """The verb rollback."""

    def __init__(self, ground: Ground, archive: Archive, endings: Endings, sleep: Sleep) -> None:
        self._database = ground.database
        self._ledger = ground.ledger
        self._placement = ground.placement
        self._safe = ground.safe
        self._activity = ground.activity
        self._archive = archive
        self._causes = ground.causes
        self._endings = endings
        self._sleep = sleep
        self._turns = ground.turns
        self._patience = ground.terms.create_timeout_seconds
        self._failpoint = ground.failpoint
        self._books = ground.books

    async def rollback(
        self, caller: Caller, sandbox_id: str, snapshot_id: str, *, disk_only: bool = False
    ) -> Sandbox:
        """Go on from a snapshot of its own or of an ancestor; what came since is lost. With `disk_only` it
        boots with the disk of that.

        One that is hibernated or has failed is brought back by it, also by the image that it last slept in.
        On any error it is as before. A caller who leaves does not stop it. Errors: SandboxNotFound,
        SnapshotNotFound, Conflict, and those of a wake.
        """
        await self._turns.settled(sandbox_id)  # what is kept of it by itself is kept before it goes
        async with self._turns.turn(sandbox_id):
            found = await self._ledger.find(caller, sandbox_id)
            snapshot = await self._archive.find(caller.workspace, snapshot_id)
            await self._check(found, snapshot)
            story = Story("sandbox.rolled_back", {"snapshot_id": snapshot_id}, caller)
            if found.status in REVIVED:
                return await self._sleep.revive(caller, found, snapshot_id, story, disk_only=disk_only)
            if found.status not in AWAKE:
                raise wrong_state(found, SandboxState.RUNNING)
            with self._turns.away(sandbox_id), self._archive.pinned(snapshot_id):
                spec = VmSpec(
                    found.id,
                    image_of(found.workspace, found.template),
                    hostname=hostname(found.id),
                    snapshot=snapshot_id,
                    egress=found.egress,
                    secrets=await self._safe.of(found),
                    cold=disk_only,
                )
                return await carried_through(self._replace(caller, found, spec, story))

    async def _replace(self, caller: Caller, found: Sandbox, spec: VmSpec, story: Story) -> Sandbox:
        host = self._placement.host_of(found.id)
        await self._books.gather_quietly(found.id)
        async with self._causes.explaining(caller, found.id):
            vm = await self._placement.ordered(host.replace(spec), "replace", seconds=self._patience)
        await self._failpoint("rollback.replaced")
        now = await self._ledger.find_any(caller, found.id)
        if now.status not in AWAKE:
            await self._endings.stop_quietly(found.id)  # deleted, or dead, while the new one came up
            raise ended(now)
        if found.status is SandboxState.PAUSED:
            to = SandboxState.RUNNING
            moved = await self._ledger.move(
                found.id, to, story, only_from=None, also=None, **risen(vm, self._placement.report)
            )
            if moved is None:
                raise ended_meanwhile(found.id)
        else:
            await self._ledger.change(found.id, story, **risen(vm, self._placement.report))
        self._activity.touch(found.id)
        await self._failpoint("rollback.committed")
        return await self._ledger.find(caller, found.id)

    async def _check(self, sandbox: Sandbox, snapshot: Snapshot) -> None:
        """Errors: Conflict for a snapshot that is not its own, SnapshotNotFound for one that nobody names,
        NotSupported for a sandbox whose volumes would not go back with it.
        """
        if sandbox.volumes:
            raise NotSupported(
                f"Sandbox {sandbox.id} cannot be rolled back: its volumes would not go back with it."
            )
        if snapshot.kind not in SHOWN and snapshot.id != sandbox.snapshot_id:
            raise SnapshotNotFound(f"There is no snapshot {snapshot.id}.")
        if snapshot.state is not SnapshotState.READY:
            raise Conflict(f"Snapshot {snapshot.id} is still being taken.")
        if snapshot.template != sandbox.template:
            raise Conflict(
                f"Snapshot {snapshot.id} is of template {snapshot.template!r}, "
                f"and sandbox {sandbox.id} of {sandbox.template!r}."
            )
        above = await self._database.read(partial(sandboxes.ancestors, sandbox=sandbox))
        if snapshot.sandbox_id not in {sandbox.id, *above}:
            raise Conflict(
                f"Snapshot {snapshot.id} is neither of sandbox {sandbox.id} nor of an ancestor of it: "
                "create a sandbox from it instead."
            )
