"""Control groups for jailed machines: which generation this host has, what the jailer is told, and their end.

The jailer makes the groups, and nobody removes them: a machine's are removed when its process has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from pandastack.host.driver import MachineConfig

PARENT = "pandastack"
"""The group that all machines' are in."""
CONTROLLERS = ("cpu", "memory", "pids")
MEMORY_OVERHEAD = 128 << 20
"""Bytes that a monitor may take beside its guest's memory, page cache included."""
THREADS_BESIDE_CPUS = 30
_PERIOD_US = 100_000
_TRIES = 50
_TRY_SECONDS = 0.01
"""The kernel lets go of a group some milliseconds after the last process in it has ended."""


class Cgroups(Struct, frozen=True):
    """The groups that can be had here. `roots` are where the controllers are mounted, by controller."""

    version: int
    roots: dict[str, Path]

    def arguments(self, config: MachineConfig) -> list[str]:
        """What the jailer is told."""
        limits = [f"pids.max={config.cpus + THREADS_BESIDE_CPUS}"]
        memory = (config.memory_mb << 20) + MEMORY_OVERHEAD
        quota = config.cpus * _PERIOD_US + _PERIOD_US // 4  # a quarter for the threads beside the guest's
        if self.version == 2:
            limits += [f"memory.max={memory}", f"cpu.max={quota} {_PERIOD_US}"]
        else:
            limits += [
                f"memory.limit_in_bytes={memory}",
                f"cpu.cfs_period_us={_PERIOD_US}",
                f"cpu.cfs_quota_us={quota}",
            ]
        limits = [limit for limit in limits if limit.partition(".")[0] in self.roots]
        words = [word for limit in limits for word in ("--cgroup", limit)]
        return ["--cgroup-version", str(self.version), "--parent-cgroup", PARENT, *words]

    def groups(self, name: str) -> list[Path]:
        """The directories of a machine's groups."""
        return [root / PARENT / name for root in dict.fromkeys(self.roots.values())]

    async def remove(self, name: str) -> None:
        """Remove a machine's groups, whose processes have ended; those of one that lives stay."""
        for group in self.groups(name):
            for _ in range(_TRIES):
                if _removed(group):
                    break
                await asyncio.sleep(_TRY_SECONDS)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def find_cgroups(mountinfo: str) -> Cgroups | None:
    """The generation that has the controllers: with both mounted (hybrid) that is mostly the first."""
    mounts = list(_mounts(mountinfo))
    for kind, where, _ in mounts:
        if kind == "cgroup2" and set(CONTROLLERS) <= set(_controllers(where)):
            return Cgroups(2, dict.fromkeys(CONTROLLERS, where))
    roots = {
        name: where
        for kind, where, options in mounts
        if kind == "cgroup"
        for name in options
        if name in CONTROLLERS
    }
    return Cgroups(1, roots) if roots else None


def _mounts(mountinfo: str) -> Sequence[tuple[str, Path, list[str]]]:
    """Kind, place and own options of every mount."""
    found = []
    for line in mountinfo.splitlines():
        fields, _, source = line.partition(" - ")
        words = source.split()
        found.append((words[0], Path(fields.split()[4]), words[-1].split(",")))
    return found


def _controllers(where: Path) -> list[str]:
    with suppress(OSError):
        return (where / "cgroup.controllers").read_text().split()
    return []
