"""Sandboxes that are there to look into something: a snapshot, a volume. They are in no list and no lineage,
count against the quota as any, and end with the look.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from msgspec import structs

from pandastack.errors import NoCapacity, NotSupported
from pandastack.model.account import Caller
from pandastack.model.egress import Egress, Internet
from pandastack.model.sandbox import ALIVE, Isolation, Sandbox, SandboxCreate
from pandastack.model.snapshot import Snapshot
from pandastack.model.volume import VolumeWish
from pandastack.services.archive import Archive
from pandastack.services.births import Births, Given
from pandastack.services.endings import Endings
from pandastack.services.ground import Ground
from pandastack.services.requests import Sizes
from pandastack.services.volumes import Volumes

TTL_SECONDS = 120
"""So long one outlives a server that died while it looked."""

VOLUME = "/volume"
"""Where a glimpse of a volume has it."""


class Glimpses:
    """All that are there now."""

    def __init__(
        self, ground: Ground, archive: Archive, births: Births, endings: Endings, volumes: Volumes
    ) -> None:
        self._ledger = ground.ledger
        self._placement = ground.placement
        self._archive = archive
        self._births = births
        self._endings = endings
        self._volumes = volumes
        self._there: set[str] = set()

    def there(self) -> frozenset[str]:
        """The ids of those that are there only to be looked at."""
        return frozenset(self._there)

    @asynccontextmanager
    async def of_snapshot(self, caller: Caller, snapshot: Snapshot) -> AsyncIterator[str]:
        """A sandbox of a snapshot, while the block lasts. Errors: those of a create."""
        sizes = Sizes(snapshot.template, snapshot.cpu, snapshot.memory_mb)
        draft = self._births.draft(caller, SandboxCreate(ttl_seconds=TTL_SECONDS), sizes, snapshot)
        draft = structs.replace(draft, parent_id=None)  # it is in no lineage either
        with self._archive.pinned(snapshot.id):
            async with self._glimpse(caller, draft) as sandbox_id:
                yield sandbox_id

    @asynccontextmanager
    async def of_volume(self, caller: Caller, name: str, *, read_only: bool) -> AsyncIterator[str]:
        """A sandbox that has a volume at `VOLUME` and reaches nothing, while the block lasts. Errors:
        VolumeNotFound, VolumeBusy, NotSupported, and those of a create.
        """
        wish = VolumeWish(name, VOLUME, read_only=read_only)
        mounts = await self._volumes.wished(caller, [wish])
        if self._placement.report.isolation is Isolation.NONE:
            raise NotSupported("Machines of this server are on its own disk, where there are no volumes.")
        off = SandboxCreate(ttl_seconds=TTL_SECONDS, egress=Egress(internet=Internet.OFF))
        draft = self._births.draft(caller, off, self._smallest(), None)
        async with self._glimpse(caller, structs.replace(draft, volumes=mounts)) as sandbox_id:
            yield sandbox_id

    @asynccontextmanager
    async def of_template(
        self, caller: Caller, template: str, wishes: Sequence[VolumeWish], egress: Egress, seconds: float
    ) -> AsyncIterator[str]:
        """A sandbox to work in for so long, with volumes of the workspace. Errors: those of a create."""
        mounts = await self._volumes.wished(caller, wishes)
        sizes = Sizes.of(await self._placement.choose(template))
        request = SandboxCreate(ttl_seconds=math.ceil(seconds) + TTL_SECONDS, egress=egress)
        draft = self._births.draft(caller, request, sizes, None)
        async with self._glimpse(caller, structs.replace(draft, volumes=mounts)) as sandbox_id:
            yield sandbox_id

    async def end_those_with(self, volume: str) -> None:
        """End those of an earlier server that have a volume of this name."""
        for sandbox in await self._ledger.listing(ALIVE):
            if any(mount.name == volume for mount in sandbox.volumes):
                await self._endings.end_quietly(sandbox, "its server ended")

    @asynccontextmanager
    async def _glimpse(self, caller: Caller, draft: Sandbox) -> AsyncIterator[str]:
        self._there.add(draft.id)
        try:
            await self._births.bear(caller.quietly(), draft, Given())
            try:
                yield draft.id
            finally:
                await self._endings.end_quietly(draft, "it was looked at")
        finally:
            self._there.discard(draft.id)

    def _smallest(self) -> Sizes:
        """What is there at once, and takes the least."""
        ready = [template for template in self._placement.report.templates if template.baked]
        if not ready:
            raise NoCapacity("No template is ready yet that a volume could be looked at with.")
        return Sizes.of(min(ready, key=lambda template: (template.memory_mb, template.name)))
