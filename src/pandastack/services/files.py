"""Files of sandboxes. Paths are the guest's, absolute, resolved there with the rights of the asked user."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from pandastack.errors import FileRefused, InvalidRequest
from pandastack.model.account import Caller
from pandastack.model.guest import FileEntry, FileEvent, FileKind, FileReader, Guest
from pandastack.services.activity import Use
from pandastack.services.sandboxes import Sandboxes

NOT_A_FILE = frozenset({"EISDIR", "ENOTDIR", "ENAMETOOLONG", "ELOOP"})
"""Refusals that say something of the path, not of the file system: the request was wrong."""


class Place:
    """A path in a sandbox, and as whom it is touched."""

    __slots__ = ("caller", "path", "sandbox_id", "user")

    def __init__(self, caller: Caller, sandbox_id: str, path: str, user: str | None = None) -> None:
        self.caller = caller
        self.sandbox_id = sandbox_id
        self.path = _absolute(path)
        self.user = user


class Files:
    """The verbs on files.

    Errors of all of them: SandboxNotFound, Conflict, FileMissing, FileRefused, InvalidRequest (a relative
    path, a directory where a file is needed), GuestUnreachable, MachineError.
    """

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    @asynccontextmanager
    async def read(
        self, place: Place, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[FileReader]:
        """The file's bytes as they come, from `offset`, `length` of them at most."""
        async with (
            self._at(place) as guest,
            guest.read(place.path, user=place.user, offset=offset, length=length) as reader,
        ):
            if reader.entry.kind is FileKind.DIRECTORY:
                raise InvalidRequest(f'"{place.path}" is a directory: list it with fs/dir.')
            yield reader

    async def write(self, place: Place, chunks: AsyncIterable[bytes], *, mode: int | None = None) -> int:
        """Write the file and its missing parents; its size. The old file stays whole until the new one is.

        Should `chunks` raise, the old file is kept and the exception goes on.
        """
        async with self._at(place) as guest:
            return await guest.write(place.path, chunks, user=place.user, mode=mode)

    async def list(self, place: Place, depth: int = 1) -> list[FileEntry]:
        """The entries of a directory, in no order, named relative to it."""
        async with self._at(place) as guest:
            return await guest.list(place.path, user=place.user, depth=depth)

    async def stat(self, place: Place, *, follow: bool = True) -> FileEntry:
        """What the path is."""
        async with self._at(place) as guest:
            return await guest.stat(place.path, user=place.user, follow=follow)

    async def make_directory(self, place: Place, mode: int | None = None) -> None:
        """A directory and its missing parents; fine when it exists."""
        async with self._at(place) as guest:
            await guest.mkdir(place.path, user=place.user, mode=mode)

    async def move(self, place: Place, target: str) -> None:
        """Rename, over what is there and across file systems; missing parents of `target` are made."""
        async with self._at(place) as guest:
            await guest.move(place.path, _absolute(target), user=place.user)

    async def remove(self, place: Place, *, recursive: bool = True) -> None:
        """Remove it and all below it; unless `recursive` a directory that is not empty is FileRefused."""
        async with self._at(place) as guest:
            await guest.remove(place.path, user=place.user, recursive=recursive)

    async def change_mode(self, place: Place, mode: int, *, recursive: bool = False) -> None:
        """Set the permission bits."""
        async with self._at(place) as guest:
            await guest.chmod(place.path, mode, user=place.user, recursive=recursive)

    @asynccontextmanager
    async def watch(
        self, place: Place, *, recursive: bool = False
    ) -> AsyncIterator[AsyncIterator[FileEvent]]:
        """Changes below the path, until the block ends."""
        async with (
            self._at(place, Use.STREAM) as guest,
            guest.watch(place.path, user=place.user, recursive=recursive) as events,
        ):
            yield events

    @asynccontextmanager
    async def _at(self, place: Place, use: Use = Use.TRANSFER) -> AsyncIterator[Guest]:
        using = self._sandboxes.use(place.caller, place.sandbox_id, use)
        with _request_faults():
            async with using as guest:
                yield guest


@contextmanager
def _request_faults() -> Iterator[None]:
    try:
        yield
    except FileRefused as error:
        if error.details.get("errno") in NOT_A_FILE:
            raise InvalidRequest(error.message) from error
        raise


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidRequest(f'path must be absolute, got "{path}"')
    if "\0" in path:
        raise InvalidRequest("path holds a NUL byte.")
    return path
