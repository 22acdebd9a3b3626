"""What is on volumes, for who has no sandbox: each look is a sandbox of its own, so nothing of a tenant's
file system is ever read by the host.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pandastack.errors import InvalidRequest, MachineError
from pandastack.model.account import Caller
from pandastack.model.guest import Command
from pandastack.services.files import Place
from pandastack.services.glimpses import VOLUME, Glimpses
from pandastack.services.sandboxes import Sandboxes


class Contents:
    """The way to the files of volumes."""

    def __init__(self, glimpses: Glimpses, sandboxes: Sandboxes) -> None:
        self._glimpses = glimpses
        self._sandboxes = sandboxes

    @asynccontextmanager
    async def at(self, caller: Caller, name: str, path: str, *, read_only: bool) -> AsyncIterator[Place]:
        """A path of a volume, absolute from its root, for the length of the block. What was written is on the
        volume when the block has ended.

        Errors: InvalidRequest, VolumeNotFound, VolumeBusy while a sandbox has it that this cannot go with,
        and those of a create.
        """
        where = self.within(path)
        async with self._glimpses.of_volume(caller, name, read_only=read_only) as sandbox_id:
            yield Place(caller, sandbox_id, where)
            if not read_only:
                await self._flush(caller, sandbox_id)

    @staticmethod
    def within(path: str) -> str:
        """Where a path of a volume is in what looks at it. Errors: InvalidRequest."""
        if not path.startswith("/") or ".." in path.split("/"):
            raise InvalidRequest(f"A path of a volume is absolute and has no `..`; got {path!r}.")
        return VOLUME + path.rstrip("/")

    async def _flush(self, caller: Caller, sandbox_id: str) -> None:
        command = Command(process_id="flush", argv=("sync", "-f", VOLUME), user="root")
        async with self._sandboxes.use(caller, sandbox_id) as guest, guest.run(command) as process:
            ended = await process.wait()
        if ended.exit_code != 0:
            raise MachineError("What was written could not be flushed to the volume, and may be lost.")
