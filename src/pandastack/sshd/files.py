"""Files by SFTP, which is also how `scp` comes: each order is the guest's to carry out, and each path the
guest's to resolve. Nothing of this machine's is looked at.
"""

from __future__ import annotations

import posixpath
import stat as modes
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncssh
from asyncssh.sftp import run_sftp_server

from pandastack.carrying import unless_cancelled
from pandastack.errors import FileMissing, PandastackError
from pandastack.model.guest import FileEntry, FileKind, Guest
from pandastack.services.activity import Use
from pandastack.services.certificates import Admission
from pandastack.services.sandboxes import Sandboxes
from pandastack.sshd.handle import Handle
from pandastack.sshd.orders import CHANGE, FLUSH, HERE, LINK, REAL, ROOM, Orders, failure

HANDLES_MOST = 128
VERSION = 3
_TYPES = {
    FileKind.FILE: (modes.S_IFREG, asyncssh.FILEXFER_TYPE_REGULAR),
    FileKind.DIRECTORY: (modes.S_IFDIR, asyncssh.FILEXFER_TYPE_DIRECTORY),
    FileKind.LINK: (modes.S_IFLNK, asyncssh.FILEXFER_TYPE_SYMLINK),
    FileKind.PIPE: (modes.S_IFIFO, asyncssh.FILEXFER_TYPE_FIFO),
    FileKind.SOCKET: (modes.S_IFSOCK, asyncssh.FILEXFER_TYPE_SOCKET),
    FileKind.CHARACTER: (modes.S_IFCHR, asyncssh.FILEXFER_TYPE_CHAR_DEVICE),
    FileKind.BLOCK: (modes.S_IFBLK, asyncssh.FILEXFER_TYPE_BLOCK_DEVICE),
}


async def serve_files(
    process: asyncssh.SSHServerProcess[bytes],
    sandboxes: Sandboxes,
    admission: Admission,
    *,
    clear: Callable[[], Awaitable[None]],
    new_id: Callable[[], str],
) -> None:
    """Serve SFTP on a session until its client ends it; the sandbox is in use as long.

    `clear` returns once more can be written to the client.
    """
    use = sandboxes.use(admission.caller, admission.sandbox_id, Use.TRANSFER)
    async with use as guest:
        orders = Orders(guest, admission.user, new_id)
        here = (await orders.told(HERE)).decode("utf-8", "replace")
        files = Files(process.channel, guest, orders, here or "/", admission.user, clear)
        try:
            await run_sftp_server(files, process.stdin, process.stdout, VERSION)
        finally:
            await files.drop_all()


class Listing:
    """A directory that a client reads; its entries are asked for when the first one is."""

    def __init__(self, files: Files, path: bytes) -> None:
        self._names = files.entries(path)

    def __aiter__(self) -> AsyncIterator[asyncssh.SFTPName]:
        return self._names


