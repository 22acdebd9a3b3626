"""How much of the machine others used while a question was asked: a busy machine's figures say little."""

from __future__ import annotations

import os
import time
from pathlib import Path

from msgspec import Struct

TICKS = os.sysconf("SC_CLK_TCK")


class Reading(Struct, frozen=True):
    """Seconds so far: of the wall, of all processors' work, of what a hypervisor withheld, of our own work.

    Our own is this program's and that of every process below it which has ended and was waited for.
    """

    wall: float
    busy: float
    stolen: float
    ours: float


class Disturbance(Struct, frozen=True):
    """Per cent of all processors, on average."""

    others: float
    stolen: float


def read(child: int | None = None) -> Reading:
    """The clocks of this machine now; a `child` of this program that still runs is told of by its number."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = (int(word) / TICKS for word in words[1:9])
    own = os.times()
    return Reading(
        wall=time.monotonic(),
        busy=user + nice + system + interrupts + soft,
        stolen=stolen,
        ours=own.user + own.system + own.children_user + own.children_system + _work_of(child),
    )


def _work_of(child: int | None) -> float:
    """What a process and those below it that it has waited for have worked."""
    if child is None:
        return 0.0
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / TICKS


def between(before: Reading, after: Reading) -> Disturbance:
    """What happened meanwhile."""
    whole = (after.wall - before.wall) * (os.cpu_count() or 1)
    others = (after.busy - before.busy) - (after.ours - before.ours)
    return Disturbance(
        others=round(100 * max(0.0, others) / whole, 1),
        stolen=round(100 * (after.stolen - before.stolen) / whole, 1),
    )
