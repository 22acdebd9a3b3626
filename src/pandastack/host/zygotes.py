"""The fork servers of a driver: one a snapshot, made again when it fails."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import structlog
from msgspec import Struct

from pandastack.errors import PandastackError
from pandastack.host.driver import Machine, Rehearse
from pandastack.host.zygote import Zygote

log = structlog.get_logger("host")

MOST_COPIES = 8
"""Copies of machines that are kept to serve their snapshots; each has some megabytes of its own."""

Begin = Callable[[Path], tuple[Zygote, Machine]]
"""Starts a fork server in an empty home: the process, and the same as the machine that it is until it stands
still."""


class Plan(Struct, frozen=True):
    """How to make the fork server of a snapshot."""

    begin: Begin
    rehearse: Rehearse


class Zygotes:
    """Owns the servers, their homes below `root`, and the tasks that make them; `close` ends all of it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._plans: dict[str, Plan] = {}
        self._ready: dict[str, Zygote] = {}
        self._making: dict[str, asyncio.Task[None]] = {}
        self._abandoned: list[Zygote] = []
        self._copies: dict[str, Zygote] = {}
        self._spare: list[str] = []

    async def prepare(self, key: str, plan: Plan) -> None:
        """Have a server for `key`. Without one restores are only slower, so a failure is told and no more."""
        self._plans[key] = plan
        if key not in self._ready:
            await asyncio.wait([self._begin_making(key)])

    async def keep(self, key: str, copy: Zygote, *, durable: bool) -> None:
        """Have the copy of a machine serve for `key`. Of those that are on the disk too, and need not be
        kept, the oldest of too many is ended.
        """
        self._copies[key] = copy
        self._ready[key] = copy
        if durable:
            self._spare.append(key)
        while len(self._spare) > MOST_COPIES:
            await self.drop(self._spare[0])

    async def drop(self, key: str) -> None:
        """End the copy that serves for `key`; fine when there is none."""
        if key in self._spare:
            self._spare.remove(key)
        copy = self._copies.pop(key, None)
        if copy is not None:
            self._ready.pop(key, None)
            await copy.close()

    def keys(self) -> set[str]:
        """What servers were asked for."""
        return set(self._plans)

    def find(self, key: str) -> Zygote | None:
        """The server for `key`, if it can fork now."""
        zygote = self._ready.get(key)
        if zygote is not None and zygote.is_machine:
            return None
        if zygote is not None and not zygote.alive():
            self.abandon(key, zygote, "it has ended")
            return None
        return zygote

    def abandon(self, key: str, zygote: Zygote, reason: str) -> None:
        """Forget a server that has failed, once. One that has served before is made again."""
        if self._ready.get(key) is not zygote:
            return
        del self._ready[key]
        self._copies.pop(key, None)
        zygote.abandon()
        self._abandoned.append(zygote)
        log.warning("zygote.failed", snapshot=key, served=zygote.has_served, reason=reason)
        if zygote.has_served and key in self._plans:
            self._begin_making(key)

    async def close(self) -> None:
        """End all servers; their machines run on."""
        making = list(self._making.values())
        for task in making:
            task.cancel()
        if making:
            await asyncio.wait(making)
        for zygote in (*self._ready.values(), *self._abandoned):
            await zygote.close()
        self._ready, self._copies, self._abandoned = {}, {}, []
        await asyncio.to_thread(shutil.rmtree, self._root, ignore_errors=True)

    def _begin_making(self, key: str) -> asyncio.Task[None]:
        """Owned by this object; `close` ends it."""
        if key not in self._making:
            self._making[key] = asyncio.create_task(self._make(key), name=f"make fork server {key}")
        return self._making[key]

    async def _make(self, key: str) -> None:
        try:
            self._ready[key] = await self._made(key, self._plans[key])
        except (PandastackError, OSError) as error:
            log.warning("zygote.not_made", snapshot=key, reason=str(error))
        finally:
            del self._making[key]

    async def _made(self, key: str, plan: Plan) -> Zygote:
        home = self._root / key
        await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
        home.mkdir(parents=True, mode=0o700)
        zygote, machine = plan.begin(home)
        try:
            async with plan.rehearse(machine):
                await zygote.stand_still()
        except BaseException:
            await zygote.close()
            raise
        return zygote
