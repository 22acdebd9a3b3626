"""Builds: asked for, done one after the other for each workspace, told line by line, and ended one way or
the other.

A row is written first and says QUEUED; what comes of the build is told by the transaction that says DONE. A
server that ends takes its builds along: the next one finds their rows and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from msgspec import Struct, structs

from pandastack.carrying import carried_through, undone
from pandastack.errors import (
    Conflict,
    Forbidden,
    NotFound,
    PandastackError,
    TemplateExists,
    TemplateNotVerifiable,
    TemplateQuotaExceeded,
)
from pandastack.model.account import Caller
from pandastack.model.build import (
    ENDED,
    Build,
    BuildStatus,
    BuildWish,
    Credentials,
    Inputs,
    OwnTemplate,
    VerifyWish,
)
from pandastack.services.building import Building
from pandastack.services.events import Bell
from pandastack.services.ground import Ground
from pandastack.services.inputs import Drafts, InputFiles, Verifiable
from pandastack.services.verifying import Verifying
from pandastack.services.words import Words
from pandastack.store import audit, builds, templates
from pandastack.store.db import Connection
from pandastack.telemetry import logger

log = logger("builds")

AT_ONCE = 2
"""Builds of this server that run beside each other; those of one workspace never do."""
MOST_WAITING = 20
"""Builds of a workspace that have not ended."""

MOST_VERSIONS = 100
"""Versions of templates that a workspace may have in all."""

CANCELLED = "It was cancelled."
CUT_OFF = "The server ended while it was built: build it again."


class Order(Struct, frozen=True):
    """A build with all that it takes. `archive` is a file of ours, removed with its end."""

    caller: Caller
    build: Build
    wish: BuildWish
    credentials: Credentials
    archive: Path | None
    check: Check | None = None
    """What it is to be compared with; without it a template is made."""


class Check(Struct, frozen=True):
    """A version that is verified, and what it was built of. Its files are ours, removed with the end."""

    own: OwnTemplate
    taken: Verifiable


class Builds:
    """All builds of all workspaces. A caller sees its workspace's alone."""

    def __init__(
        self,
        ground: Ground,
        bell: Bell,
        building: Building,
        verifying: Verifying,
        inputs: InputFiles,
        archives: Path,
    ) -> None:
        self._archives = archives
        self._verifying = verifying
        self._inputs = inputs
        self._database = ground.database
        self._placement = ground.placement
        self._clock = ground.clock
        self._new_id = ground.new_id
        self._bell = bell
        self._building = building
        self._queue: asyncio.Queue[Order] = asyncio.Queue()
        self._going: dict[str, asyncio.Task[None]] = {}
        self._given_up: set[str] = set()
        self._turns: dict[str, asyncio.Lock] = {}
        self._room = asyncio.Semaphore(AT_ONCE)

    def new_archive(self) -> Path:
        """Where the input of a build may be written."""
        return self._archives / self._new_id()

    async def request(
        self, caller: Caller, wish: BuildWish, credentials: Credentials, archive: Path | None
    ) -> Build:
        """Put it in line; `archive` (the root file system or the context) is this object's from now on.
        Errors: TemplateExists without `replace`, TemplateQuotaExceeded, Forbidden for a name of the server's
        own, Conflict for too many.
        """
        try:
            build = await self._written(caller, wish)
        except BaseException:
            _remove(archive)
            raise
        self._queue.put_nowait(Order(caller, build, wish, credentials, archive))
        return build

    async def verify(self, caller: Caller, own: OwnTemplate, wish: VerifyWish) -> Build:
        """Put in line that a version is built again and compared. TemplateNotVerifiable when its inputs
        were not kept, Conflict for too many.
        """
        inputs = await self._inputs.find(own.workspace, own.name, own.version)
        if inputs is None:
            raise TemplateNotVerifiable(f"What {own.exact} was built of was not kept: it cannot be verified.")
        seconds = wish.timeout_seconds or inputs.wish.timeout_seconds
        inputs = structs.replace(inputs, wish=structs.replace(inputs.wish, timeout_seconds=seconds))
        taken = self._inputs.taken(inputs, Drafts(self.new_archive(), self.new_archive()))
        try:
            build = await self._noted(caller, own, inputs)
        except BaseException:
            _remove_all(taken)
            raise
        check = Check(own, taken)
        self._queue.put_nowait(Order(caller, build, inputs.wish, wish.credentials, None, check))
        return build

    async def _noted(self, caller: Caller, own: OwnTemplate, inputs: Inputs) -> Build:
        """The row of a build that verifies. Errors: Conflict."""
        drafted = self._draft(caller, inputs.wish)
        build = structs.replace(drafted, version=own.version, verifies=own.exact)

        def transaction(connection: Connection) -> None:
            _check_room(builds.listing(connection, caller.workspace, going=True))
            self._insert(connection, caller, build)

        await self._database.write(transaction)
        return build

    async def get(self, caller: Caller, build_id: str) -> Build:
        """Errors: NotFound."""
        found = await self._database.read(partial(builds.find, workspace=caller.workspace, build_id=build_id))
        if found is None:
            raise NotFound(f"There is no build {build_id}.")
        return found

    async def all(self, caller: Caller) -> list[Build]:
        """Those that are remembered, the newest first."""
        return await self._database.read(partial(builds.listing, workspace=caller.workspace))

    async def cancel(self, caller: Caller, build_id: str) -> Build:
        """End it; fine when it has ended. Errors: NotFound."""
        found = await self.get(caller, build_id)
        if found.status not in ENDED:
            self._given_up.add(build_id)
            if (task := self._going.get(build_id)) is not None:
                await undone(task)
            else:
                await self._end(build_id, BuildStatus.FAILED, error=CANCELLED, code="build.cancelled")
        return await self.get(caller, build_id)

    async def lines(self, caller: Caller, build_id: str, *, follow: bool) -> AsyncIterator[str]:
        """What it has said, and with `follow` what it says until it ends. Errors: NotFound, at the first."""
        last = 0
        waiting = self._bell.expect(build_id)
        try:
            while True:
                build = await self.get(
                    caller, build_id
                )  # first: when it has ended, all that it said is there
                said = await self._database.read(partial(builds.said, build_id=build_id, after=last))
                for last, text in said:  # noqa: B007  # the last of them counts
                    yield text
                if build.status in ENDED or not follow:
                    return
                await waiting.wait()
                waiting = self._bell.expect(build_id)
        finally:
            self._bell.leave(build_id, waiting)

    async def missed(self) -> None:
        """Before anything is served: end those that an earlier server was at."""
        await asyncio.to_thread(_emptied, self._archives)
        await asyncio.to_thread(self._inputs.open)
        for build in await self._database.read(partial(builds.listing, going=True)):
            await self._end(build.id, BuildStatus.FAILED, error=CUT_OFF, code="build.interrupted")

    async def work(self) -> None:
        """Do what is asked for, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                order = await self._queue.get()
                if order.build.id in self._given_up:  # while it was in line
                    self._given_up.discard(order.build.id)
                    _clear(order)
                    continue
                task = group.create_task(self._done(order), name=f"build-{order.build.id}")
                self._going[order.build.id] = task

    async def _written(self, caller: Caller, wish: BuildWish) -> Build:
        if any(template.name == wish.name for template in self._placement.report.templates):
            raise Forbidden(f"public template cannot be replaced: {wish.name!r}.")
        draft = self._draft(caller, wish)

        def transaction(connection: Connection) -> Build:
            waiting = builds.listing(connection, caller.workspace, going=True)
            _check_room(waiting)
            there = templates.listing(connection, caller.workspace, wish.name)
            if not wish.replace and (there or any(build.name == wish.name for build in waiting)):
                raise TemplateExists(
                    f"template already exists; pass replace=true to overwrite: {wish.name!r}."
                )
            kept = len(templates.listing(connection, caller.workspace))
            if kept + len(waiting) >= MOST_VERSIONS:
                raise TemplateQuotaExceeded(
                    f"The workspace has {kept} versions of templates, of {MOST_VERSIONS}: delete some."
                )
            version = builds.next_version(connection, caller.workspace, wish.name)
            build = structs.replace(draft, version=version)
            self._insert(connection, caller, build)
            return build

        return await self._database.write(transaction)

    def _draft(self, caller: Caller, wish: BuildWish) -> Build:
        return Build(
            id=self._new_id(),
            name=wish.name,
            workspace=caller.workspace,
            form=wish.form,
            status=BuildStatus.QUEUED,
            created_at=self._clock.now(),
            size_mb=wish.size_mb,
            cpu=wish.cpu,
            memory_mb=wish.memory_mb,
            image_ref=wish.image_ref,
        )

    def _insert(self, connection: Connection, caller: Caller, build: Build) -> None:
        builds.insert(connection, build)
        builds.trim(connection, caller.workspace)
        if caller.method:
            audit.add(connection, audit.Deed(caller, build.created_at, 202, {"template": build.name}))

    async def _done(self, order: Order) -> None:
        """From its turn to its end, however it ends."""
        build = order.build
        words = Words(self._database, self._bell, build.id)
        try:
            async with words.kept():
                await self._tried(order, words)
        finally:
            self._going.pop(build.id, None)
            self._given_up.discard(build.id)
            _clear(order)
            self._bell.ring(build.id)

    async def _tried(self, order: Order, words: Words) -> None:
        build, wish = order.build, order.wish
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._turns.setdefault(build.workspace, asyncio.Lock()))
                await stack.enter_async_context(self._room)
                await stack.enter_async_context(asyncio.timeout(wish.timeout_seconds))
                if order.check is None:
                    work = self._building.build(
                        order.caller, build, wish, order.credentials, order.archive, words
                    )
                else:
                    own, taken = order.check.own, order.check.taken
                    work = self._verifying.verify(order.caller, build, own, taken, order.credentials, words)
                await work
        except TimeoutError:
            await self._failed(
                build, f"It took longer than {wish.timeout_seconds:g} s.", "build.timeout", words
            )
        except PandastackError as error:
            await self._failed(build, error.message, error.code, words)
        except asyncio.CancelledError:
            by_user = build.id in self._given_up
            why, code = (CANCELLED, "build.cancelled") if by_user else (CUT_OFF, "build.interrupted")
            await carried_through(self._failed(build, why, code, words))
            if not by_user:
                raise
        except Exception:  # a bug that one build meets must not end the others
            log.exception("build.crashed", build_id=build.id)
            await self._failed(build, "An internal error of the server.", "internal.error", words)

    async def _failed(self, build: Build, why: str, code: str, words: Words) -> None:
        for line in why.splitlines():
            words.line(f"error: {line}")
        await words.flush()
        await self._end(build.id, BuildStatus.FAILED, error=why, code=code)

    async def _end(self, build_id: str, to: BuildStatus, **values: object) -> None:
        ended = {"ended_at": self._clock.now(), "step": "", **values}
        await self._database.write_soon(partial(builds.move, build_id=build_id, to=to, values=ended))
        self._bell.ring(build_id)


def _check_room(waiting: list[Build]) -> None:
    """Errors: Conflict."""
    if len(waiting) >= MOST_WAITING:
        raise Conflict(f"{len(waiting)} builds have not ended yet; a workspace has {MOST_WAITING}.")


def _clear(order: Order) -> None:
    _remove(order.archive)
    if order.check is not None:
        _remove_all(order.check.taken)


def _remove_all(taken: Verifiable) -> None:
    _remove(taken.files.archive)
    _remove(taken.files.listing)


def _emptied(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    for archive in folder.iterdir():
        archive.unlink()


def _remove(archive: Path | None) -> None:
    if archive is not None:
        archive.unlink(missing_ok=True)
