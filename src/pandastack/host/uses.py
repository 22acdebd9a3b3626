"""Which entries of the cache are in use: by this program, and by whom else on this machine.

An entry is one thing that is made and removed as a whole: an image, a snapshot, a kernel … Whoever goes on
using one holds a shared lock on it, which the kernel lets go of when its holder dies; a machine, which
outlives its server, has files of its entries open or mapped. When an entry was used last is its modification
time.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pandastack.host import procfs
from pandastack.host.paths import Cache

DEPTH = {"images": 3, "snapshots": 3} | dict.fromkeys(
    ("kernel", "qemu", "agent", "initramfs", "zygote", "packages"), 2
)
"""How many parts the path of an entry has below the cache, by the folder that it is in."""


def entry_of(cache: Cache, path: Path) -> Path | None:
    """The entry that a path of the cache is or is part of; None for any other path."""
    root = cache.root.resolve()
    with suppress(ValueError):
        parts = path.resolve().relative_to(root).parts
        depth = DEPTH.get(parts[0], 0) if parts else 0
        if 0 < depth <= len(parts):
            return root.joinpath(*parts[:depth])
    return None


class Uses:
    """The entries that this program uses, until `close`."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._held: dict[Path, int] = {}

    def take(self, *paths: Path) -> None:
        """Hold the entries of these paths from now on.

        A path outside of the cache needs no holding; an entry that is just being removed, or is gone, is not
        held: whoever needs it finds it missing and makes it again.
        """
        for path in paths:
            entry = entry_of(self._cache, path)
            if entry is not None:
                self._take(entry)

    def _take(self, entry: Path) -> None:
        self._let_go(entry)
        try:
            descriptor = os.open(entry, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return
        mark_used(descriptor)
        self._held[entry] = descriptor

    def _let_go(self, entry: Path) -> None:
        descriptor = self._held.pop(entry, None)
        if descriptor is not None:
            mark_used(descriptor)
            os.close(descriptor)

    def let_go(self, *paths: Path) -> None:
        """Hold the entries of these paths no more; fine when they are not held."""
        for path in paths:
            entry = entry_of(self._cache, path)
            if entry is not None:
                self._let_go(entry)

    def close(self) -> None:
        """Let go of all."""
        for entry in list(self._held):
            self._let_go(entry)


def mark_used(entry: Path | int) -> None:
    """Note that an entry is used now; a cache that may only be read keeps no such notes."""
    with suppress(OSError):
        os.utime(entry)


def users(cache: Cache) -> Mapping[Path, list[str]]:
    """The entries that processes of this machine use now, and who that is, as far as we may look."""
    found: dict[Path, list[str]] = {}
    root = str(cache.root.resolve()) + "/"
    for pid in procfs.processes():
        files = {path for path in procfs.files(pid) if path.startswith(root)}
        for entry in {entry_of(cache, Path(path)) for path in files} - {None}:
            assert entry is not None  # noqa: S101  # it was taken out above
            found.setdefault(entry, []).append(f"{procfs.name(pid)} ({pid})")
    return found


def is_used_by_others(entry: Path, home: Path) -> bool:
    """Whether a process of this machine uses an entry that is not this one, nor has files below `home` open.
    As far as we may look.
    """
    theirs, ours = str(entry.resolve()), str(home.resolve()) + "/"
    for pid in set(procfs.processes()).difference([os.getpid()]):
        files = procfs.files(pid)
        uses = any(path == theirs or path.startswith(theirs + "/") for path in files)
        if uses and not any(path.startswith(ours) for path in files):
            return True
    return False
