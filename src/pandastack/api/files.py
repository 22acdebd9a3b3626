"""Files over HTTP: bytes stream both ways and are never held whole."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from posixpath import basename, join
from typing import Annotated, cast

from msgspec import Meta, Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pandastack.api.calls import Api, Body, Query
from pandastack.api.streams import READY, EventStream, record
from pandastack.endpoint import ClientGone, Nothing, RangeNotSatisfiable, Reply, attended
from pandastack.errors import InvalidRequest, TooLarge
from pandastack.model.guest import FileEntry, FileKind, FileReader
from pandastack.services.files import Files, Place

OCTETS = "application/octet-stream"
Mode = Annotated[str, Meta(pattern="^0?o?[0-7]{3,4}$")]
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class At(Struct, frozen=True):
    """A path in the guest, and as whom it is touched (root when left out)."""

    path: str
    user: str | None = None


class WriteAt(At, frozen=True):
    """Where a file is written, with the permissions `mode` (octal) if given."""

    mode: Mode | None = None


class RemoveAt(At, frozen=True):
    """A path to remove, with all below it; `recursive=0` refuses a directory that is not empty."""

    recursive: bool = True


class ListAt(Struct, frozen=True):
    """The directory to list, so many levels deep."""

    path: str = "/"
    user: str | None = None
    depth: Annotated[int, Meta(ge=1, le=64)] = 1


class StatAt(At, frozen=True):
    """A path; `follow=0` asks for a link itself."""

    follow: bool = True


class WatchAt(At, frozen=True):
    """A path to watch, with all below it if `recursive`."""

    recursive: bool = False


class Entry(Struct, frozen=True):
    """A file on the wire: `mode` is find(1)'s type letter, `permissions` are octal, `mtime` seconds."""

    name: str
    path: str
    is_dir: bool
    size: int
    mode: str
    mtime: int
    permissions: str
    uid: int
    gid: int
    link: str | None = None


class Listing(Struct, frozen=True):
    """A directory."""

    path: str
    entries: list[Entry]


class Written(Struct, frozen=True):
    """A file that was written."""

    path: str
    bytes: int


class MakeDirectory(Struct, frozen=True, forbid_unknown_fields=True):
    """A directory to make, with its missing parents."""

    path: str
    mode: Mode | None = None
    user: str | None = None


class Move(Struct, frozen=True, forbid_unknown_fields=True):
    """A file to rename."""

    path: str
    target: str
    user: str | None = None


class ChangeMode(Struct, frozen=True, forbid_unknown_fields=True):
    """Permissions to set."""

    path: str
    mode: Mode
    user: str | None = None
    recursive: bool = False


async def read(call: Api[None, At]) -> Download:
    return Download(call.app.files, _place(call, call.query), call.connection.headers.get("range", ""))


async def head(call: Api[None, At]) -> Response:
    entry = await call.app.files.stat(_place(call, call.query))
    if entry.kind is FileKind.DIRECTORY:
        raise InvalidRequest(f'"{call.query.path}" is a directory: list it with fs/dir.')
    headers = {"content-length": str(entry.size), "accept-ranges": "bytes"}
    return Response(headers=headers, media_type=OCTETS)


async def write(call: Api[None, WriteAt]) -> Written:
    place, limit = _place(call, call.query), call.app.sizes["max_upload_bytes"]
    size = await call.app.files.write(place, body_of(call, limit), mode=mode_of(call.query.mode))
    return Written(place.path, size)


def body_of(call: Api[None, Query], limit: int) -> AsyncIterator[bytes]:
    """What is uploaded, at most so many bytes. Errors: TooLarge, at once where it was declared."""
    request = cast(Request, call.connection)  # PUT is no WebSocket
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"The file has {declared} bytes; at most {limit} are taken.")
    return _upload(request, limit)


async def remove(call: Api[None, RemoveAt]) -> None:
    await call.app.files.remove(_place(call, call.query), recursive=call.query.recursive)


async def list_directory(call: Api[None, ListAt]) -> Listing:
    place = _place(call, call.query)
    entries = await call.app.files.list(place, call.query.depth)
    return Listing(place.path, [entry_of(entry, join(place.path, entry.name)) for entry in entries])


async def stat(call: Api[None, StatAt]) -> Entry:
    place = _place(call, call.query)
    return entry_of(await call.app.files.stat(place, follow=call.query.follow), place.path)


