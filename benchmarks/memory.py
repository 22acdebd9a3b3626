"""What a process holds of the machine's memory, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

KIB = 1024


class Memory(Struct, frozen=True):
    """Bytes. `private_dirty` is what its end would give back, `pss` adds its share of the rest."""

    rss: int
    pss: int
    private_dirty: int


def memory_of(pid: int) -> Memory:
    """The memory of a process now. FileNotFoundError or ProcessLookupError when it has ended."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line.split(" ", 1)[0])

    def size(name: str) -> int:
        return int(fields[name].split()[0]) * KIB

    return Memory(rss=size("Rss"), pss=size("Pss"), private_dirty=size("Private_Dirty"))


def forget_peak(pid: int) -> None:
    """From now on `peak_of` tells the highest mark since this moment."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_of(pid: int) -> int:
    """The most resident memory in bytes that the process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * KIB
    raise ProcessLookupError(pid)
