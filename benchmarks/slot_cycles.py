"""Networks that are taken and given back many times, and what there is more of afterwards."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from pandastack.host import procfs
from pandastack.host.network import claims, namespace
from pandastack.host.network.rules import PREFIX
from pandastack.host.network.slots import Slots
from pandastack.model.egress import Egress, Internet

POLICIES = (
    Egress(),
    Egress(allow_cidrs=("198.51.100.0/24",), ports=(443,), bandwidth_mbps=10.0),
    Egress(allow_domains=("example.com", "*.example.com")),
    Egress(internet=Internet.OFF),
)
AT_ONCE = 8
"""So many are held every tenth time, which is more than are kept ready: some are made, and removed again."""
READY = 4
SETTLE_SECONDS = 120.0
SETTLED_TURNS = 20
"""Looked at so often without a change nothing is under way any more."""


class Held(Struct, frozen=True):
    """What slots are made of, counted."""

    counts: Mapping[str, int]
    """By kind and name: namespaces, mounts, devices, tables, files of claims, descriptors, threads."""
    egress_kib: int
    """What the process that knows names has in memory."""
    maker_kib: int
    """What the process has that makes networks."""
    slab_kib: int
    """What the kernel cannot give back, of the whole machine."""

    def more_than(self, before: Held) -> list[str]:
        """What there is more of, one line each."""
        grown = ((name, count - before.counts.get(name, 0)) for name, count in sorted(self.counts.items()))
        return [f"{more} × {name}" for name, more in grown if more > 0]


def held(state: Path) -> Held:
    """Now, by the server with this state directory. A namespace that nobody claims counts as its own."""
    owners = {path.name: _read(str(path)).decode() for path in claims.FOLDER.glob("[0-9]*")}
    own = {f"{PREFIX}{number}" for number, owner in owners.items() if owner == str(state.resolve())}
    others = {f"{PREFIX}{number}" for number in owners} - own
    spaces = {path.name for path in namespace.FOLDER.glob(f"{PREFIX}[0-9]*")}
    egress, maker = _helpers(b"host.egress"), _helpers(b"host.network.maker")
    mounts = [Path(line.split()[4]) for line in _read("/proc/self/mountinfo").decode().splitlines()]
    bound = [place.name for place in mounts if place.parent == namespace.FOLDER and _is_slot(place.name)]
    counts = Counter(
        {
            "namespaces": len(spaces - others),
            "mounts of namespaces": sum(name not in others for name in bound),
            "devices": sum(name.startswith(PREFIX) for _, name in socket.if_nameindex()),
            "tables of rules": len(_said("nft", "list", "tables").splitlines()),
            "claims": len(own),
            "threads": len([*Path("/proc/self/task").iterdir()]),
            "processes that know names": len(egress),
            "processes that make networks": len(maker),
        }
    )
    counts.update(f"descriptor of this process: {what}" for what in _descriptors("self"))
    counts.update(f"descriptor of the egress process: {what}" for pid in egress for what in _descriptors(pid))
    counts.update(f"descriptor of the maker: {what}" for pid in maker for what in _descriptors(pid))
    egress_kib, maker_kib = (sum(map(_resident_kib, pids)) for pids in (egress, maker))
    return Held(counts, egress_kib, maker_kib, _slab_kib())


async def cycle(slots: Slots, times: int) -> None:
    """Take and give back so many networks, by every kind of policy."""
    for turn in range(times):
        egress = POLICIES[turn % len(POLICIES)]
        taken = [await slots.take(egress) for _ in range(AT_ONCE if turn % 10 == 0 else 1)]
        if turn % 7 == 0:
            await slots.obey(taken[0].number, POLICIES[(turn + 1) % len(POLICIES)])
            await slots.receipts(taken[0].number, egress)
        for slot in taken:
            slots.give_back(slot.number)
        while slots.ready < READY // 2:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.002)


async def settled(state: Path) -> Held:
    """What is held once nothing is under way any more."""
    before, same = held(state), 0
    async with asyncio.timeout(SETTLE_SECONDS):
        while same < SETTLED_TURNS:
            await asyncio.sleep(0.05)
            now = held(state)
            same = same + 1 if now.counts == before.counts else 0
            before = now
    return before


def _is_slot(name: str) -> bool:
    return name.startswith(PREFIX) and name.removeprefix(PREFIX).isdigit()


def _helpers(program: bytes) -> list[int]:
    """Processes of this one that run it."""
    return [pid for pid in procfs.children(os.getpid()) if program in _read(f"/proc/{pid}/cmdline")]


def _descriptors(pid: int | str) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(re.sub(r":\[\d+\]$", "", str(link.readlink())))
        except FileNotFoundError:
            continue  # it was closed in between
    return found


def _resident_kib(pid: int) -> int:
    found = re.search(rb"VmRSS:\s+(\d+)", _read(f"/proc/{pid}/status"))
    return int(found[1]) if found else 0


def _slab_kib() -> int:
    found = re.search(rb"SUnreclaim:\s+(\d+)", _read("/proc/meminfo"))
    return int(found[1]) if found else 0


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
