"""The seam to a VMM: `Driver` starts machines, `Machine` is one of them.

Rules that every driver keeps (and one contract suite checks): a failed or cancelled `boot` or `restore`
leaves no process, file, mount or interface; `stop` twice is fine; a machine outlives the program that started
it and `adopt` finds it again; foreign exceptions become `MachineError` with the VMM's last log lines.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Flag, auto
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from pandastack.host.marks import FileMark
from pandastack.model.host import SnapshotSpec
from pandastack.model.sandbox import Isolation


class Feature(Flag):
    """What a driver can do; asked, never discovered by trying."""

    SNAPSHOT = auto()
    DIFF_SNAPSHOT = auto()
    LIVE_FORK = auto()
    LAZY_MEMORY = auto()
    SOFT_EMULATION = auto()
    PAUSE = auto()
    DRIVES = auto()


class Drive(Struct, frozen=True):
    """A disk that a machine has beside its own: a raw file of the host's."""

    path: Path
    size_bytes: int
    read_only: bool = False
    """Nothing that the machine writes reaches the file."""


class MachineConfig(Struct, frozen=True, kw_only=True):
    """A machine to be: everything a driver needs, nothing that a tenant chose but sizes."""

    vm_id: str
    cpus: int
    memory_mb: int
    root_disk: Path
    """The immutable base image (raw ext4)."""
    overlay: Path
    """The empty copy-on-write layer over it; the driver copies it into the machine's home."""
    disk_bytes: int | None = None
    """What the disk holds when that is more than its image does: then it is to be grown in the guest."""
    disk_limit_bytes: int
    """Largest size that any file of the machine may reach."""
    kernel: Path
    initrd: Path
    drives: tuple[Drive, ...] = ()
    """What a machine that goes on from a snapshot has to find put in; others are `attach`ed theirs."""


class Machinery(Struct, frozen=True):
    """What a snapshot can be restored on: all of it must be equal."""

    driver: str
    version: str
    accel: str
    host_cpu: str
    devices: str


class SnapshotFiles(Struct, frozen=True):
    """A snapshot on this host's disk: one directory, named files, a manifest that is checked before anything
    starts.
    """

    directory: Path
    memory: Path
    """The whole memory, or with a `base` the pages that differ from it."""
    state: Path
    overlay: Path
    """The layer that is copied for each restore, to be written."""
    manifest: Path
    base: SnapshotFiles | None = None
    """The whole snapshot that this one descends from: its memory and its disk layer stay as they are."""
    layers: tuple[Path, ...] = ()
    """Disk layers over those of the base, lowest first; nobody writes them any more."""


class Taken(Struct, frozen=True):
    """A snapshot that was taken of a running machine."""

    files: SnapshotFiles
    pause_ms: float
    """How long the machine stood still."""
    phases_ms: dict[str, float]
    marks: dict[str, FileMark] = {}
    """Of those files that were hashed while they were written, by name."""


class Stats(Struct, frozen=True):
    """Counters of a VMM process. Bytes and seconds."""

    cpu_seconds: float
    rss_bytes: int
    vsz_bytes: int
    private_dirty_bytes: int
    threads: int
    uptime_seconds: float