async def make_directory(call: Api[MakeDirectory, Nothing]) -> Reply:
    place = _place(call, call.body)
    await call.app.files.make_directory(place, mode_of(call.body.mode))
    return Reply(entry_of(await call.app.files.stat(place), place.path), 201)


async def move(call: Api[Move, Nothing]) -> None:
    await call.app.files.move(_place(call, call.body), call.body.target)


async def change_mode(call: Api[ChangeMode, Nothing]) -> None:
    mode = int(call.body.mode.replace("o", ""), 8)
    await call.app.files.change_mode(_place(call, call.body), mode, recursive=call.body.recursive)


async def watch(call: Api[None, WatchAt]) -> EventStream:
    async def records() -> AsyncGenerator[bytes, None]:
        watching = call.app.files.watch(_place(call, call.query), recursive=call.query.recursive)
        async with watching as events:
            yield READY
            async for event in events:
                yield record("change", event)

    return EventStream(records(), call.app.beat_seconds)


class Download:
    """A file as an answer: its size is told where it is one, so a cut connection is seen as such."""

    def __init__(self, files: Files, place: Place, wanted: str) -> None:
        self._files = files
        self._place = place
        self._wanted = wanted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        offset, length = 0, None
        partial = RANGE.fullmatch(self._wanted)
        if partial is not None:
            offset, length = await self._part(partial)
        async with self._files.read(self._place, offset=offset, length=length) as reader:
            size = reader.entry.size
            known = _known_size(reader.entry, offset, length)
            await send(_start(known, (offset, size) if partial and known is not None else None))
            await attended(receive, _pump(reader, known, send), None, 60.0)

    async def _part(self, wanted: re.Match[str]) -> tuple[int, int | None]:
        """Offset and length of a range. Errors: RangeNotSatisfiable for one beyond the file."""
        first, last = wanted.groups()
        size = (await self._files.stat(self._place)).size
        begin = int(first) if first else max(0, size - int(last or 0))
        end = min(size, int(last) + 1) if first and last else size
        if begin >= end:
            raise RangeNotSatisfiable(
                f"The file has {size} bytes, and the range {wanted[0]!r} is outside of it.",
                {"content-range": f"bytes */{size}"},
            )
        return begin, end - begin


def _known_size(entry: FileEntry, offset: int, length: int | None) -> int | None:
    """How many bytes will come; None for what is no plain file, or says 0 as those of /proc do."""
    if entry.kind is not FileKind.FILE or entry.size == 0:
        return None
    rest = max(0, entry.size - offset)
    return rest if length is None else min(rest, length)


def _start(known: int | None, part: tuple[int, int] | None) -> dict[str, object]:
    headers = [(b"content-type", OCTETS.encode()), (b"accept-ranges", b"bytes")]
    if known is not None:
        headers.append((b"content-length", b"%d" % known))
    if part is not None and known is not None:
        offset, size = part
        headers.append((b"content-range", b"bytes %d-%d/%d" % (offset, offset + known - 1, size)))
    return {"type": "http.response.start", "status": 200 if part is None else 206, "headers": headers}


async def _pump(reader: FileReader, known: int | None, send: Send) -> None:
    left = known
    async for data in reader:
        part = data if left is None else data[:left]
        if left is not None:
            left -= len(part)
        if part:
            await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _upload(request: Request, limit: int) -> AsyncIterator[bytes]:
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"The file is larger than the {limit} bytes that are taken.")
            if chunk:
                yield chunk
    except ClientDisconnect as error:
        raise ClientGone from error


def _place(call: Api[Body, Query], at: At | ListAt | MakeDirectory | Move | ChangeMode) -> Place:
    return Place(call.caller, call.path["sandbox_id"], at.path, at.user)


def mode_of(text: str | None) -> int | None:
    """The permissions that octal digits say."""
    return None if text is None else int(text.replace("o", ""), 8)


def entry_of(entry: FileEntry, path: str) -> Entry:
    """A file as it is told."""
    return Entry(
        name=basename(path.rstrip("/")) or "/",
        path=path,
        is_dir=entry.kind is FileKind.DIRECTORY,
        size=entry.size,
        mode=entry.kind.value,
        mtime=entry.mtime_ns // 1_000_000_000,
        permissions=f"{entry.mode & 0o7777:04o}",
        uid=entry.uid,
        gid=entry.gid,
        link=entry.link,
    )
