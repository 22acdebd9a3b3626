"""What /proc tells of a process of this host."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pandastack.errors import MachineError
from pandastack.host import smallfiles
from pandastack.host.driver import Stats

_TICKS = os.sysconf("SC_CLK_TCK")


def start_ticks(pid: int) -> int | None:
    """When it was started, in clock ticks since the host's boot; with the pid it names a process for ever."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def children(pid: int) -> set[int]:
    """Every living descendant of a process."""
    found: set[int] = set()
    for thread in _threads(pid):
        for child in map(int, _read(thread / "children").split()):
            found |= {child} | children(child)
    return found


def writers(log: Path) -> list[int]:
    """Every process whose standard output, or where it tells errors, is this file, by whatever path it knows
    it.
    """
    found: list[int] = []
    try:
        target = log.stat()
    except FileNotFoundError:
        return found
    for link in Path("/proc").glob("[0-9]*/fd/[12]"):
        try:
            if os.path.samestat(link.stat(), target) and int(link.parts[2]) not in found:
                found.append(int(link.parts[2]))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is somebody else's
    return found


def processes() -> list[int]:
    """Every process of this host."""
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def name(pid: int) -> str:
    """What its program is called, at most 15 bytes; empty when it has ended."""
    return _read(Path(f"/proc/{pid}/comm")).strip()


def files(pid: int) -> set[str]:
    """The paths of the files that it has open or mapped; none when it has ended or is somebody else's."""
    found = set()
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
        found |= {line[line.index("/") :] for line in maps.splitlines() if "/" in line}
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.add(str(link.readlink()))
    return found


def stats(pid: int) -> Stats:
    """The counters of a machine's process now; MachineError when it has ended."""
    fields = _stat(pid)
    if not fields or fields[0] in ("Z", "X"):
        raise MachineError(f"The machine's process {pid} has ended.")
    memory = _memory(pid)
    return Stats(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        rss_bytes=memory.get("Rss:", 0),
        vsz_bytes=int(fields[20]),
        private_dirty_bytes=memory.get("Private_Dirty:", 0),
        threads=int(fields[17]),
        uptime_seconds=max(0.0, float(_read(Path("/proc/uptime")).split()[0]) - int(fields[19]) / _TICKS),
    )


def state(pid: int) -> str:
    """What it does, in a letter: R, S, D, T (stopped), Z; empty when it has ended."""
    return (_stat(pid) or [""])[0]


def _threads(pid: int) -> list[Path]:
    """The folders of its threads; none when it has ended."""
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (the second may hold spaces and parentheses)."""
    return _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()


def _memory(pid: int) -> dict[str, int]:
    """Bytes by name; exact, where the resident set of /proc/PID/stat is an estimate and often far too low."""
    lines = _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines()[1:]
    return {name: int(size) * 1024 for name, size, _ in (line.split() for line in lines)}


def _read(path: Path) -> str:
    try:
        return smallfiles.read(path).decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
