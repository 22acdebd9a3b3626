"""Control groups: what a machine may take of the host, however hard its guest tries for more.

Both generations: version 2, where the server's own group is delegated to it, and version 1, also where both
are mounted. A machine's group is named by its home's number, which a rename does not change.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePath

from msgspec import Struct

from pandastack.host import smallfiles
from pandastack.host.disks import Disk
from pandastack.host.driver import MachineConfig
from pandastack.host.translation import LEAST_MB, translated_mb

WANTED = ("cpu", "memory", "pids", "io")
IN_FIRST = {"io": "blkio"}
"""What version 1 calls it."""
FIRST = {
    "cpu": {"cpu.cfs_quota_us": "processor time"},
    "memory": {"memory.limit_in_bytes": "memory", "memory.memsw.limit_in_bytes": "swap"},
    "pids": {"pids.max": "threads"},
    "blkio": {
        "blkio.throttle.read_bps_device": "reading from the disk",
        "blkio.throttle.write_bps_device": "writing to the disk",
    },
}
"""Which file of each controller of version 1 limits what. A kernel may have the controller and not the file:
`memory` without accounting of swap, `cpu` without bandwidth, `blkio` without throttling.
"""
SECOND = {
    "cpu": {"cpu.max": "processor time"},
    "memory": {"memory.max": "memory", "memory.swap.max": "swap"},
    "pids": {"pids.max": "threads"},
    "io": {"io.max": "disk traffic"},
}
"""And of version 2."""
PERIOD_US = 100_000
OVERHEAD_BYTES = 320 << 20
"""Of a machine's process beside its guest's memory: translated code (the least that there is of it), tables,
the disk's cache.
"""
OVERHEAD_CPUS = 0.5
MAX_THREADS = 256
_SERVER = "server"
"""Where this program is itself, with version 2."""
_TRIES = 50
_TRY_SECONDS = 0.01


class Limits(Struct, frozen=True):
    """What one machine may take."""

    cpus: int
    memory_bytes: int

    @property
    def quota_us(self) -> int:
        """Of each period; its processors, and what the process does beside them."""
        return int((self.cpus + OVERHEAD_CPUS) * PERIOD_US)

    @property
    def most_bytes(self) -> int:
        more_code = translated_mb(self.memory_bytes >> 20) - LEAST_MB
        return self.memory_bytes + OVERHEAD_BYTES + (more_code << 20)

    def first(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """What is written for version 1, by controller, in this order."""
        return {
            "cpu": (("cpu.cfs_period_us", PERIOD_US), ("cpu.cfs_quota_us", self.quota_us)),
            "memory": (
                ("memory.limit_in_bytes", self.most_bytes),
                ("memory.memsw.limit_in_bytes", self.most_bytes),
            ),
            "pids": (("pids.max", MAX_THREADS),),
        }

    def second(self) -> dict[str, str]:
        """And for version 2."""
        return {
            "cpu.max": f"{self.quota_us} {PERIOD_US}",
            "memory.max": str(self.most_bytes),
            "memory.swap.max": "0",
            "pids.max": str(MAX_THREADS),
        }


def limits_of(config: MachineConfig) -> Limits:
    """Those of a machine of this size."""
    return Limits(config.cpus, config.memory_mb << 20)


class Groups(Struct, frozen=True):
    """Where this server makes groups: a folder for each controller, or one for all."""

    parents: Mapping[str, Path]
    """By controller; version 2 has one, called `""`."""
    missing: tuple[str, ...] = ()
    """Controllers that this machine does not give."""
    disk: Disk | None = None
    """Whose traffic is limited; None when it could not be told."""
    unlimited: tuple[str, ...] = ()
    """What the kernel has no limit of although it gives the controller, in words."""

    @property
    def lacks(self) -> tuple[str, ...]:
        """What is not limited, in words."""
        lacks = (*(f"no control group for {name}" for name in self.missing), *self.unlimited)
        if self.disk is None and "io" not in self.missing:
            return (*lacks, "no limit of disk traffic, since the state is on no disk of its own")
        return lacks

    def make(self, number: int, limits: Limits) -> tuple[Path, ...]:
        """The lists of the groups of the machine whose home has this number (`number_of`), and limits."""
        found = []
        for controller, parent in self.parents.items():
            group = parent / str(number)
            group.mkdir(exist_ok=True)
            settings = self._settings(controller, limits)
            for name, value in settings:
                with suppress(FileNotFoundError):  # it is `unlimited` then, and has been told
                    smallfiles.put(group / name, str(value).encode())
            found.append(group / "cgroup.procs")
        return tuple(found)

    def _settings(self, controller: str, limits: Limits) -> tuple[tuple[str, int | str], ...]:
        """What is written into a group: the name of each file, and what of it."""
        disk = self.disk
        if controller == IN_FIRST["io"]:
            names = ("blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device")
            return tuple((name, f"{disk.device} {disk.bytes_per_second}") for name in names) if disk else ()
        if controller:
            return limits.first()[controller]
        second = tuple(limits.second().items())
        if disk is None:
            return second
        most = f"{disk.device} rbps={disk.bytes_per_second} wbps={disk.bytes_per_second}"
        return (*second, ("io.max", most))

    def join(self, made: Iterable[Path], pid: int) -> None:
        """Have a process that runs be in the groups with these lists. It may take a millisecond a group."""
        for tasks in made:
            with suppress(ProcessLookupError):
                smallfiles.put(tasks, str(pid).encode())

    def leave(self, pid: int) -> None:
        """Have a process be in no machine's group. In version 2 the group above them can have no process."""
        for controller, parent in self.parents.items():
            group = parent if controller else parent.with_name(_SERVER)
            with suppress(OSError):
                (group / "cgroup.procs").write_text(str(pid))

    def remove(self, number: int) -> bool:
        """The groups of a home by its number. False when one stays, since somebody is still in it."""
        return all([_removed(parent / str(number)) for parent in self.parents.values()])

    async def end(self, number: int) -> None:
        """The same for a machine that has just ended: the kernel may take some milliseconds to know."""
        for _ in range(_TRIES):
            if self.remove(number):
                return
            await asyncio.sleep(_TRY_SECONDS)

    def close(self) -> None:
        """Remove the server's own groups, unless machines that run on are in them."""
        for parent in self.parents.values():
            with suppress(OSError):
                parent.rmdir()

    def sweep(self) -> None:
        """Remove those that nobody is in."""
        for parent in self.parents.values():
            for group in parent.iterdir():
                if group.name.isdigit():
                    self.remove(int(group.name))


