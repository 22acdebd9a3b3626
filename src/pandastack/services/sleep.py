"""Sleep: a sandbox as an image on the disk, holding no machine, and how it goes on exactly where it stopped.

The machine is never ended before the database says that its image is durable, and an image is never dropped
before a newer one is. A row changes in one transaction at the end of each: what is interrupted before is
undone, what is interrupted behind it is finished.
"""

from __future__ import annotations

import asyncio
from functools import partial

from pandastack.errors import Conflict, PandastackError
from pandastack.model.account import Caller
from pandastack.model.host import VmSpec
from pandastack.model.image import image_of
from pandastack.model.sandbox import AWAKE, Sandbox, SandboxState
from pandastack.model.snapshot import Snapshot, SnapshotKind
from pandastack.services.archive import Archive
from pandastack.services.births import hostname, risen
from pandastack.services.causes import wrong_state
from pandastack.services.endings import Endings, server_of
from pandastack.services.ground import Ground
from pandastack.services.ledger import Story
from pandastack.services.turns import Flights
from pandastack.telemetry import logger

log = logger("sleep")

SLEEPERS = 4
"""So many are put to sleep at a time when the server ends: each writes its memory to the disk."""


class Sleep:
    """The verbs hibernate and wake."""

    def __init__(self, ground: Ground, archive: Archive, endings: Endings) -> None:
        self._ledger = ground.ledger
        self._placement = ground.placement
        self._line = ground.line
        self._safe = ground.safe
        self._activity = ground.activity
        self._archive = archive
        self._endings = endings
        self._causes = ground.causes
        self._turns = ground.turns
        self._clock = ground.clock
        self._terms = ground.terms
        self._metrics = ground.metrics
        self._failpoint = ground.failpoint
        self._books = ground.books
        self._flights: Flights[None] = Flights()

    async def hibernate(
        self, caller: Caller, sandbox_id: str, cause: str = "asked for", *, if_overdue: bool = False
    ) -> bool:
        """Keep it on the disk and give its machine back; fine when it sleeps already. Whether it sleeps now.

        With `if_overdue` only if nobody uses it by the time that its turn comes. On any error before its
        image is durable it goes on as before. Errors: SandboxNotFound, Conflict, NotSupported, NoSpace,
        QuotaExceeded, OutcomeUnknown, MachineError.
        """
        async with self._turns.turn(sandbox_id):
            found = await self._ledger.find(caller, sandbox_id)
            if found.status is SandboxState.HIBERNATED:
                return True
            if found.status not in AWAKE:
                raise wrong_state(found, SandboxState.RUNNING)
            with self._turns.away(sandbox_id):
                if if_overdue and self._activity.overdue_one(sandbox_id) is None:
                    return False
                await self._put_to_sleep(caller, found, cause)
                return True

    async def wake(self, caller: Caller, sandbox_id: str, *, disk_only: bool = False) -> None:
        """Let it go on where it stopped; fine when it runs. All who ask at once share one restore.

        With `disk_only` it boots with its disk, for when its memory cannot be used. On any error it sleeps on
        with all its data. Errors: SandboxNotFound, Conflict, QuotaExceeded, NoCapacity, NoSpace,
        SnapshotNotFound, SnapshotRefused, BootFailed, OutcomeUnknown.
        """
        if (await self._ledger.find(caller, sandbox_id)).status is not SandboxState.RUNNING:
            flight = f"{sandbox_id} from its disk" if disk_only else sandbox_id
            await self._flights.join(flight, partial(self._wake, caller, sandbox_id, disk_only=disk_only))

    async def revive(
        self, caller: Caller, asleep: Sandbox, snapshot_id: str, story: Story, *, disk_only: bool
    ) -> Sandbox:
        """Within its turn: start a machine for one that has none, from a snapshot. Errors: as `wake`."""
        self._check_lifetime(asleep)
        await self._ledger.check_room(asleep, self._terms.limits)
        try:
            with self._archive.pinned(snapshot_id):
                async with self._line.turn():
                    spec = VmSpec(
                        asleep.id,
                        image_of(asleep.workspace, asleep.template),
                        hostname=hostname(asleep.id),
                        snapshot=snapshot_id,
                        egress=asleep.egress,
                        secrets=await self._safe.of(asleep),
                        volumes=tuple(asleep.volumes),
                        cold=disk_only,
                    )
                    return await self._restore(asleep, spec, story)
        except BaseException:
            now = await self._ledger.find_any(caller, asleep.id)  # it has the last word, as in a hibernation
            if now.status is SandboxState.RUNNING:
                self._activity.begin(now)
            else:
                await self._endings.stop_quietly(asleep.id)
            raise

    async def hibernate_all(self, cause: str) -> None:
        """Put all that are awake to sleep; those that cannot be are ended, which is logged."""
        places = asyncio.Semaphore(SLEEPERS)
        async with asyncio.TaskGroup() as group:
            for sandbox in await self._ledger.listing(AWAKE):
                group.create_task(self._sleep_or_end(sandbox, cause, places))

    async def _sleep_or_end(self, sandbox: Sandbox, cause: str, places: asyncio.Semaphore) -> None:
        try:
            async with places:
                await self.hibernate(server_of(sandbox), sandbox.id, cause)
        except PandastackError as error:
            log.warning("sandbox.not_hibernated", sandbox_id=sandbox.id, error=error.message)
            why = f"{cause}, and it could not be hibernated: {error.message}"
            await self._endings.end_quietly(sandbox, why)

    async def _put_to_sleep(self, caller: Caller, found: Sandbox, cause: str) -> None:
        superseded: list[str] = []
        try:
            async with (
                self._causes.explaining(caller, found.id),
                self._archive.taken(found, SnapshotKind.HIBERNATION, hold=True) as image,
            ):
                await self._failpoint("hibernate.taken")
                superseded = await self._commit(caller, found, image, cause)
        finally:  # the row has the last word, also when we were cancelled while it was written
            after = await self._ledger.find_any(caller, found.id)
            if after.status is SandboxState.HIBERNATED:
                await self._release(found.id, superseded)
            elif after.status is SandboxState.RUNNING:
                await self._go_on(found.id)

    async def _commit(self, caller: Caller, found: Sandbox, image: Snapshot, cause: str) -> list[str]:
        """The ids of the images that this one supersedes."""
        payload: dict[str, object] = {"snapshot_id": image.id, "size_bytes": image.size_bytes, "cause": cause}
        superseded = await self._ledger.hibernated(found, image, Story("sandbox.hibernated", payload, caller))
        await self._failpoint("hibernate.committed")
        return superseded

    async def _release(self, sandbox_id: str, superseded: list[str]) -> None:
        """Give back its machine and the images that it slept in before; what cannot be is left for later."""
        self._activity.end(sandbox_id)
        await self._books.gather_quietly(sandbox_id)
        await self._endings.stop_quietly(sandbox_id)
        self._archive.drop_later(superseded)
        await self._failpoint("hibernate.stopped")

    async def _go_on(self, sandbox_id: str) -> None:
        host = self._placement.host_of(sandbox_id)
        try:
            await self._placement.ordered(host.resume(sandbox_id), "resume")
        except PandastackError as error:
            log.warning("sandbox.held", sandbox_id=sandbox_id, error=error.message)

    async def _wake(self, caller: Caller, sandbox_id: str, *, disk_only: bool) -> None:
        async with self._turns.turn(sandbox_id):
            found = await self._ledger.find(caller, sandbox_id)
            if found.status is SandboxState.RUNNING:
                return
            if found.status is not SandboxState.HIBERNATED or found.snapshot_id is None:
                raise wrong_state(found, SandboxState.HIBERNATED)
            story = Story("sandbox.woken", {}, caller)
            await self.revive(caller, found, found.snapshot_id, story, disk_only=disk_only)

    async def _restore(self, asleep: Sandbox, spec: VmSpec, story: Story) -> Sandbox:
        host = self._placement.host_of(asleep.id)
        if asleep.status is SandboxState.FAILED:  # what is left of the dead machine has the same name
            await self._placement.ordered(host.stop(asleep.id), "stop")
        patience = self._terms.create_timeout_seconds
        vm = await self._placement.ordered(host.start(spec), "start", seconds=patience)
        await self._failpoint("wake.started")
        told: dict[str, object] = {
            "boot_ms": round(vm.boot_ms),
            "boot_mode": vm.boot_mode,
            "phases": vm.phases_ms,
        }
        now = self._clock.now()
        after = await self._ledger.revive(
            asleep,
            self._terms.limits,
            Story(story.event, story.payload | told, story.caller, story.status),
            used_seconds=asleep.used_by(now),
            awake_since=now,
            cause=None,
            ended_at=None,
            **risen(vm, self._placement.report),
        )
        self._activity.begin(after)
        await self._failpoint("wake.committed")
        self._metrics.wakes.labels(vm.boot_mode).inc()
        return after

    def _check_lifetime(self, asleep: Sandbox) -> None:
        used = asleep.used_by(self._clock.now())
        if asleep.lifetime_seconds is not None and used >= asleep.lifetime_seconds:
            raise Conflict(
                f"The lifetime of {asleep.lifetime_seconds} s of sandbox {asleep.id} is over: "
                "raise its lifetime_seconds first.",
                state=asleep.status,
            )
