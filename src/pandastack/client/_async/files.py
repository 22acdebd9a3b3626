"""`sandbox.files`: the file system of a sandbox; and what is on a volume."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, cast

import msgspec
from httpx2 import ServerSentEvent

from pandastack.client import _wire
from pandastack.client._async.connection import AsyncConnection
from pandastack.client._errors import NotFoundError
from pandastack.client._pair import opened, pieces_async, put_async, replacing_async
from pandastack.client._values import FileEvent, FileInfo, Written, take
from pandastack.client._wire import Call, query

LocalFile = str | Path | BinaryIO
"""A path on this machine, or a binary file that is open."""


class AsyncFiles:
    """Files of a sandbox, or of a volume. Paths are absolute; `user` is the guest's user whose rights count
    (root by default; a volume knows no other).

    Errors of every verb: NotFoundError for a path that is not there, BadRequestError for one that is relative
    or that the guest's file system refuses, ConnectionError when the server is gone.
    """

    def __init__(self, connection: AsyncConnection, root: str) -> None:
        self._connection = connection
        self._root = root

    async def read(
        self, path: str, *, user: str | None = None, offset: int | None = None, length: int | None = None
    ) -> bytes:
        """The content of a file, whole or `length` bytes from `offset`.

        It is held in memory: `download` and `stream` are for large ones.
        """
        headers = _wire.range_header(offset, length)
        call = Call(method="GET", path=self._root, params=query(path=path, user=user), headers=headers)
        return await self._connection.fetch(call)

    async def read_text(self, path: str, encoding: str = "utf-8", *, user: str | None = None) -> str:
        """The content of a text file."""
        return (await self.read(path, user=user)).decode(encoding)

    @asynccontextmanager
    async def stream(self, path: str, *, user: str | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        """The content of a file piece by piece, as it arrives, inside the block."""
        call = Call(method="GET", path=self._root, params=query(path=path, user=user))
        async with self._connection.stream(call) as response:
            yield response.aiter_bytes()

    async def write(
        self, path: str, content: bytes | str | BinaryIO, *, user: str | None = None, mode: int | None = None
    ) -> Written:
        """Create or replace a file, its missing parents included; text is written as UTF-8.

        The file changes at once, when all of it has arrived; a write that fails leaves the old one. `mode` is
        the permission bits.

        Example: `sandbox.files.write("/workspace/run.sh", "echo hello\\n", mode=0o755)`
        """
        if isinstance(content, str):
            content = content.encode()
        body = content if isinstance(content, bytes | bytearray | memoryview) else pieces_async(content)
        headers = {"Content-Type": "application/octet-stream"}
        params = query(path=path, user=user, mode=_wire.octal(mode))
        call = Call(method="PUT", path=self._root, params=params, headers=headers)
        return cast("Written", await self._upload(call, body))

    async def _upload(self, call: Call, body: AsyncIterator[bytes] | bytes) -> object:
        async with self._connection.stream(call, content=body) as response:
            return msgspec.json.decode(await response.aread() or b"{}")

    async def upload(
        self, local_path: LocalFile, remote_path: str, *, user: str | None = None, mode: int | None = None
    ) -> Written:
        """Copy a local file into the sandbox, in pieces: memory stays flat whatever its size."""
        if not isinstance(local_path, str | Path):
            return await self.write(remote_path, local_path, user=user, mode=mode)
        with opened(Path(local_path)) as file:
            return await self.write(remote_path, file, user=user, mode=mode)

    async def download(self, remote_path: str, local_path: LocalFile, *, user: str | None = None) -> None:
        """Copy a file out of the sandbox, in pieces: memory stays flat whatever its size.

        A local path is replaced when the whole file has arrived; a download that fails leaves the old one.
        """
        async with self.stream(remote_path, user=user) as content:
            if not isinstance(local_path, str | Path):
                async for piece in content:
                    await put_async(local_path, piece)
                return
            async with replacing_async(Path(local_path)) as file:
                async for piece in content:
                    await put_async(file, piece)

    async def listdir(
        self, path: str = "/", *, user: str | None = None, depth: int | None = None
    ) -> list[FileInfo]:
        """The entries of a directory, in no order; `depth` levels of it (1 by default), names relative to
        `path`.
        """
        call = Call(method="GET", path=f"{self._root}/dir", params=query(path=path, user=user, depth=depth))
        answer = await self._connection.request(call) or {}
        return [FileInfo.from_dict(entry, parent=path) for entry in answer.get("entries") or []]

    async def stat(self, path: str, *, user: str | None = None) -> FileInfo:
        """What a path is; NotFoundError when there is nothing."""
        call = Call(method="GET", path=f"{self._root}/stat", params=query(path=path, user=user))
        entry = await self._connection.request(call) or {}
        name = entry.get("name") or path.rstrip("/").rsplit("/", 1)[-1]
        return FileInfo.from_dict({**entry, "name": name, "path": path})

    async def exists(self, path: str, *, user: str | None = None) -> bool:
        """Whether there is anything at a path."""
        try:
            await self.stat(path, user=user)
        except NotFoundError:
            return False
        return True

    async def walk(
        self, path: str = "/", *, user: str | None = None
    ) -> AsyncIterator[tuple[str, list[FileInfo], list[FileInfo]]]:
        """Walk a tree from the top, as `os.walk` does: `(directory, directories, files)`, one request a
        directory.

        Links to directories are not followed. What is taken out of `directories` is not descended into.
        """
        pending = [path]
        while pending:
            directory = pending.pop()
            entries = await self.listdir(directory, user=user)
            directories = [entry for entry in entries if entry.is_dir]
            yield directory, directories, [entry for entry in entries if not entry.is_dir]
            pending.extend(entry.path for entry in reversed(directories))

    async def mkdir(self, path: str, *, user: str | None = None, mode: int | None = None) -> None:
        """Make a directory and its missing parents; fine when it is there already."""
        await self._post("mkdir", path=path, mode=_wire.octal(mode), user=user)

    async def move(self, path: str, target: str, *, user: str | None = None) -> None:
        """Rename a file or directory, onto another file system too; missing parents of `target` are made."""
        await self._post("move", path=path, target=target, user=user)

    async def chmod(self, path: str, mode: int, *, user: str | None = None, recursive: bool = False) -> None:
        """Set the permission bits, e.g. `0o644`."""
        await self._post("chmod", path=path, mode=_wire.octal(mode), user=user, recursive=recursive)

    async def remove(self, path: str, *, user: str | None = None, recursive: bool = True) -> None:
        """Remove a file, or a directory with all that is in it; unless `recursive`, BadRequestError for a
        directory that is not empty.
        """
        params = query(path=path, user=user, recursive=None if recursive else False)
        call = Call(method="DELETE", path=self._root, params=params)
        await self._connection.request(call)

    async def _post(self, verb: str, **fields: object) -> None:
        body = _wire.clean(**fields)
        await self._connection.request(Call(method="POST", path=f"{self._root}/{verb}", json=body))


class AsyncSandboxFilesystem(AsyncFiles):
    """Files of one sandbox."""

    def __init__(self, connection: AsyncConnection, sandbox_id: str) -> None:
        super().__init__(connection, f"/sandboxes/{_wire.segment(sandbox_id)}/fs")

    @asynccontextmanager
    async def watch(
        self, path: str, *, user: str | None = None, recursive: bool = False
    ) -> AsyncIterator[AsyncIterator[FileEvent]]:
        """Changes below a path, as they happen; from the start of the block on, none is missed.

        Example: `with sandbox.files.watch("/workspace") as changes: print(next(changes))`
        """
        params = query(path=path, user=user, recursive=recursive)
        async with self._connection.events(
            Call(method="GET", path=f"{self._root}/watch", params=params)
        ) as records:
            yield _changes(aiter(records))


async def _changes(records: AsyncIterator[ServerSentEvent]) -> AsyncIterator[FileEvent]:
    async for record in records:
        value = _wire.record_value(record)
        if record.event == "change":
            yield take(FileEvent, value)
