"""What the control plane and a host tell each other. Every order carries the sandbox's id and may be sent
twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from pandastack.model.book import Sighting
from pandastack.model.egress import BoundSecret, Egress
from pandastack.model.guest import Guest
from pandastack.model.image import ImageSpec, Template
from pandastack.model.restore import RestoreProof
from pandastack.model.sandbox import Isolation
from pandastack.model.volume import Mount

PIECE = 1 << 20
"""Bytes of a disk that go together from a host to the control plane and back."""


class VmSpec(Struct, frozen=True):
    """An order for one machine."""

    id: str
    template: str
    env: dict[str, str] = {}
    hostname: str = ""
    snapshot: str | None = None
    """The snapshot of this host that it goes on from; None is the template's own."""
    egress: Egress = Egress()
    """What it may reach."""
    secrets: tuple[BoundSecret, ...] = ()
    """What is put in on its way out: for this start, and never written down by a host."""
    volumes: tuple[Mount, ...] = ()
    """What is mounted in it that outlives it."""
    cold: bool = False
    """Boot with the snapshot's disk, for when its memory cannot be used: nothing runs, and what had not
    reached the disk is not there. Such a machine can not be snapshotted."""


class SnapshotSpec(Struct, frozen=True):
    """An order for a snapshot of a machine that runs or is paused."""

    id: str
    vm: str
    durable: bool = True
    """On the disk, flushed and with its hashes, before it is acknowledged. One that is not serves to fork
    now: it may be kept in memory alone, and does not outlive this host's program."""
    once: bool = False
    """One machine goes on from it and no more, which costs less."""
    hold: bool = False
    """The machine stands still afterwards, until it is resumed or stopped."""


class ImportSpec(Struct, frozen=True):
    """An order for a snapshot that comes as a file."""

    id: str
    most_bytes: int | None = None
    """More than so much data is refused; what its host has already does not count."""


class SnapshotReport(Struct, frozen=True):
    """A snapshot as its host holds it. Times are milliseconds."""

    id: str
    vm: str
    template: str
    cpu: int
    memory_mb: int
    size_bytes: int
    """What it takes on the disk by itself: private pages, device state, disk layers nobody else has."""
    pause_ms: float
    """How long the machine stood still for it."""
    phases_ms: dict[str, float]
    durable: bool = True
    layers: int = 1
    """Disk layers over the template's."""
    held: bool = False
    """Its machine stood still behind it: what a sandbox sleeps in, and nobody asks for by its name."""
    damaged: str | None = None
    """What was found wrong with its files, in one sentence; nothing starts from it then."""


