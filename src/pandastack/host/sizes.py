"""Sizes of templates that were asked for: each is baked once, and so many of them stay on a host.

The size that a snapshot was baked for is noted in its folder; the note's modification time is its last use.
Beyond the limit those go that were used longest ago and that nobody needs: no machine goes on from them,
nobody is about to start one, and no other program of this machine has them in use. Whoever asks for such a
size again waits for it to be baked.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from pandastack.errors import PandastackError
from pandastack.host.kept import folders_of
from pandastack.host.paths import OWN_IMAGES, SIZE, Cache
from pandastack.host.publish import locked_if_free, taken_away
from pandastack.host.record import read_record
from pandastack.host.templates import Templates
from pandastack.host.uses import Uses, is_used_by_others
from pandastack.host.vms import Vms
from pandastack.model.image import Size, variant_of
from pandastack.telemetry import logger

AGAIN_SECONDS = 60.0
"""What could not go since it was needed is looked at again so much later."""
log = logger("host")


class Baked(Struct, frozen=True):
    """The snapshot of a size that was asked for."""

    template: str
    size: Size
    folder: Path
    used: float
    """When that was last, in seconds."""

    @property
    def name(self) -> str:
        """What the host calls the template in this size."""
        return variant_of(self.template, self.size)


def baked_below(roots: Iterable[Path]) -> list[Baked]:
    """All whose folders are `root/TEMPLATE/NAME`, the one used longest ago first."""
    found = []
    for record in (path for root in roots for path in root.glob(f"*/*/{SIZE}")):
        folder = record.parent
        is_going = any(name.startswith(".") for name in (folder.name, folder.parent.name))
        size = None if is_going else read_record(record, Size)
        with suppress(FileNotFoundError):  # another program has removed it just now
            if size is not None:
                found.append(Baked(folder.parent.name, size, folder, record.stat().st_mtime))
    return sorted(found, key=lambda each: each.used)


class Sizes:
    """All of a host, whose state lies below `state`, of which at most `most` stay: those in the cache, which
    other servers of this machine may share, and those of the images of tenants.
    """

    def __init__(
        self, cache: Cache, uses: Uses, templates: Templates, vms: Vms, *, state: Path, most: int
    ) -> None:
        self._cache = cache
        self._uses = uses
        self._templates = templates
        self._vms = vms
        self._state = state
        self._roots = (cache.snapshots, state / OWN_IMAGES)
        self._most = most

    async def go_on(self) -> None:
        """Trim now and behind each template that is made ready, for ever."""
        made = self._templates.made
        while True:
            made.clear()
            too_many = await self._tried()
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_SECONDS if too_many else None):
                    await made.wait()

    async def trim(self) -> int:
        """Remove those that are too many and that nobody needs. How many are left beyond the limit: each is
        needed, or its template is being baked.
        """
        baked = await asyncio.to_thread(baked_below, self._roots)
        too_many = len(baked) - self._most
        for each in baked:
            if too_many > 0 and await self._dropped(each):
                log.info("size.removed", template=each.template, size=each.name, digest=each.folder.name)
                too_many -= 1
        return max(0, too_many)

    async def _tried(self) -> int:
        try:
            return await self.trim()
        except (OSError, PandastackError) as error:
            log.warning("sizes.untidy", reason=str(error))
            return 1

    async def _dropped(self, baked: Baked) -> bool:
        """Whether it is gone."""
        if self._is_needed(baked):
            return False
        lock = self._cache.lock(f"bake-{baked.template}")
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        with locked_if_free(lock) as free, suppress(FileNotFoundError):
            if not free or await asyncio.to_thread(is_used_by_others, baked.folder, self._state):
                return False  # another server, machines of one that does not run now, copies of machines
            if self._is_needed(baked):
                return False
            if self._templates.put_back(baked.name, baked.folder):
                await self._vms.driver.release(baked.folder.name)
            gone = self._taken_away(baked)
            if gone is None:
                return False
            await asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)
        return True

    def _taken_away(self, baked: Baked) -> Path | None:
        """Its folder by another name; None when somebody has come to need it meanwhile."""
        if self._is_needed(baked) or self._templates.has_ready(baked.name, baked.folder):
            return None
        self._uses.let_go(baked.folder)
        with locked_if_free(baked.folder) as free:
            return taken_away(baked.folder) if free else None

    def _is_needed(self, baked: Baked) -> bool:
        """Whether a machine of this host goes on from it, or may soon. Snapshots that last have links of
        their own to its files.
        """
        if self._templates.is_wanted(baked.name):
            return True
        origins = [*self._vms.origins(), *self._vms.vault.passing()]
        return any(baked.folder.name == folder.name for each in origins for folder in folders_of(each))
