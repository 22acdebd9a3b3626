"""What a machine has of its own: pages that its base does not hold, and disk layers over its template's."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from benchmarks.api import Api
from benchmarks.question import Stage
from pandastack.host import memory, procfs

MB = 1_000_000
LAYERS = "*.qcow2"
FILE = "/dev/shm/own"  # noqa: S108  # in the sandbox
FILL = f"head -c {{0}} /dev/urandom > {FILE}; sync"


class Own(Struct, frozen=True):
    """Bytes of pages, how many disk layers, what they take in bytes, and how much of that no snapshot has."""

    pages: int
    layers: int
    disk: int
    fresh: int


def fill(api: Api, sandbox_id: str, size: int) -> None:
    """Have so many random bytes in the guest's memory, and nothing unwritten for its disk."""
    api.exec(sandbox_id, "sh", "-c", FILL.format(size))


def pid_of(api: Api, sandbox_id: str) -> int:
    """The process of its machine."""
    return int(api.get(f"/v1/sandboxes/{sandbox_id}/metrics")["pid"])


def own_of(stage: Stage, sandbox_id: str, pid: int) -> Own:
    """What it has of its own now; of a guest that runs it is more a moment later."""
    runs = memory.private_runs(pid, memory.mappings(pid, base_of(pid)))
    layers = [path.stat() for path in stage.server.state.glob(f"*/{sandbox_id}/{LAYERS}")]
    return Own(
        pages=sum(count for _, count in runs) * memory.PAGE,
        layers=len(layers),
        disk=sum(layer.st_blocks * 512 for layer in layers),
        fresh=sum(layer.st_blocks * 512 for layer in layers if layer.st_nlink == 1),
    )


def base_of(pid: int) -> Path:
    """The file that the guest's memory is mapped from."""
    return next(path for path in map(Path, sorted(procfs.files(pid))) if path.name == "memory")
