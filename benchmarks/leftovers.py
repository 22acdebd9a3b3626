"""What a server holds of its machine, to tell what it holds afterwards that it did not hold before."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from pandastack.host import procfs
from pandastack.host.network.claims import Claims
from pandastack.host.network.namespace import FOLDER, TUN
from pandastack.host.network.rules import PREFIX
from pandastack.testing.fixtures import processes_below, processes_with
from pandastack.testing.server import Server

PATIENCE_SECONDS = 12.0
"""What nobody waits for goes within two rounds of a host that looks after its machines."""


class Holdings(Struct, frozen=True):
    """Everything by kind and name, with how many there are of it; without networks, of which a server keeps
    as many ready as it likes: those must be gone when it has ended.
    """

    processes: Mapping[str, int]
    descriptors: Mapping[str, int]
    files: Mapping[str, int]
    interfaces: Mapping[str, int]
    mounts: Mapping[str, int]


def holdings(server: Server) -> Holdings:
    """What there is now, of the server's own and of the machine's network devices and mounts."""
    return Holdings(
        processes=Counter(_processes(server)),
        descriptors=Counter(name for name in _descriptors(server.pid) if name != TUN),
        files=Counter(str(path.relative_to(server.state)) for path in server.state.rglob("*")),
        interfaces=Counter(name for name in _interfaces() if not name.startswith(PREFIX)),
        mounts=Counter(name for name in _mounts() if not name.startswith(str(FOLDER))),
    )


def surplus(before: Holdings, after: Holdings) -> list[str]:
    """What there is more of than before, one line each."""
    return [
        f"{kind}: {after_kind[name] - before_kind.get(name, 0)} × {name}"
        for kind in Holdings.__struct_fields__
        for before_kind, after_kind in [(getattr(before, kind), getattr(after, kind))]
        for name in sorted(after_kind)
        if after_kind[name] > before_kind.get(name, 0)
    ]


def lasting(before: Holdings, server: Server) -> list[str]:
    """As `surplus`, of what does not go by itself in a while."""
    until = time.monotonic() + PATIENCE_SECONDS
    while (found := surplus(before, holdings(server))) and time.monotonic() < until:
        time.sleep(0.5)
    return found


def networks_of(state: Path) -> list[str]:
    """The networks of a server's machines, and those that it keeps ready for more."""
    return [f"network {number}" for number in sorted(Claims(state).left())]


def processes_of(state: Path) -> list[str]:
    """Every process of this machine that has the state directory in its arguments, or writes there."""
    return [f"{pid} {_arguments(pid)}" for pid in sorted(numbers_of(state))]


def numbers_of(state: Path) -> set[int]:
    """The same, by number."""
    return processes_with(str(state)) | processes_below(state)


def _processes(server: Server) -> list[str]:
    """What all run that are below the server, or belong to it elsewhere. Not which they are: a machine that
    is forked ahead takes the place of the one before.
    """
    found = (procfs.children(server.pid) | numbers_of(server.state)) - {server.pid}
    return sorted(_arguments(pid) for pid in found)


def _interfaces() -> list[str]:
    return [path.name for path in Path("/sys/class/net").iterdir()]


def _mounts() -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def _descriptors(pid: int) -> list[str]:
    """What each descriptor is, without the number that the kernel gave it."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(re.sub(r":\[\d+\]$", "", str(link.readlink())))
        except FileNotFoundError:
            continue  # it was closed in between
    return found


def _arguments(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
