"""Files that appear whole or not at all, and locks against making the same thing twice at once."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from pandastack.errors import NoSpace

LOCK_POLL_SECONDS = 0.2
WORKSPACE = "build."


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the lock file at `path`; waits for another process that holds it.

    The kernel lets go of it when its holder dies, so a crash never leaves it held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        while not _try_lock(file.fileno()):  # noqa: ASYNC110  # another process holds it
            await asyncio.sleep(LOCK_POLL_SECONDS)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock on an existing file or folder if nobody else does, and tell whether."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield _try_lock(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def full_disk_said() -> Iterator[None]:
    """Turn the system's ENOSPC into NoSpace with a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpace("The disk is full. Free some space and try again; nothing was changed.") from error


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends well and vanishes when it does not.

    Its files are on the disk before the rename, so that a crash shows all of them or none. When somebody else
    has published the same target meanwhile, theirs stays: both were made from the same inputs.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with full_disk_said():
            draft.chmod(0o755)
            yield draft
            flush_tree(draft)
            _rename_or_keep(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rename_or_keep(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    flush(target.parent)


def flush_tree(folder: Path) -> None:
    """Wait until all files of a folder are on the disk.

    `new_directory` does so itself; whoever has written much does it first, from a thread.
    """
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            flush(path)
    flush(folder)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def taken_away(folder: Path) -> Path:
    """Rename what is to be removed, so that a crash leaves a draft, which is swept, and no half of it."""
    going = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(going, ignore_errors=True)
    return folder.rename(going)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft_beside(path)
    try:
        with full_disk_said():
            draft.write_bytes(data)
            flush(draft)
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def point(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to `target`, in one step for all who read it."""
    link.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft_beside(link)
    try:
        draft.symlink_to(os.path.relpath(target, link.parent))
        draft.replace(link)
    finally:
        draft.unlink(missing_ok=True)


def _draft_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")


@contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """A temporary folder below `parent`, gone when the block ends."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=WORKSPACE, dir=parent) as name:
        yield Path(name)


def sweep(folder: Path) -> None:
    """Remove the `leftovers` of `folder`."""
    for path in leftovers(folder):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def leftovers(folder: Path) -> list[Path]:
    """Drafts and workspaces in `folder` that a killed program left there.

    Only the holder of the lock under which they are made may ask: others would see those that are in use.
    """
    return [*folder.glob(f"{WORKSPACE}*"), *folder.glob(".*")]
