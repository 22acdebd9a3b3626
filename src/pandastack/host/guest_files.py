"""Files of the guest, read and written with the rights of one of its users."""

from __future__ import annotations

import posixpath
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from pandastack.errors import InvalidRequest, PandastackError
from pandastack.host import operations, refusals
from pandastack.host.fields import Fields, Tag, Value, decode_items, encode_fields
from pandastack.host.frames import Data, Frame, FrameType, malformed
from pandastack.host.operations import Op
from pandastack.host.questions import Questions, Refusal, absolute, nothing, user_name
from pandastack.host.stream import Stream, patience
from pandastack.model.guest import Channel, FileEntry, FileEvent, FileKind, FileReader

MAX_DEPTH = 64
ALL_BITS = 0o7777


class OpenFile:
    """A file of the guest that is being read; the guest reads ahead no further than we do."""

    def __init__(self, entry: FileEntry, stream: Stream, path: str, deadline: float) -> None:
        self.entry = entry
        self._stream = stream
        self._path = path
        self._deadline = deadline

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Its bytes; an error when they end too early."""
        while True:
            item = await self._stream.answer(self._deadline)
            if isinstance(item, Data):
                yield item.content
            elif item.type is FrameType.DONE:
                Questions.ended(item, operations.DONE, _refusal(self._path))
                return


class Files(Questions):
    """The verbs for files. FileMissing, FileRefused; InvalidRequest for a relative path or unknown user."""

    @asynccontextmanager
    async def read(
        self, path: str, *, user: str | None = None, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[FileReader]:
        """Open a file; its bytes come as fast as they are taken."""
        request = _request(path, user, (Tag.OFFSET, offset or None), (Tag.LENGTH, length))
        with self._link.open(Op.READ, request) as stream:
            first = await self._opened(stream, path)
            fields = self.opened(first, operations.FILE)
            yield OpenFile(_entry(fields, path), stream, path, self._deadlines.work)

    async def write(
        self, path: str, chunks: AsyncIterable[bytes], *, user: str | None = None, mode: int | None = None
    ) -> int:
        """Write a file, atomically: on any error and on cancellation the old one stays. The bytes written."""
        with self._link.open(Op.WRITE, _request(path, user, _mode(mode))) as stream:
            self.opened(await self._opened(stream, path), operations.NOTHING)
            async for chunk in chunks:
                async with patience(self._deadlines.work):
                    await stream.write(chunk)
                if stream.over:
                    break
            stream.send(FrameType.EOF, bytes((Channel.STDIN,)))
            frame = await stream.answer(self._deadlines.work)
            if isinstance(frame, Data) or frame.type is not FrameType.DONE:
                raise malformed("an answer to WRITE without DONE")
            return self.ended(frame, operations.WRITTEN, _refusal(path)).number(Tag.SIZE)

    async def list(self, path: str, *, user: str | None = None, depth: int = 1) -> list[FileEntry]:
        """What is below a directory, `depth` levels deep, in the order of the file system."""
        if not 1 <= depth <= MAX_DEPTH:
            raise InvalidRequest(f"depth must be 1 to {MAX_DEPTH}, got {depth}")
        request = _request(path, user, (Tag.DEPTH, depth))
        return await self._items(Op.LIST, request, operations.ENTRY, _entry, _refusal(path))

    async def stat(self, path: str, *, user: str | None = None, follow: bool = True) -> FileEntry:
        """The entry of one path; of a link itself unless `follow`."""
        request = _request(path, user, (Tag.NOFOLLOW, None if follow else 1))
        named = partial(_entry, path=path)
        items = await self._items(Op.STAT, request, operations.ENTRY, named, _refusal(path))
        if len(items) != 1:
            raise malformed(f"STAT with {len(items)} items")
        return items[0]

    async def mkdir(self, path: str, *, user: str | None = None, mode: int | None = None) -> None:
        """Make a directory and its parents; one that exists is fine."""
        await self._order(Op.MKDIR, path, _request(path, user, _mode(mode)))

    async def move(self, path: str, target: str, *, user: str | None = None) -> None:
        """Move a file or a tree, over what is there; parents of the target are made."""
        await self._order(Op.MOVE, path, _request(path, user, (Tag.TARGET, absolute(target))))

    async def remove(self, path: str, *, user: str | None = None, recursive: bool = False) -> None:
        """Remove a file, an empty directory, or with `recursive` a tree."""
        await self._order(Op.REMOVE, path, _request(path, user, (Tag.RECURSIVE, 1 if recursive else None)))

    async def chmod(self, path: str, mode: int, *, user: str | None = None, recursive: bool = False) -> None:
        """Set the permission bits of a path, with `recursive` of all below it too."""
        request = _request(path, user, _mode(mode), (Tag.RECURSIVE, 1 if recursive else None))
        await self._order(Op.CHMOD, path, request)

    @asynccontextmanager
    async def watch(
        self, path: str, *, user: str | None = None, recursive: bool = False
    ) -> AsyncIterator[AsyncIterator[FileEvent]]:
        """Changes below a path from now on.

        A reader that falls far behind gets an `overflow` in their place.
        """
        request = _request(path, user, (Tag.RECURSIVE, 1 if recursive else None))
        with self._link.open(Op.WATCH, request) as stream:
            self.opened(await self._opened(stream, path), operations.NOTHING)
            yield _events(stream, path)

    async def _opened(self, stream: Stream, path: str) -> Frame | Data:
        """The first answer; the error of a DONE in its place."""
        first = await stream.answer(self._deadlines.answer)
        if isinstance(first, Frame) and first.type is FrameType.DONE:
            self.ended(first, operations.DONE, _refusal(path))
        return first

    async def _order(self, op: Op, path: str, request: bytes) -> None:
        """An operation that answers nothing, and takes as long as the tree is large."""
        deadline = self._deadlines.work
        await self._items(op, request, operations.NOTHING, nothing, _refusal(path), first=deadline)


async def _events(stream: Stream, path: str) -> AsyncIterator[FileEvent]:
    while True:
        item = await stream.receive()
        if isinstance(item, Data):
            raise malformed("DATA for WATCH")
        if item.type is FrameType.DONE:
            Questions.ended(item, operations.DONE, _refusal(path))
            return
        for event in decode_items(item.payload, operations.EVENT):
            yield FileEvent(event.text(Tag.NAME), event.text(Tag.EVENT))
        if stream.overflowed:
            stream.overflowed = False
            yield FileEvent(".", "overflow")


def _request(path: str, user: str | None, *more: tuple[Tag, Value]) -> bytes:
    return encode_fields([(Tag.PATH, absolute(path)), (Tag.USER, user_name(user)), *more])


def _mode(mode: int | None) -> tuple[Tag, int | None]:
    if mode is not None and not 0 <= mode <= ALL_BITS:
        raise InvalidRequest(f"mode must be 0 to {ALL_BITS:o} (octal), got {mode:o}")
    return Tag.FILE_MODE, mode


def _refusal(path: str) -> Refusal:
    def of(done: Fields) -> PandastackError:
        return refusals.of_file(done, path)

    return of


def _entry(item: Fields, path: str = "") -> FileEntry:
    """An entry as the guest tells it; what has no name of its own is named by its path."""
    try:
        kind = FileKind(item.text(Tag.KIND))
    except ValueError:
        raise malformed(f"a file of kind {item.text(Tag.KIND)[:8]!r}") from None
    return FileEntry(
        name=posixpath.basename(path.rstrip("/")) or "/" if path else item.text(Tag.NAME),
        kind=kind,
        size=item.number(Tag.SIZE),
        mode=item.number(Tag.MODE) & 0o7777,
        mtime_ns=item.number(Tag.MTIME_NS),
        uid=item.number(Tag.UID),
        gid=item.number(Tag.GID),
        ctime_ns=item.number(Tag.CTIME_NS) if Tag.CTIME_NS in item else 0,
        link=item.text(Tag.LINK) if Tag.LINK in item else None,
    )
