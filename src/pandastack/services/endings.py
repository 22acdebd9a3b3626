"""How sandboxes end: deleted, undone, or all of them with the server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from pandastack.errors import NoSpace, PandastackError
from pandastack.model.account import Caller, Scope
from pandastack.model.sandbox import ALIVE, Sandbox
from pandastack.model.snapshot import Fork
from pandastack.services.archive import Archive
from pandastack.services.ground import Ground
from pandastack.services.ledger import Story
from pandastack.telemetry import logger

log = logger("endings")


class Endings:
    """The one way out: STOPPING, the machine ended, DELETED. Whatever interrupts it is finished later."""

    def __init__(self, ground: Ground, archive: Archive) -> None:
        self._ledger = ground.ledger
        self._placement = ground.placement
        self._activity = ground.activity
        self._archive = archive
        self._failpoint = ground.failpoint
        self._ending: set[str] = set()

    async def delete(self, caller: Caller, sandbox_id: str, cause: str = "deleted by its owner") -> None:
        """End it and remove all of it but its snapshots; returns when it is gone.

        Errors: SandboxNotFound, OutcomeUnknown.
        """
        try:
            await self._ledger.begin_end(caller, sandbox_id, cause, 204)
        except NoSpace:  # what it holds may be what fills the disk
            await self._ledger.find(caller, sandbox_id)
            await self.stop_machine(sandbox_id)
            await self._ledger.begin_end(caller, sandbox_id, cause, 204)
        await self._failpoint("delete.stopping")
        await self.finish(sandbox_id, Story("sandbox.deleted", {"cause": cause}))

    async def end_all(self, cause: str) -> None:
        """End every living sandbox, all at once; what cannot be ended is settled by the next start."""
        async with asyncio.TaskGroup() as group:
            for sandbox in await self._ledger.listing(ALIVE):
                group.create_task(self.end_quietly(sandbox, cause))

    async def end_quietly(self, sandbox: Sandbox, cause: str) -> None:
        """End it in the server's own name; what cannot be ended is logged."""
        try:
            await self.delete(server_of(sandbox), sandbox.id, cause)
        except PandastackError as error:
            log.warning("sandbox.not_ended", sandbox_id=sandbox.id, error=error.message)

    async def delete_all(self, caller: Caller, sandbox_ids: Iterable[str], cause: str) -> dict[str, str]:
        """Delete them at once; what could not be deleted, and why. Those that are gone are fine."""
        quiet = caller.quietly()
        async with asyncio.TaskGroup() as group:
            tasks = {each: group.create_task(self._try_delete(quiet, each, cause)) for each in sandbox_ids}
        return {each: why for each, task in tasks.items() if (why := task.result()) is not None}

    async def undo(self, sandbox: Sandbox, cause: str, console: str = "") -> None:
        """Release everything of a create that failed, its key too; a later start does what is left."""
        await self._ledger.begin_undo(sandbox.id, cause)
        payload: dict[str, object] = {"cause": cause}
        if console:
            payload["console"] = console
        await self.finish(sandbox.id, Story("sandbox.failed", payload))

    async def finish(self, sandbox_id: str, story: Story) -> None:
        """From STOPPING to DELETED, with its machine and the images that it slept in."""
        self._activity.end(sandbox_id)
        self._ending.add(sandbox_id)
        try:
            await self.stop_machine(sandbox_id)
            await self._failpoint("delete.stopped")
            images = await self._ledger.complete_end(sandbox_id, story)
            await self._archive.drop(images)
        finally:
            self._ending.discard(sandbox_id)

    async def stop_machine(self, sandbox_id: str) -> None:
        """End its machine; fine when there is none."""
        await self._placement.ordered(self._placement.host_of(sandbox_id).stop(sandbox_id), "stop")

    async def stop_quietly(self, sandbox_id: str) -> None:
        """As `stop_machine`; one that cannot be ended is logged, and ended by whoever looks next."""
        try:
            await self.stop_machine(sandbox_id)
        except PandastackError as error:
            log.warning("machine.not_stopped", sandbox_id=sandbox_id, error=error.message)

    async def _try_delete(self, caller: Caller, sandbox_id: str, cause: str) -> str | None:
        try:
            await self.delete(caller, sandbox_id, cause)
        except PandastackError as error:
            return None if error.status == 404 else error.message
        return None

    def is_ending(self, sandbox_id: str) -> bool:
        """Whether a delete of this process works on it."""
        return sandbox_id in self._ending


def server_of(owned: Sandbox | Fork) -> Caller:
    """The server itself, as who changes what a workspace has when it ends."""
    return Caller(owned.workspace, "server", Scope.ADMIN, "internal", method="DELETE", path="/server")
