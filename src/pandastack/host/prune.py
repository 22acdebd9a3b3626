"""What the cache holds, and the removal of what is superseded and has not been used for a while.

Of each template the image and the snapshot that were used last stay, and of everything else the one used
last; of package lists and downloads nothing has to. An entry that is in use, or was within the last hour, is
never removed: who looks one up has it for a moment before they hold it.

An entry is taken away by one rename, under its own lock and the one under which it is made; what a killed
program had no time to delete is deleted by the next.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from pandastack.host.paths import Cache
from pandastack.host.publish import WORKSPACE, locked_if_free
from pandastack.host.qemu_install import find_qemu
from pandastack.host.uses import entry_of, users

KEEP_DAYS = 7
"""How long a superseded entry that nobody uses stays, unless somebody says otherwise."""

FRESH_SECONDS = 3600.0
DAY_SECONDS = 86400.0


class Kind(StrEnum):
    """The kinds of entries."""

    IMAGE = "image"
    SNAPSHOT = "snapshot"
    KERNEL = "kernel"
    QEMU = "qemu"
    AGENT = "agent"
    INITRAMFS = "initramfs"
    ZYGOTE = "zygote"
    PACKAGES = "packages"


class Entry(Struct, frozen=True, kw_only=True):
    """One thing of the cache, which goes as a whole."""

    kind: Kind
    name: str
    """Of the template or archive, or the version; empty for what has a digest alone."""
    digest: str
    path: str
    size_bytes: int
    """What it takes on the disk."""
    last_used: datetime
    in_use_by: list[str]
    superseded: bool
    """Whether another one has taken its place."""


def entries(cache: Cache) -> list[Entry]:
    """Everything in the cache, kind by kind, the one used last in front."""
    return list(_described(cache, _found(cache)))


def prune(
    cache: Cache, *, now: float, keep_days: float, template: str | None = None, dry_run: bool = False
) -> list[Entry]:
    """Remove what is superseded, not in use, and was not used for `keep_days`; returns what that is.

    `template` confines it to the images and snapshots of one. With `dry_run` nothing is removed. `now` is the
    wall clock in seconds. What another program is making or taking at this moment stays.
    """
    if not dry_run:
        _empty(cache.trash)
    limit = now - max(keep_days * DAY_SECONDS, FRESH_SECONDS)
    old = [
        found
        for found in _found(cache)
        if found.superseded and found.used < limit and template in (None, found.template)
    ]
    if not old:
        return []
    idle = [entry for entry in _described(cache, old) if not entry.in_use_by]
    return idle if dry_run else [entry for entry in idle if _remove(cache, entry, limit)]


class _Found(Struct, frozen=True, kw_only=True):
    kind: Kind
    name: str
    digest: str
    path: Path
    used: float
    superseded: bool = False

    @property
    def template(self) -> str | None:
        return self.name if self.kind in (Kind.IMAGE, Kind.SNAPSHOT) else None


def _found(cache: Cache) -> Iterator[_Found]:
    """All entries, without what takes long to find out."""
    for kind, folder in (
        *((Kind.IMAGE, folder) for folder in _content(cache.root / "images")),
        *((Kind.SNAPSHOT, folder) for folder in _content(cache.snapshots)),
    ):
        yield from _group(kind, _content(folder), name=folder.name)
    pointed = {cache.current_kernel.resolve(), _current_qemu(cache)}
    for kind in (Kind.KERNEL, Kind.QEMU, Kind.AGENT, Kind.INITRAMFS, Kind.ZYGOTE, Kind.PACKAGES):
        yield from _group(kind, _content(cache.root / kind), pointed=pointed)


def _current_qemu(cache: Cache) -> Path | None:
    known = find_qemu(cache)
    return entry_of(cache, known.binary) if known else None


def _content(folder: Path) -> list[Path]:
    """What is there whole: no drafts, no workspaces, no records."""
    if not folder.is_dir():
        return []
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith((".", WORKSPACE))
        and not path.is_symlink()
        and (path.is_dir() or path.suffix == ".cpio")
        and path.name != "recipes"
    ]


def _group(
    kind: Kind, paths: Iterable[Path], *, name: str = "", pointed: Iterable[Path | None] = ()
) -> Iterator[_Found]:
    """The entries of which one stays, newest use first."""
    by_use = sorted(((path.stat().st_mtime, path) for path in paths), reverse=True)
    named = kind in (Kind.KERNEL, Kind.QEMU, Kind.PACKAGES)
    for place, (used, path) in enumerate(by_use):
        stays = kind is not Kind.PACKAGES and (place == 0 or path.resolve() in pointed)
        own = path.name if named else name
        yield _Found(
            kind=kind,
            name=own,
            digest="" if named else path.stem,
            path=path,
            used=used,
            superseded=not stays,
        )


def _described(cache: Cache, found: Iterable[_Found]) -> Iterator[Entry]:
    using = users(cache)
    for each in found:
        yield Entry(
            kind=each.kind,
            name=each.name,
            digest=each.digest,
            path=str(each.path),
            size_bytes=size_on_disk(each.path),
            last_used=datetime.fromtimestamp(each.used, UTC),
            in_use_by=using.get(each.path.resolve(), []),
            superseded=each.superseded,
        )


def size_on_disk(path: Path) -> int:
    """Bytes that a file, or a folder with all that is in it, takes on the disk."""
    return sum(each.lstat().st_blocks * 512 for each in (path, *path.rglob("*")))


def _remove(cache: Cache, entry: Entry, limit: float) -> bool:
    """Take one entry away and delete it; False when somebody uses or makes it, or was faster."""
    path = Path(entry.path)
    cache.trash.mkdir(exist_ok=True)
    grave = Path(tempfile.mkdtemp(dir=cache.trash))
    try:
        with ExitStack() as stack:
            locks = [_making(cache, entry), path]
            if not all(stack.enter_context(locked_if_free(lock)) for lock in locks):
                return False
            if path.stat().st_mtime >= limit:
                return False  # used since we looked
            path.rename(grave / path.name)
            if entry.kind is Kind.IMAGE:
                _forget_recipes(cache.images(entry.name) / "recipes")
    except FileNotFoundError:
        return False
    finally:
        shutil.rmtree(grave, ignore_errors=True)
    return True


def _making(cache: Cache, entry: Entry) -> Path:
    """The lock under which such an entry is made."""
    names = {Kind.IMAGE: f"image-{entry.name}", Kind.SNAPSHOT: f"bake-{entry.name}"}
    lock = cache.lock(names.get(entry.kind, entry.kind.value))
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    return lock


def _forget_recipes(links: Path) -> None:
    """Remove the links to images that are gone."""
    for link in links.glob("*"):
        if not link.exists():
            link.unlink()


def _empty(trash: Path) -> None:
    for grave in trash.glob("*"):
        shutil.rmtree(grave, ignore_errors=True)
