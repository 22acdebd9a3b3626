"""Root disks: an ext4 file system made from a folder, without mounting anything, the same bytes for the same
folder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from pandastack.host.publish import full_disk_said
from pandastack.host.tool import run_tool

FEATURES = (
    "has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,"
    "large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
)
"""Named one by one: the defaults of mke2fs differ between releases."""

JOURNAL_MB = 16
BYTES_PER_INODE = 16384
MAKE_SECONDS = 600
TIMES = ("atime", "ctime", "crtime")
FIRST_FILE = 2
"""The root directory's inode; what is below belongs to the file system itself."""

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


async def make_disk(
    tree: Path, disk: Path, *, size_mb: int, seed: str, time: int, inside: Sequence[str] = ()
) -> None:
    """Make `disk`, a sparse raw file of `size_mb` with all of `tree` in it.

    `seed` gives the file system its identity, `time` (seconds since 1970) the moment it was made; files keep
    their modification times. `inside` runs the program that reads the tree. Raises NoSpace and
    BuildFailed.
    """
    with full_disk_said(), disk.open("wb") as file:
        file.truncate(size_mb << 20)
    settings = {
        "E2FSPROGS_FAKE_TIME": str(time),
        "SOURCE_DATE_EPOCH": str(time),
        "MKE2FS_CONFIG": "/dev/null",
    }
    await run_tool(_mke2fs(tree, disk, seed), inside=inside, timeout=MAKE_SECONDS, settings=settings)
    await _set_times(disk, time, settings)


def _mke2fs(tree: Path, disk: Path, seed: str) -> list[str]:
    extended = (
        f"hash_seed={_uuid(seed + '/hash')},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    )
    return [
        *("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0", "-L", "root"),
        *("-O", f"none,{FEATURES}"),
        *("-U", str(_uuid(seed))),
        *("-E", extended),
        *("-J", f"size={JOURNAL_MB}"),
        *("-i", str(BYTES_PER_INODE)),
        *("-d", str(tree), str(disk)),
    ]


def _uuid(seed: str) -> UUID:
    return UUID(bytes=hashlib.sha256(seed.encode()).digest()[:16], version=4)


async def _set_times(disk: Path, time: int, settings: dict[str, str]) -> None:
    """Give every file one time of change, access and creation.

    mke2fs copies the first two from the folder, where they are the moment of unpacking, which nobody can set.
    """
    groups = await run_tool(["dumpe2fs", disk], timeout=MAKE_SECONDS, settings=settings)
    commands = disk.with_name(f"{disk.name}.times")
    lines = [f"sif <{inode}> {field} @{time}" for inode in used_inodes(groups) for field in TIMES]
    try:
        with full_disk_said():
            commands.write_text("\n".join(lines))
        await run_tool(["debugfs", "-w", "-f", commands, disk], timeout=MAKE_SECONDS, settings=settings)
    finally:
        commands.unlink(missing_ok=True)


def used_inodes(groups: str) -> list[int]:
    """The inodes in use, from what dumpe2fs prints: the count of all, and the free ranges of each group."""
    count = int(re.search(r"^Inode count:\s+(\d+)$", groups, re.MULTILINE)[1])  # type: ignore[index]  # always printed
    free: set[int] = set()
    for line in re.findall(r"^\s+Free inodes: (.*)$", groups, re.MULTILINE):
        for first, last in _RANGE.findall(line):
            free.update(range(int(first), int(last or first) + 1))
    return [inode for inode in range(FIRST_FILE, count + 1) if inode not in free]