class VmState(StrEnum):
    """What a host knows of a machine."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    DEAD = "dead"


class VmReport(Struct, frozen=True):
    """A machine as its host sees it. Times are milliseconds."""

    id: str
    template: str
    state: VmState
    pid: int
    cpu: int
    memory_mb: int
    boot_mode: str
    boot_ms: float
    phases_ms: dict[str, float]
    guest_ip: str = ""
    snapshot: str | None = None
    """What it was restored from, when that was no template."""
    proof: RestoreProof | None = None
    cause: str | None = None
    """Why a DEAD one died, in one sentence."""
    console: str = ""
    """The last console lines of a DEAD one."""


class VmStats(Struct, frozen=True):
    """Counters of the VMM process on its host."""

    pid: int
    uptime_seconds: float
    cpu_seconds: float
    rss_bytes: int
    vsz_bytes: int
    private_dirty_bytes: int
    threads: int


class VolumeReport(Struct, frozen=True):
    """A volume as its host holds it: what it may hold, MiB, and what it takes on the disk now, bytes."""

    id: str
    size_mb: int
    size_bytes: int


class Piece(Struct, frozen=True):
    """Some bytes of a disk, and where on it they are. What no piece tells of is zeros."""

    offset: int
    data: bytes


class Networks(StrEnum):
    """What machines have for a network. SLOTS: one of its own each, which keeps a policy. NONE: one that
    leads nowhere. SHARED: the host's own, without any rules.
    """

    SLOTS = "slots"
    NONE = "none"
    SHARED = "shared"


class HostReport(Struct, frozen=True):
    """A host as it reports itself."""

    id: str
    driver: str
    driver_version: str
    isolation: Isolation
    vms: list[VmReport]
    templates: list[Template]
    snapshots: list[SnapshotReport] = []
    volumes: list[VolumeReport] = []
    network: Networks = Networks.NONE
    degraded: list[str] = []
    """What its jails lack, in words; nothing when all of it is there."""


class Host(Protocol):
    """A host's verbs, the same in one process and over the network."""

    async def start(self, spec: VmSpec) -> VmReport:
        """Restore the template's snapshot, or `spec.snapshot`, as machine `spec.id`; returns after its
        restore gate answered.

        Twice with the same id returns the same machine. Errors: TemplateNotFound, SnapshotNotFound,
        SnapshotRefused, BootFailed, NoSpace, NoCapacity; on any of them and on cancellation nothing of the
        machine is left.
        """
        ...

    async def stop(self, vm_id: str) -> None:
        """End the machine and remove all of it; fine when there is none."""
        ...

    async def pause(self, vm_id: str) -> None:
        """Stop its virtual CPUs; fine when they are stopped. Errors: SandboxNotFound."""
        ...

    async def resume(self, vm_id: str) -> None:
        """Let its virtual CPUs run; fine when they do. Errors: SandboxNotFound."""
        ...

    async def snapshot(self, spec: SnapshotSpec) -> SnapshotReport:
        """Keep the machine's memory, devices and disk as they are at one moment, under `spec.id`.

        The machine goes on (unless it is to hold) whatever happens; a paused one stays paused. Twice with the
        same id returns the same snapshot. Errors: SandboxNotFound, NotSupported, NoSpace; on any of them and
        on cancellation nothing of the snapshot is left.
        """
        ...

    async def drop_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; fine when there is none. Machines and snapshots that descend from it stay
        whole.
        """
        ...

    def export_snapshot(self, snapshot_id: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """All that a restore of a durable snapshot needs, as one sealed file, piece by piece.

        It has been read and compared with its hashes when the block begins. Errors: SnapshotNotFound,
        SnapshotRefused for one that is damaged.
        """
        ...

    async def import_snapshot(self, spec: ImportSpec, content: AsyncIterator[bytes]) -> SnapshotReport:
        """Keep what `export_snapshot` gave, on this host or on another one whose key it has, under `spec.id`.

        Twice with the same id returns the same snapshot. Errors: ArchiveRefused, SnapshotRefused when this
        host cannot restore it, SnapshotQuotaExceeded, NoSpace; on any of them and on cancellation nothing of
        the snapshot is left.
        """
        ...

    async def make_volume(self, volume_id: str, size_mb: int) -> VolumeReport:
        """An empty volume of so many MiB; twice is the same one, which has its size. Errors: NoSpace,
        NotSupported, BuildFailed; then nothing of it is left.
        """
        ...

    async def copy_volume(self, source_id: str, volume_id: str, size_mb: int) -> VolumeReport:
        """A volume with what another one has, of that size or more; twice is the same one. Errors:
        VolumeNotFound, VolumeBusy while a machine writes the other one, NoSpace; then nothing of it is left.
        """
        ...

    def read_volume(self, volume_id: str) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        """All of its disk that is not zeros, as aligned pieces of `PIECE` bytes (the last may have fewer), in
        order. Nobody writes the volume, and it is not dropped, within the block. Errors: VolumeNotFound,
        VolumeBusy while a machine writes it.
        """
        ...

    async def fill_volume(self, volume_id: str, size_mb: int, pieces: AsyncIterator[Piece]) -> VolumeReport:
        """A volume of that size, with these bytes on its disk and zeros else; what they mean is not looked
        at. Errors: InvalidRequest for a piece beyond its end or for a volume that there is, NoSpace,
        NotSupported, and those of `pieces`; then nothing of it is left.
        """
        ...

    async def grow_volume(self, volume_id: str, size_mb: int) -> VolumeReport:
        """Have it hold so many MiB; fine when it does. A machine that writes it sees that before this
        returns. Errors: VolumeNotFound, InvalidRequest for less than it has, NoSpace, MachineError.
        """
        ...

    async def drop_volume(self, volume_id: str) -> None:
        """Remove a volume and what is in it; fine when there is none. Errors: VolumeBusy while a machine has
        it.
        """
        ...

    async def make_image(self, spec: ImageSpec) -> Template:
        """Have a root file system that lies on a volume be what machines are made from, and bake it; twice is
        the same one. The volume's disk is the image's afterwards: it must be dropped, and never be written.
        Errors: VolumeNotFound, VolumeBusy, BootFailed with the last words of what failed, NoSpace,
        NotSupported; then nothing of the image is left.
        """
        ...

    async def drop_image(self, image_id: str) -> None:
        """Remove an image that was made; fine when there is none. No machine may be made from it any more;
        what was snapshotted of it stays whole.
        """
        ...

    async def replace(self, spec: VmSpec) -> VmReport:
        """As `start`, in place of the machine `spec.id`, which ends once the new one has passed its gate.

        On any error the old machine runs on. Errors: those of `start`, SandboxNotFound.
        """
        ...

    async def stats(self, vm_id: str) -> VmStats:
        """Counters of its process now. Errors: SandboxNotFound."""
        ...

    async def set_egress(
        self, vm_id: str, egress: Egress, secrets: tuple[BoundSecret, ...] | None = None
    ) -> None:
        """Have it keep another policy from now on, with these secrets put in; without any named they stay as
        they are. Open connections that it forbids end, and those that another secret was put into. On any
        error it is as before. A host that starts has to be told the secrets anew. Errors: SandboxNotFound,
        NotSupported on a host that cannot keep it, MachineError when its guest cannot be made to trust the
        host.
        """
        ...

    async def receipts(self, vm_id: str) -> Sighting:
        """What it has reached and what was kept from it, as far as that is still counted. Errors:
        SandboxNotFound.
        """
        ...

    def guest(self, vm_id: str) -> Guest:
        """The machine's agent; SandboxNotFound when this host has no such machine."""
        ...

    async def console(self, vm_id: str, *, tail_bytes: int = 65536) -> bytes:
        """The end of the machine's console log."""
        ...

    async def console_at(self, vm_id: str, offset: int) -> tuple[int, bytes]:
        """The console from byte `offset` on (negative: so many before the end), at most 64 KiB of it.

        Returns the offset behind those bytes too; no bytes when there are none yet.
        """
        ...

    async def report(self) -> HostReport:
        """What runs here, what died and was not stopped yet, and which templates there are."""
        ...

    async def bake(self, template: str) -> Template:
        """Make sure that the template has a snapshot on this host, cold-booting it once if it has none."""
        ...

    def deaths(self) -> AbstractAsyncContextManager[AsyncIterator[VmReport]]:
        """Reports of machines that ended by themselves, as it happens. The DEAD ones stay in `report` until
        `stop`.
        """
        ...
