"""The fork servers of a driver: one a snapshot, made again when it fails."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Protocol

import structlog
from msgspec import Struct

from pandastack.errors import PandastackError
from pandastack.host import unix
from pandastack.host.driver import Machine, Rehearsal
from pandastack.host.publish import taken_away
from pandastack.host.zygote import Zygote

log = structlog.get_logger("host")

MOST_COPIES = 8
MOST_COPIED_BYTES = 256 << 20
"""Copies of machines that are kept to serve their snapshots, and what all of these have of their own."""

PROGRAMS = ".programs"
"""Behind the name of a home whose server has rehearsed them."""
CALM_SECONDS = 5.0
"""After which programs are rehearsed: who has just come is served first."""


class Beginning(Struct, frozen=True):
    """A fork server that has just been started: the process, the same as the machine that it is, and what has
    that begin again.
    """

    zygote: Zygote
    machine: Machine
    go_back: Callable[[], Awaitable[None]]


class Begin(Protocol):
    """Starts a fork server in an empty home. Only one that is to begin `again` can go back."""

    def __call__(self, home: Path, *, again: bool) -> Beginning: ...


class Plan(Struct, frozen=True):
    """How to make the fork server of a snapshot."""

    begin: Begin
    rehearsal: Rehearsal


class Zygotes:
    """Owns the servers, their homes below `root`, and the tasks that make them; `close` ends all of it.

    The first server of a snapshot is there after a second. With `rehearse_programs` another one takes its
    place some time later, which has done more.
    """

    def __init__(self, root: Path, *, rehearse_programs: bool = False) -> None:
        self._root = root
        self._rehearse_programs = rehearse_programs
        self._plans: dict[str, Plan] = {}
        self._ready: dict[str, Zygote] = {}
        self._making: dict[str, asyncio.Task[None]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._retiring: dict[asyncio.Task[None], Zygote] = {}
        self._copies: dict[str, Zygote] = {}
        self._spare: dict[str, int] = {}

    async def prepare(self, key: str, plan: Plan) -> None:
        """Have a server for `key`. Without one restores are only slower, so a failure is told and no more."""
        self._plans[key] = plan
        if key not in self._ready:
            await asyncio.wait([self._begin_making(key)])

    async def keep(self, key: str, copy: Zygote, *, on_disk: int | None) -> None:
        """Have the copy of a machine serve for `key`. One whose memory is `on_disk` too, in so many bytes,
        need not be kept: of too many of these the oldest are ended, and one that is too large at once.
        """
        if on_disk is not None and on_disk > MOST_COPIED_BYTES:
            await copy.close()
            return
        self._copies[key] = copy
        self._ready[key] = copy
        if on_disk is not None:
            self._spare[key] = on_disk
        while len(self._spare) > MOST_COPIES or sum(self._spare.values()) > MOST_COPIED_BYTES:
            await self.drop(next(iter(self._spare)))

    async def drop(self, key: str) -> None:
        """End what serves for `key`, and make it no more; fine when there is nothing. A server that has
        machines ends with the last of them.
        """
        self._spare.pop(key, None)
        is_copy = self._copies.pop(key, None) is not None
        was_planned = self._plans.pop(key, None) is not None
        if making := self._making.get(key):
            making.cancel()
            await asyncio.wait([making])
            if self._making.get(key) is making:  # it had not begun
                del self._making[key]
        server = self._ready.pop(key, None) if is_copy or was_planned else None
        if is_copy and server is not None:
            await server.close()
        elif server is not None:
            ending = self._retire(server, server.outlive_machines())
            if server.is_childless:
                await asyncio.wait([ending])
        if was_planned and key not in self._plans and (server is None or server.is_childless):
            await self._clear(key)

    async def _clear(self, key: str) -> None:
        """Remove the homes of its servers; those of the next ones have the same names."""
        for home in (self._root / key, self._root / (key + PROGRAMS)):
            if home.exists():
                await asyncio.to_thread(shutil.rmtree, taken_away(home), ignore_errors=True)

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
        self._spare.pop(key, None)
        zygote.abandon()
        self._retire(zygote, zygote.close())
        log.warning("zygote.failed", snapshot=key, served=zygote.has_served, reason=reason)
        if zygote.has_served and key in self._plans:
            self._begin_making(key)

    async def close(self) -> None:
        """End all servers; their machines run on."""
        retired = list(self._retiring.values())
        tasks = [*self._making.values(), *self._retiring]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for zygote in (*self._ready.values(), *retired):
            await zygote.close()
        self._ready, self._copies = {}, {}
        await asyncio.to_thread(shutil.rmtree, self._root, ignore_errors=True)

    def _begin_making(self, key: str) -> asyncio.Task[None]:
        """Owned by this object; `close` ends it."""
        if key not in self._making:
            self._making[key] = asyncio.create_task(self._make(key), name=f"make fork server {key}")
        return self._making[key]

    async def _make(self, key: str) -> None:
        plan = self._plans[key]
        try:
            self._ready[key] = await self._made(self._root / key, plan, programs=False)
        except (PandastackError, OSError) as error:
            log.warning("zygote.not_made", snapshot=key, reason=str(error))
        finally:
            del self._making[key]
        if self._rehearse_programs and key in self._ready:
            log.info("rehearsal.begun", snapshot=key)
            self._making[key] = asyncio.create_task(self._improve(key, plan), name=f"improve {key}")

    async def _improve(self, key: str, plan: Plan) -> None:
        """Owned as the one before. The server that was there ends with the last of its machines."""
        try:
            async with self._one_at_a_time:
                await asyncio.sleep(CALM_SECONDS)
                better = await self._made(self._root / (key + PROGRAMS), plan, programs=True)
        except (PandastackError, OSError) as error:
            log.warning("rehearsal.ended", snapshot=key, reason=str(error))
            return
        finally:
            del self._making[key]
        log.info("rehearsal.ended", snapshot=key)
        before, self._ready[key] = self._ready.get(key), better
        if before is not None:
            self._retire(before, before.outlive_machines())

    def _retire(self, zygote: Zygote, ending: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Owned as the others: `close` ends what is left."""
        retiring = asyncio.create_task(ending, name="retire a fork server")
        self._retiring[retiring] = zygote
        retiring.add_done_callback(self._retired)
        return retiring

    def _retired(self, retiring: asyncio.Task[None]) -> None:
        del self._retiring[retiring]
        if not retiring.cancelled() and (error := retiring.exception()):
            log.warning("zygote.not_ended", reason=str(error))

    async def _made(self, home: Path, plan: Plan, *, programs: bool) -> Zygote:
        await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
        home.mkdir(parents=True, mode=0o700)
        begun = plan.begin(home, again=programs)
        machine, rehearsal = begun.machine, plan.rehearsal
        try:
            with unix.connect(machine.guest_socket) as agent:  # it stays connected when it goes back
                if programs:
                    async with rehearsal.programs(machine, agent.dup()):
                        await begun.go_back()
                async with rehearsal.first(machine, agent.dup()):
                    await begun.zygote.stand_still()
        except BaseException:
            await begun.zygote.close()
            raise
        return begun.zygote
