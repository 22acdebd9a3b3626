"""Which Firecracker runs the machines, and whether it may: versions with known holes are refused.

It is never fetched: whoever runs a host installs both programs, of the same version. PCI is never switched on
(`--enable-pci` is not passed), so that a hole in it does not count.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from pandastack.config import DriverName
from pandastack.errors import BuildFailed, MachineError, NoSpace
from pandastack.host.tool import run_tool

PROGRAMS = ("firecracker", "jailer")
VERSION_SECONDS = 5.0

Version = tuple[int, int, int]

OLDEST: Version = (1, 12, 0)
"""Before it a restored machine could not be given another network device."""


class Hole(Struct, frozen=True):
    """A published hole: in which versions, in which program, and whether our way of running it is open to
    it.
    """

    name: str
    what: str
    ranges: tuple[tuple[Version, Version], ...]
    only_with_pci: bool = False

    def has(self, version: Version) -> bool:
        """Whether a version has it. The ends of a range belong to it."""
        return any(first <= version <= last for first, last in self.ranges)


HOLES = (
    Hole(
        "CVE-2026-1386",
        "its jailer follows a link that was planted in the jail and overwrites the host's files",
        (((0, 0, 0), (1, 13, 1)), ((1, 14, 0), (1, 14, 0))),
    ),
    Hole(
        "CVE-2026-5747",
        "a guest writes outside of a PCI device's memory",
        (((1, 13, 0), (1, 14, 3)), ((1, 15, 0), (1, 15, 0))),
        only_with_pci=True,
    ),
)


class FirecrackerInstall(Struct, frozen=True):
    """Both programs, of one version."""

    firecracker: Path
    jailer: Path
    version: str


class Refusal(Struct, frozen=True):
    """Why there is no Firecracker to use, and what mends it."""

    reason: str
    mend: str = "install firecracker and jailer of the newest release, both of one version"


async def find_firecracker(
    find: Callable[[str], str | None], *, folder: Path | None = None, allow_version: str | None = None
) -> FirecrackerInstall | Refusal:
    """The two programs in `folder`, else where `find` finds them. `allow_version` names one version
    that may be used in spite of its holes.
    """
    found = [_look(name, find, folder) for name in PROGRAMS]
    missing = [name for name, path in zip(PROGRAMS, found, strict=True) if path is None]
    if missing:
        return Refusal(f"not installed: {' and '.join(missing)}")
    firecracker, jailer = (path for path in found if path)
    try:
        versions = [await version_of(path) for path in (firecracker, jailer)]
    except (MachineError, NoSpace) as error:
        return Refusal(error.message)
    if versions[0] != versions[1]:
        return Refusal(f"firecracker is {_text(versions[0])}, jailer is {_text(versions[1])}")
    if reason := why_not(versions[0], allow_version=allow_version):
        return Refusal(reason)
    return FirecrackerInstall(firecracker, jailer, _text(versions[0]))


def why_not(version: Version, *, allow_version: str | None = None) -> str | None:
    """Why this version is not used, in a sentence; None when it may be."""
    if version < OLDEST:
        return f"Firecracker {_text(version)} is too old: {_text(OLDEST)} or newer is needed."
    if _text(version) == allow_version:
        return None
    holes = [hole for hole in HOLES if hole.has(version) and not hole.only_with_pci]
    words = " and ".join(f"{hole.name} ({hole.what})" for hole in holes)
    return f"Firecracker {_text(version)} has {words}." if holes else None


def why_not_used(driver: DriverName, *, kvm: bool, root: bool) -> str | None:
    """Why a host that is told to use this driver does not run machines on the Firecracker that it has; None
    when it does.
    """
    if driver not in (DriverName.AUTO, DriverName.FIRECRACKER):
        return f"the driver is set to {driver.value}"
    if not kvm:
        return "it needs hardware virtualization, which does not work here"
    if not root:
        return "its jailer needs root"
    return None


async def version_of(program: Path) -> Version:
    """What a program says its version is. MachineError when it does not run or does not say it."""
    try:
        said = await run_tool([program, "--version"], timeout=VERSION_SECONDS)
    except BuildFailed as error:
        raise MachineError(f"{program} does not run: {error.message}") from error
    match = re.search(r"v?(\d+)\.(\d+)\.(\d+)", said)
    if match is None:
        raise MachineError(f"{program} does not say its version.")
    return int(match[1]), int(match[2]), int(match[3])


def _look(name: str, find: Callable[[str], str | None], folder: Path | None) -> Path | None:
    if folder is not None:
        path = folder / name
        return path if path.is_file() else None
    found = find(name)
    return Path(found).resolve() if found else None


def _text(version: Version) -> str:
    return ".".join(map(str, version))
