"""A look through all snapshots that are kept, slowly and for ever: damage is to be found before it is needed.

Each folder is read at most once a day, at a rate that leaves the disk and the processors to the machines.
When one was looked through last is the modification time of its manifest.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from pandastack.errors import NoSpace, SnapshotRefused
from pandastack.host import snapshots
from pandastack.host.kept import Damage, checked
from pandastack.host.vault import Vault

BYTES_PER_SECOND = 16 << 20
PAUSE_SECONDS = 60.0
"""Between two looks for something that is due, and before the first."""
DAY_SECONDS = 86400.0
log = structlog.get_logger("host")


class Scrub:
    """Looks through the snapshots of one vault, which is told what is damaged."""

    def __init__(
        self, vault: Vault, wall_ns: Callable[[], int], *, bytes_per_second: float = BYTES_PER_SECOND
    ) -> None:
        self._vault = vault
        self._wall_ns = wall_ns
        self._rate = bytes_per_second
        self._looked: dict[Path, float] = {}

    async def go_on(self) -> None:
        """Look through what is due, for ever."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            await self.look_through()

    async def look_through(self) -> None:
        """Look at each folder that is due, once, and know of what others have found."""
        self._vault.heed()
        for folder in self._vault.folders():
            if self._is_due(folder):
                await self._look_at(folder)

    def _is_due(self, folder: Path) -> bool:
        last = self._looked.get(folder, 0.0)
        with suppress(OSError):
            last = max(last, snapshots.files_in(folder).manifest.stat().st_mtime)
        return self._now() - last >= DAY_SECONDS

    async def _look_at(self, folder: Path) -> None:
        self._looked[folder] = self._now()
        try:
            self._vault.note(folder, await self._damage(folder))
            os.utime(snapshots.files_in(folder).manifest, (self._now(), self._now()))
        except (OSError, NoSpace) as error:  # a full disk, or a snapshot that was dropped meanwhile
            log.info("snapshot.not_noted", folder=folder.name, reason=str(error))

    async def _damage(self, folder: Path) -> Damage | None:
        """What is wrong with the files of a folder; None when nothing is."""
        try:
            parts = checked(folder)
            size = await asyncio.to_thread(next, parts, None)
            while size is not None:
                await asyncio.sleep(size / self._rate)
                size = await asyncio.to_thread(next, parts, None)
        except SnapshotRefused as error:
            return Damage(error.message, error.details.get("file"), error.details.get("chunk"))
        return None

    def _now(self) -> float:
        return self._wall_ns() / 1e9
