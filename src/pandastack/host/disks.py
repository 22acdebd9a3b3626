"""Which disk a folder is on, as the kernel's limits of its traffic name it."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

_SYSFS = Path("/sys/dev/block")


class Disk(Struct, frozen=True):
    """A whole disk (`major:minor`), and how many bytes a second one machine may read of it, and write."""

    device: str
    bytes_per_second: int


def disk_of(folder: Path, *, mounts: str | None = None, sysfs: Path = _SYSFS) -> str | None:
    """The disk's `major:minor`; None for a folder that is in memory, or on no disk that could be told. One
    that is not there yet will be where its parents are.

    A partition's disk stands for it, since the kernel limits whole disks alone. `mounts` is what
    /proc/self/mountinfo tells: a file system of several disks (btrfs) has a number of its own, and the name
    of the first.
    """
    folder = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    device = folder.stat().st_dev
    if not os.major(device):
        source = _source(folder, mounts if mounts is not None else Path("/proc/self/mountinfo").read_text())
        try:
            device = Path(source).stat().st_rdev if source.startswith("/dev/") else 0
        except OSError:
            return None
    place = sysfs / f"{os.major(device)}:{os.minor(device)}"
    if not place.exists():
        return None
    whole = place.resolve().parent if (place / "partition").exists() else place
    return (whole / "dev").read_text().strip()


def _source(folder: Path, mounts: str) -> str:
    """What is mounted where the folder is."""
    found, source = Path("/"), ""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        where = Path(fields.split()[4])
        if folder.resolve().is_relative_to(where) and where.is_relative_to(found):
            found, source = where, rest.split()[1]
    return source