class Machine(Protocol):
    """One running machine, bound to its home directory."""

    pid: int
    guest_socket: Path
    """In its home; `dial` knows what is to be said there first."""
    phases_ms: dict[str, float]
    """Where the time of `boot` or `restore` went."""

    async def pause(self) -> None:
        """Stop the virtual CPUs; fine when they are stopped."""
        ...

    async def resume(self) -> None:
        """Let the virtual CPUs run; fine when they do."""
        ...

    async def dial(self) -> socket.socket:
        """A connection to its agent, which may be waited for where it is the guest that takes it. OSError
        when nobody listens, GuestUnreachable when nobody takes it.
        """
        ...

    async def check_posture(self) -> None:
        """PostureViolation when its process may do more than one of this driver should."""
        ...

    def moved(self, home: Path) -> None:
        """Its home has been renamed."""
        ...

    async def snapshot(self, into: Path) -> SnapshotFiles:
        """Write a whole snapshot into the empty directory `into`; the machine goes on. Or NotSupported."""
        ...

    async def prepare(self) -> None:
        """Do what a snapshot needs and what can be done before it. Twice is fine."""
        ...

    async def snapshot_since(
        self, base: SnapshotFiles | None, into: Path, spec: SnapshotSpec, went_on: Callable[[], None]
    ) -> Taken:
        """Keep what differs from `base`, which it was restored from, in the empty directory `into`, as `spec`
        has it. One that is not durable may have no files. `went_on` is called when the machine has been read
        and runs again, which may be long before all is written; not of one that is to hold.

        NotSupported says why not; on any error the machine is as it was, but one that was to hold may stand
        still.
        """
        ...

    async def answers(self) -> bool:
        """Whether its process answers: not one that is stopped or hangs. One that has ended counts as one
        that does, as that is told in another way.
        """
        ...

    def kill(self) -> None:
        """Have it end by force; who waits for its end is told."""
        ...

    async def attach(self, drives: Sequence[Drive]) -> None:
        """Put these drives in, the first beside the root disk first; fine when they are in. MachineError, and
        NotSupported by a driver that has no place for any.
        """
        ...

    async def resize(self, number: int, size_bytes: int) -> None:
        """Have the guest see that a drive has become larger, as its file has. MachineError."""
        ...

    async def detach(self) -> None:
        """Take all drives out, which the guest must have let go of. MachineError."""
        ...

    async def tidy(self) -> None:
        """Do what makes later snapshots and starts cheaper, when there is time for it. MachineError."""
        ...

    async def stats(self) -> Stats:
        """Counters of the VMM's process; MachineError when it has ended."""
        ...

    async def stop(self, grace: float = 5.0) -> None:
        """End the machine, at the latest after `grace` seconds by force."""
        ...

    def forget(self) -> None:
        """Let go of the machine, which runs on and can be adopted."""
        ...

    async def wait(self) -> int:
        """The VMM's exit status once it has ended (of an adopted one: -1, nobody may reap it)."""
        ...

    def last_words(self) -> str:
        """The last lines of the VMM's log and of the console, for an error's sentence."""
        ...


class Driver(Protocol):
    """A way to run machines on this host.

    `boot` and `restore` return when the VMM runs. A machine may wait for the first connection to its
    `guest_socket` before it goes on: a guest that wakes up connected need not be told so.
    """

    name: str
    version: str
    isolation: Isolation
    degraded: tuple[str, ...]
    """What its jails lack on this machine, in words."""
    features: Feature

    async def boot(
        self, config: MachineConfig, home: Path, disk: SnapshotFiles | None = None, tap: int | None = None
    ) -> Machine:
        """Start from the kernel, with `home` (an empty directory) for its files, with the disk of a snapshot
        if one is given, and with the descriptor of a `tap` as its way out; without one there is none. The
        descriptor stays the caller's. MachineError.
        """
        ...

    async def restore(
        self, snapshot: SnapshotFiles, config: MachineConfig, home: Path, tap: int | None = None
    ) -> Machine:
        """Start from a snapshot. SnapshotRefused before anything is started, MachineError."""
        ...

    async def adopt(self, home: Path) -> Machine | None:
        """The machine whose home this is, if it still runs."""
        ...

    async def release(self, name: str) -> None:
        """The snapshot of that name will not be restored any more; fine when it never was one."""
        ...

    def machinery(self, config: MachineConfig) -> Machinery:
        """What a snapshot of such a machine can be restored on."""
        ...

    def check(self, snapshot: SnapshotFiles, config: MachineConfig) -> None:
        """SnapshotRefused when the snapshot was made by another VMM, mode, CPU or device list."""
        ...


Rehearse = Callable[[Machine, socket.socket], AbstractAsyncContextManager[None]]
"""Has a restored machine do something, by a connection to its agent that it is given, and holds it for the
length of the block where a sandbox begins, its gate closed."""


class Rehearsal(Struct, frozen=True):
    """What a machine does before others start as what it is then."""

    first: Rehearse
    """What every sandbox does first: about a second."""
    programs: Rehearse
    """What the template is for: some seconds."""


class BakingDriver(Driver, Protocol):
    """A driver whose machines start from baked snapshots."""

    async def speed_up(self, snapshot: SnapshotFiles, config: MachineConfig, rehearsal: Rehearsal) -> None:
        """Prepare to start machines of a snapshot that `check` accepted faster, if this driver can, with a
        machine of its own that is rehearsed. When that fails restores are as they were.
        """
        ...