class Files(asyncssh.SFTPServer):
    """The verbs of SFTP. asyncssh does one after another; of its own ones, which are about this machine's
    disk, none is left.
    """

    def __init__(
        self,
        chan: asyncssh.SSHServerChannel[bytes],
        guest: Guest,
        orders: Orders,
        here: str,
        user: str | None,
        clear: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(chan)
        self._guest = guest
        self._orders = orders
        self._here = here
        self._user = user
        self._clear = clear
        self._open: set[Handle] = set()
        self._listings: weakref.WeakSet[Listing] = weakref.WeakSet()

    def map_path(self, path: bytes) -> bytes:
        raise asyncssh.SFTPOpUnsupported("It is not done here.")

    def reverse_map_path(self, path: bytes) -> bytes:
        raise asyncssh.SFTPOpUnsupported("It is not done here.")

    def format_user(self, uid: int | None) -> str:
        return "" if uid is None else str(uid)

    def format_group(self, gid: int | None) -> str:
        return "" if gid is None else str(gid)

    # -- open files

    async def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Handle:
        async with self._order():
            self._check_room()
            handle = Handle(self._guest, self._orders, self._path(path), self._user)
            self._open.add(handle)
            try:
                await handle.open(pflags, attrs.permissions)
            except BaseException:
                self._open.discard(handle)
                await handle.drop()
                raise
            return handle

    async def open56(self, path: bytes, desired_access: int, flags: int, attrs: asyncssh.SFTPAttrs) -> Handle:
        raise asyncssh.SFTPOpUnsupported("It is not done here.")

    async def close(self, file_obj: object) -> None:
        handle = _handle(file_obj)
        self._open.discard(handle)
        async with self._order():
            await handle.close()

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        async with self._order():
            return await _handle(file_obj).read(offset, size)

    async def write(self, file_obj: object, offset: int, data: bytes) -> int:
        async with self._order():
            await _handle(file_obj).write(offset, data)
            return len(data)

    async def fstat(self, file_obj: object) -> asyncssh.SFTPAttrs:
        async with self._order():
            handle = _handle(file_obj)
            await handle.flush()
            return _attributes(await self._guest.stat(handle.path, user=self._user))

    async def fsetstat(self, file_obj: object, attrs: asyncssh.SFTPAttrs) -> None:
        async with self._order():
            handle = _handle(file_obj)
            await handle.flush()
            await self._change(handle.path, attrs)

    async def fstatvfs(self, file_obj: object) -> asyncssh.SFTPVFSAttrs:
        async with self._order():
            return await self._room(_handle(file_obj).path)

    async def fsync(self, file_obj: object) -> None:
        async with self._order():
            handle = _handle(file_obj)
            await handle.flush()
            await self._orders.told(FLUSH, handle.path)

    def exit(self) -> None:
        """Called by asyncssh; whoever serves us lets go of what is open."""

    # -- paths

    async def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
        async with self._order():
            return _attributes(await self._guest.stat(self._path(path), user=self._user))

    async def lstat(self, path: bytes) -> asyncssh.SFTPAttrs:
        async with self._order():
            return _attributes(await self._entry(self._path(path)))

    async def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        async with self._order():
            await self._change(self._path(path), attrs)

    async def lsetstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        async with self._order():
            await self._change(self._path(path), attrs, follow=False)

    def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        self._check_room()
        listing = Listing(self, path)
        self._listings.add(listing)
        return listing  # type: ignore[return-value]  # iterated over, and nothing else

    async def entries(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        """What is in a directory. Errors: SFTPError."""
        async with self._order():
            found = await self._guest.list(self._path(path), user=self._user)
        for entry in found:
            yield asyncssh.SFTPName(entry.name.encode(), attrs=_attributes(entry))
        await self._clear()

    async def remove(self, path: bytes) -> None:
        async with self._order():
            await self._remove(self._path(path), directory=False)

    async def rmdir(self, path: bytes) -> None:
        async with self._order():
            await self._remove(self._path(path), directory=True)

    async def mkdir(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        async with self._order():
            place = self._path(path)
            await self._check_free(place)
            await self._guest.stat(posixpath.dirname(place.rstrip("/")) or "/", user=self._user)
            mode = 0o755 if attrs.permissions is None else attrs.permissions & 0o777 & ~0o022
            await self._guest.mkdir(place, user=self._user, mode=mode)

    async def realpath(self, path: bytes) -> bytes:
        async with self._order():
            place = self._path(path)
            try:
                return (await self._orders.told(REAL, place)).removesuffix(b"\n") or place.encode()
            except asyncssh.SFTPError:  # it is not there, or nobody there can tell
                return posixpath.normpath(place).encode()

    async def readlink(self, path: bytes) -> bytes:
        async with self._order():
            entry = await self._entry(self._path(path))
            if entry.link is None:
                raise asyncssh.SFTPFailure("It is no link.")
            return entry.link.encode()

    async def rename(self, oldpath: bytes, newpath: bytes) -> None:
        async with self._order():
            await self._check_free(self._path(newpath))
            await self._guest.move(self._path(oldpath), self._path(newpath), user=self._user)

    async def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        async with self._order():
            await self._guest.move(self._path(oldpath), self._path(newpath), user=self._user)

    async def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        async with self._order():
            await self._orders.told(LINK, "s", _text(oldpath), self._path(newpath))

    async def link(self, oldpath: bytes, newpath: bytes) -> None:
        async with self._order():
            await self._orders.told(LINK, "h", self._path(oldpath), self._path(newpath))

    async def statvfs(self, path: bytes) -> asyncssh.SFTPVFSAttrs:
        async with self._order():
            return await self._room(self._path(path))

    # -- ours

    async def drop_all(self) -> None:
        """Let go of all that is open, as it is."""
        while self._open:
            await self._open.pop().drop()

    @asynccontextmanager
    async def _order(self) -> AsyncIterator[None]:
        await self._clear()
        try:
            yield
        except PandastackError as error:
            unless_cancelled(error)
            raise failure(error) from error

    def _check_room(self) -> None:
        if len(self._open) + len(self._listings) >= HANDLES_MOST:
            raise asyncssh.SFTPFailure("Too many files are open.")

    def _path(self, path: bytes) -> str:
        """As the guest takes it: absolute, and else as it was sent."""
        text = _text(path)
        return text if text.startswith("/") else f"{self._here.rstrip('/')}/{text}"

    async def _entry(self, path: str) -> FileEntry:
        return await self._guest.stat(path, user=self._user, follow=False)

    async def _check_free(self, path: str) -> None:
        try:
            await self._entry(path)
        except FileMissing:
            return
        raise asyncssh.SFTPFailure("It exists already.")

    async def _remove(self, path: str, *, directory: bool) -> None:
        if ((await self._entry(path)).kind is FileKind.DIRECTORY) != directory:
            raise asyncssh.SFTPFailure("It is no directory." if directory else "It is a directory.")
        await self._guest.remove(path, user=self._user)

    async def _change(self, path: str, attrs: asyncssh.SFTPAttrs, *, follow: bool = True) -> None:
        if attrs.permissions is not None and follow:
            await self._guest.chmod(path, modes.S_IMODE(attrs.permissions), user=self._user)
        owner = None if attrs.uid is None or attrs.gid is None else f"{attrs.uid}:{attrs.gid}"
        values = [attrs.size, owner, attrs.atime, attrs.mtime]
        if any(value is not None for value in values):
            words = ["" if value is None else str(value) for value in values]
            await self._orders.told(CHANGE, path, *words, "" if follow else "-h")

    async def _room(self, path: str) -> asyncssh.SFTPVFSAttrs:
        told = (await self._orders.told(ROOM, path)).split()
        if len(told) != 7 or not all(word.isdigit() for word in told):
            raise asyncssh.SFTPFailure("The sandbox does not tell.")
        size, blocks, free, available, files, files_free, name_most = map(int, told)
        return asyncssh.SFTPVFSAttrs(
            size, size, blocks, free, available, files, files_free, files_free, 0, 0, name_most
        )


def _handle(file_obj: object) -> Handle:
    assert isinstance(file_obj, Handle)  # noqa: S101  # what `open` gives
    return file_obj


def _text(path: bytes) -> str:
    try:
        text = path.decode()
    except UnicodeDecodeError:
        raise asyncssh.SFTPFailure("A path is UTF-8 here.") from None
    if "\0" in text:
        raise asyncssh.SFTPFailure("A path holds no NUL byte.")
    return text


def _attributes(entry: FileEntry) -> asyncssh.SFTPAttrs:
    bits, kind = _TYPES[entry.kind]
    seconds = entry.mtime_ns // 1_000_000_000
    return asyncssh.SFTPAttrs(
        type=kind,
        size=entry.size,
        uid=entry.uid,
        gid=entry.gid,
        permissions=bits | entry.mode,
        atime=seconds,
        mtime=seconds,
    )
