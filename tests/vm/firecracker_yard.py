"""Machines of the Firecracker driver for tests, and everything that one of them could leave behind."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from pandastack.host import procfs
from pandastack.host.driver import MachineConfig
from pandastack.host.firecracker import FirecrackerDriver
from pandastack.host.firecracker_install import FirecrackerInstall
from pandastack.host.firecracker_orders import Shape
from pandastack.host.means import Means, find_means
from pandastack.host.paths import Cache
from pandastack.testing.real import USERS
from tests.vm.tiny_guest import tiny_config

RANGE = "200000-265535"


class Corner(Struct, frozen=True):
    """A driver, a machine for it and a place for homes."""

    driver: FirecrackerDriver
    means: Means
    config: MachineConfig
    place: Path
    before: frozenset[int] = frozenset()
    """What ran already: servers that other tests share."""

    def home(self, name: str) -> Path:
        path = self.place / name
        path.mkdir()
        return path


def corner(
    install: FirecrackerInstall,
    place: Path,
    shape: Shape = Shape(log_level="Info"),  # noqa: B008  # a frozen value
    users: str = RANGE,
) -> Corner:
    """A driver of the test's own: a machine's name is that of the test's directory."""
    means = means_of(users)
    driver = firecracker_driver(install, place / "cache", means, shape)
    before = frozenset(procfs.children(os.getpid()))
    return Corner(driver, means, tiny_config(place, name_of(place)), place, before)


def means_of(users: str) -> Means:
    """Users of this range, and control groups."""
    return find_means(USERS, users, f"pandastack-test-{os.getpid()}", None)


def firecracker_driver(
    install: FirecrackerInstall,
    cache: Path,
    means: Means | None = None,
    shape: Shape = Shape(),  # noqa: B008  # a frozen value
) -> FirecrackerDriver:
    """A driver as the host composes it."""
    return FirecrackerDriver(
        install,
        Cache(cache),
        host_cpu="any",
        means=means or means_of(RANGE),
        shape=shape,
    )


def name_of(place: Path) -> str:
    """A word for a machine that no other test uses."""
    return f"fire-{os.getpid()}-{abs(hash(place)) % 10**6}"


def left(corner: Corner) -> list[str]:
    """What machines of a test have left: processes, users, control groups, mounts, networks, files."""
    name = corner.config.vm_id
    processes = [pid for pid in procfs.processes() if name.encode() in _read(f"/proc/{pid}/cmdline")] + list(
        procfs.children(os.getpid()) - corner.before
    )
    users = [path.parent.name for path in USERS.glob("*/*") if str(corner.place).encode() in _read(str(path))]
    mounts = [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(corner.place) in line
    ]
    networks = [str(path) for path in Path("/run/netns").glob(f"*{name}*")]
    homes = [path for path in corner.place.iterdir() if path.name not in ("image", "cache", "snapshot")]
    groups = [
        str(group)
        for parent in corner.means.groups.parents.values()
        for home in homes
        if (group := parent / str(home.stat().st_ino)).exists()
    ]
    files = [str(path) for home in homes if home.is_dir() for path in home.iterdir()]
    return [
        *(f"process {pid}" for pid in set(processes)),
        *(f"user {user}" for user in users),
        *(f"group {group}" for group in groups),
        *(f"mount {mount}" for mount in mounts if str(corner.place) in mount),
        *(f"network {network}" for network in networks),
        *(f"file {file}" for file in files),
    ]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
