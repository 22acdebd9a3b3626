"""Folders as mounts that are attached nowhere: who works in one has no way out of it.

Python has none of these system calls; their numbers are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pandastack.errors import MachineError

_LIBC = ctypes.CDLL(None, use_errno=True)
_OPEN_TREE, _OPENAT2, _MOUNT_SETATTR = 428, 437, 442
_TREE_CLONE, _EMPTY_PATH = 1, 0x1000
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_NO_SYMLINKS, _BENEATH = 0x04, 0x08


def open_beneath(folder: int, name: str, flags: int) -> int:
    """A descriptor of what `folder` holds by this name. OSError when that is a link, or lies elsewhere."""
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, _NO_SYMLINKS | _BENEATH)
    return _called(_OPENAT2, folder, os.fsencode(name), how, ctypes.sizeof(how))


@contextmanager
def opened(home: Path) -> Iterator[int]:
    """A home, which is no link, as a descriptor. MachineError when somebody has put something else there."""
    parent = os.open(home.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        folder = open_beneath(parent, home.name, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise MachineError(f"The home {home} is not a folder of ours: {error.strerror}.") from error
    finally:
        os.close(parent)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def detached(folder: int) -> Iterator[int]:
    """The folder as a mount of its own: from below it there is no way up, nothing in it is a device or can be
    executed. OSError without the right to mount.
    """
    tree = _called(_OPEN_TREE, folder, b"", _TREE_CLONE | _EMPTY_PATH | os.O_CLOEXEC)
    try:
        attributes = (ctypes.c_uint64 * 4)(_NOSUID | _NODEV | _NOEXEC, 0, 0, 0)
        _called(_MOUNT_SETATTR, tree, b"", _EMPTY_PATH, attributes, ctypes.sizeof(attributes))
        yield tree
    finally:
        os.close(tree)


def give(folder: int, names: Iterable[str], user: int) -> None:
    """Let `user` enter the folder, and have files of it, which are made where there are none.

    MachineError for a name that is a link, or a file that has another name somewhere: nothing of it is
    changed.
    """
    for name in names:
        try:
            file = open_beneath(folder, name, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        except OSError as error:
            raise MachineError(f"{name} in a machine's home is no file: {error.strerror}.") from error
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise MachineError(f"{name} in a machine's home is not its own file.")
            os.fchown(file, user, user)
            os.fchmod(file, 0o600)
        finally:
            os.close(file)
    os.fchown(folder, 0, user)
    os.fchmod(folder, 0o710)


def take_back(home: Path, names: Iterable[str]) -> None:
    """Files of a home that its machine may only read from now on."""
    with opened(home) as folder:
        for name in names:
            file = open_beneath(folder, name, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fchown(file, 0, 0)
                os.fchmod(file, 0o644)
            finally:
                os.close(file)


def _called(number: int, *arguments: object) -> int:
    """What the system call returns. OSError."""
    result = int(_LIBC.syscall(number, *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
