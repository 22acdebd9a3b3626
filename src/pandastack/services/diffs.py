"""What differs between two points: sandboxes as they are, steps of a timeline, snapshots.

A snapshot is looked at by restoring it, for as long as that takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from pandastack.errors import Conflict, InvalidRequest
from pandastack.model.account import Caller
from pandastack.model.diff import (
    ChangeReason,
    Diff,
    DiffRequest,
    FileAt,
    FileChange,
    FileDiff,
    Point,
    PortAt,
    PortDiff,
    ProcessAt,
    ProcessDiff,
)
from pandastack.model.guest import FileEntry, FileKind, Guest
from pandastack.model.snapshot import Snapshot, SnapshotState
from pandastack.services.archive import Archive
from pandastack.services.glimpses import Glimpses
from pandastack.services.ground import Ground
from pandastack.services.sandboxes import Sandboxes
from pandastack.services.sights import Sight, digests, sight
from pandastack.services.timelines import Timelines

HASHED = 2000
HASHED_AT_ONCE = 200
"""Files whose bytes are compared because nothing but their time differs: in all, and by one command."""

R = TypeVar("R")
T = TypeVar("T", ProcessAt, PortAt)


class Diffs:
    """The verb diff."""

    def __init__(
        self,
        ground: Ground,
        archive: Archive,
        glimpses: Glimpses,
        sandboxes: Sandboxes,
        timelines: Timelines,
    ) -> None:
        self._new_id: Callable[[], str] = ground.new_id
        self._archive = archive
        self._glimpses = glimpses
        self._sandboxes = sandboxes
        self._timelines = timelines

    async def diff(self, caller: Caller, request: DiffRequest) -> Diff:
        """What leads from `a` to `b`. A hibernated sandbox is woken to be asked.

        Errors: InvalidRequest, SandboxNotFound, SnapshotNotFound, Conflict, FileMissing when one has no such
        `path`, and those of a create.
        """
        if not request.path.startswith("/"):
            raise InvalidRequest(f'path must be absolute, got "{request.path}"')
        async with (
            self._standing(caller, request.a) as one,
            self._standing(caller, request.b) as other,
        ):
            for each in (one, other):  # first: why one cannot be woken is no fault of the other
                await self._sandboxes.awake(caller, each)
            async with self._sandboxes.use(caller, one) as a, self._sandboxes.use(caller, other) as b:
                before, after = await _both(sight(a, request.path), sight(b, request.path))
                changed = await self._changed((a, b), (before, after))
        return told(before, after, changed, request.limit)

    @asynccontextmanager
    async def _standing(self, caller: Caller, point: Point) -> AsyncIterator[str]:
        """The sandbox to ask about a point: the one that it is of, or one of its snapshot for the block."""
        if (point.sandbox_id is None) == (point.snapshot_id is None):
            raise InvalidRequest("sandbox_id or snapshot_id required: a point is of one of them.")
        if point.sandbox_id is not None and point.step is None:
            yield (await self._sandboxes.get(caller, point.sandbox_id)).id
            return
        async with self._glimpses.of_snapshot(caller, await self._snapshot(caller, point)) as sandbox_id:
            yield sandbox_id

    async def _snapshot(self, caller: Caller, point: Point) -> Snapshot:
        if point.sandbox_id is not None and point.step is not None:
            return await self._timelines.point(caller, point.sandbox_id, point.step)
        found = await self._archive.find_shown(caller.workspace, point.snapshot_id or "")
        if found.state is not SnapshotState.READY:
            raise Conflict(f"Snapshot {found.id} is still being taken.")
        return found

    async def _changed(
        self, guests: tuple[Guest, Guest], seen: tuple[Sight, Sight]
    ) -> dict[str, ChangeReason]:
        """Files that are in both and differ, and in what."""
        before, after = seen[0].files, seen[1].files
        both = sorted(before.keys() & after.keys())
        found = {path: why for path in both if (why := difference(before[path], after[path]))}
        doubted = [path for path, why in found.items() if why is ChangeReason.MTIME][:HASHED]
        for start in range(0, len(doubted), HASHED_AT_ONCE):
            part = doubted[start : start + HASHED_AT_ONCE]
            for path, same in (await self._compared(guests, part)).items():
                if same:
                    del found[path]
                else:
                    found[path] = ChangeReason.CONTENT
        return found

    async def _compared(self, guests: tuple[Guest, Guest], paths: Sequence[str]) -> dict[str, bool]:
        """Whether the bytes of each are the same in both; nothing when one of them cannot tell."""
        first, second = (digests(guest, paths, self._new_id()) for guest in guests)
        before, after = await _both(first, second)
        if before is None or after is None:
            return {}
        return {path: one == other for path, one, other in zip(paths, before, after, strict=True)}


async def _both(first: Coroutine[None, None, R], second: Coroutine[None, None, R]) -> tuple[R, R]:
    """The results of both, which run at the same time; the first error of either."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()


def difference(before: FileEntry, after: FileEntry) -> ChangeReason | None:
    """What the entries of a path differ in; None when they are of the same file."""
    if before.kind is not after.kind:
        return ChangeReason.KIND
    if before.kind is FileKind.FILE and before.size != after.size:
        return ChangeReason.SIZE
    if before.link != after.link:
        return ChangeReason.LINK
    if before.mode != after.mode:
        return ChangeReason.MODE
    if before.kind is FileKind.FILE and _times(before) != _times(after):
        return ChangeReason.MTIME
    return None


def _times(file: FileEntry) -> tuple[int, int]:
    """Both: a program can set the first back to what it was."""
    return file.mtime_ns, file.ctime_ns


def told(before: Sight, after: Sight, changed: dict[str, ChangeReason], limit: int) -> Diff:
    """All that leads from one sight to another, `limit` of each list at most."""
    added = sorted(after.files.keys() - before.files.keys())
    removed = sorted(before.files.keys() - after.files.keys())
    return Diff(
        files=FileDiff(
            added=[FileAt(path, after.files[path].size) for path in added[:limit]],
            removed=[FileAt(path, before.files[path].size) for path in removed[:limit]],
            changed=[
                FileChange(path, before.files[path].size, after.files[path].size, why)
                for path, why in [*changed.items()][:limit]
            ],
        ),
        processes=ProcessDiff(
            started=_those(after.processes - before.processes, limit),
            ended=_those(before.processes - after.processes, limit),
        ),
        ports=PortDiff(
            opened=_those(after.ports - before.ports, limit),
            closed=_those(before.ports - after.ports, limit),
        ),
        truncated=max(len(added), len(removed), len(changed)) > limit,
    )


def _those(found: Iterable[T], limit: int) -> list[T]:
    return sorted(found)[:limit]