def unlimited(
    limits: Mapping[str, Mapping[str, str]], groups: Mapping[str, Path], *, swaps: bool
) -> tuple[str, ...]:
    """Which of these limits (`FIRST` or `SECOND`) the kernel does not have, in words: told by a group of each
    controller that is not at the root. One that never `swaps` needs no limit of it.
    """
    return tuple(
        f"no limit of {what}: the kernel has no {file}"
        for controller, group in groups.items()
        for file, what in limits[controller].items()
        if (swaps or what != "swap") and not (group / file).exists()
    )


def can_swap() -> bool:
    """Whether this kernel could, if it were given room for it."""
    return Path("/proc/swaps").exists()


def find_groups(
    name: str,
    disk: Disk | None,
    *,
    mounts: str | None = None,
    own: str | None = None,
    swaps: bool | None = None,
) -> Groups:
    """Where a server called `name`, whose state is on this disk, can make groups below its own one. `mounts`
    and `own` are what /proc/self/mountinfo and /proc/self/cgroup tell, `swaps` whether the kernel can swap.

    What cannot be had is `missing`, what the kernel cannot limit there is `unlimited`. Where both versions
    are mounted the second is taken only when it has all.
    """
    groups = _own_groups(
        mounts if mounts is not None else Path("/proc/self/mountinfo").read_text(),
        own if own is not None else Path("/proc/self/cgroup").read_text(),
    )
    swaps = can_swap() if swaps is None else swaps
    names = {IN_FIRST.get(each, each): each for each in WANTED}
    first = {name: groups[name] for name in names if name in groups}
    second = groups.get("")
    if second is not None and (not first or set(WANTED) <= set(_offered(second))):
        return _second(name, second, disk, swaps=swaps)
    made = {each: parent for each, group in first.items() if (parent := _made(group / name))}
    missing = tuple(wanted for each, wanted in names.items() if each not in made)
    return Groups(made, missing, disk, unlimited(FIRST, made, swaps=swaps))


def _own_groups(mounts: str, own: str) -> dict[str, Path]:
    """This program's groups by controller; that of version 2 is called `""`. A container may see a mount that
    begins further below than its groups are counted from.
    """
    lines = [line.split(":", 2) for line in own.splitlines()]
    paths = {each: path for _, names, path in lines for each in names.split(",")}
    found: dict[str, Path] = {}
    for line in mounts.splitlines():
        fields, _, source = line.partition(" - ")
        root, where = fields.split()[3:5]
        kind, *_, options = source.split()
        for each in {"cgroup": options.split(","), "cgroup2": [""]}.get(kind, []):
            if each in paths and PurePath(paths[each]).is_relative_to(root):
                found.setdefault(each, Path(where) / PurePath(paths[each]).relative_to(root))
    return found


def _offered(group: Path) -> list[str]:
    """The controllers of a group of version 2."""
    try:
        return (group / "cgroup.controllers").read_text().split()
    except OSError:
        return []


def _second(name: str, own: Path, disk: Disk | None, *, swaps: bool) -> Groups:
    """Version 2: a group whose children are limited has no process, so this program moves one down."""
    offered = _offered(own)
    try:
        (own / _SERVER).mkdir(exist_ok=True)
        (own / _SERVER / "cgroup.procs").write_text(str(os.getpid()))
        parent = own / name
        parent.mkdir(exist_ok=True)
        wanted = " ".join(f"+{each}" for each in WANTED if each in offered)
        for group in (own, parent):
            (group / "cgroup.subtree_control").write_text(wanted)
    except OSError:
        return Groups({}, WANTED)
    missing = tuple(each for each in WANTED if each not in offered)
    groups = {each: parent for each in WANTED if each in offered}
    found = unlimited(SECOND, groups, swaps=swaps)
    return Groups({"": parent}, missing, disk, found)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _made(group: Path) -> Path | None:
    try:
        group.mkdir(exist_ok=True)
    except OSError:
        return None
    return group


def number_of(home: Path) -> int:
    """Its inode: it keeps that when it is renamed."""
    return home.stat().st_ino
