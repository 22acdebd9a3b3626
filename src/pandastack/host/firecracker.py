"""The Firecracker driver: machines in the jailer's jail, on hardware virtualization alone.

A restore maps the snapshot's memory privately, so that siblings share every page that they have not written.
The disk is a copy: it costs nothing where the file system shares blocks (XFS, Btrfs), else as long as the
file system takes to write what the disk holds. A descended snapshot's memory is laid together from its base
and its changes for each restore, at the same price.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from msgspec import structs

from pandastack.carrying import carried_through
from pandastack.errors import MachineError, PandastackError
from pandastack.host import firecracker_jail, jail, layers, snapshots, sparse
from pandastack.host.driver import Feature, MachineConfig, Machinery, Rehearsal, SnapshotFiles
from pandastack.host.firecracker_api import Order, answers, api
from pandastack.host.firecracker_install import FirecrackerInstall
from pandastack.host.firecracker_jail import CONSOLE, LOG, Root
from pandastack.host.firecracker_machine import CHANGES, RECORD, FirecrackerMachine, Record, lay_over, words
from pandastack.host.firecracker_orders import (
    API,
    DISK,
    INITRD,
    KERNEL,
    MEMORY,
    METRICS,
    STATE,
    Shape,
    Wire,
    boot_orders,
    jailer_command,
    load_order,
)
from pandastack.host.firecracker_tap import wire_of
from pandastack.host.means import Means
from pandastack.host.paths import Cache
from pandastack.host.record import note, read_record
from pandastack.host.vmlinux import ensure_vmlinux
from pandastack.model.sandbox import Isolation

START_SECONDS = 10.0
"""How long the jailer and Firecracker may take until the API can be asked."""
LOAD_SECONDS = 30.0
_WORDS = 2000


class FirecrackerDriver:
    """Starts machines with one Firecracker."""

    name = "firecracker"
    isolation = Isolation.HARDWARE
    features = Feature.SNAPSHOT | Feature.DIFF_SNAPSHOT | Feature.LAZY_MEMORY | Feature.PAUSE

    def __init__(
        self,
        install: FirecrackerInstall,
        cache: Cache,
        *,
        host_cpu: str,
        means: Means,
        shape: Shape = Shape(),  # noqa: B008  # a frozen value
    ) -> None:
        self.install = install
        self.version = install.version
        self._cache = cache
        self._host_cpu = host_cpu
        self._means = means
        self.degraded = means.groups.lacks
        self._shape = shape

    async def boot(
        self, config: MachineConfig, home: Path, disk: SnapshotFiles | None = None, tap: int | None = None
    ) -> FirecrackerMachine:
        """Start the kernel. Returns when it runs; the agent answers later, and `dial` waits for it."""
        kernel = await asyncio.to_thread(ensure_vmlinux, self._cache, config.kernel)
        source = config.root_disk if disk is None else _disk_of(disk)

        def furnish(root: Root) -> None:
            _copy_disk(source, root)
            firecracker_jail.lend(kernel, root, KERNEL)
            firecracker_jail.lend(config.initrd, root, INITRD)

        with self._wire(tap) as wire:
            orders = boot_orders(config, self._shape, wire)
            return await self._start(config, home, furnish, orders, wire, own_memory=True)

    async def restore(
        self, snapshot: SnapshotFiles, config: MachineConfig, home: Path, tap: int | None = None
    ) -> FirecrackerMachine:
        """Start from a snapshot. SnapshotRefused before anything is started, MachineError. One that was taken
        to fork now has no manifest.
        """
        if snapshot.base is None or snapshot.manifest.exists():
            self.check(snapshot, config)
            snapshots.check_sizes(snapshot, snapshots.read_manifest(snapshot))

        def furnish(root: Root) -> None:
            _copy_disk(_disk_of(snapshot), root)
            firecracker_jail.lend(snapshot.state, root, STATE)
            firecracker_jail.lend(_memory_of(snapshot, home), root, MEMORY)

        with self._wire(tap) as wire:
            return await self._start(config, home, furnish, [load_order(wire)], wire, own_memory=False)

    async def adopt(self, home: Path) -> FirecrackerMachine | None:
        """The machine whose home this is, if its process still runs; one that was never recorded is ended."""
        record = read_record(home / RECORD, Record)
        if record is None:
            for log in (CONSOLE, LOG):  # the latter of another driver's machine
                await jail.end_writers(home / log)
            await self._means.end(home)
            return None
        child = jail.adopt(record.pid, record.started)
        if child is None:
            await self._means.end(home)
            return None
        self._means.users.hold(record.uid, home)
        return self._machine(home, record, child)

    async def release(self, name: str) -> None:
        """Nothing is held for a snapshot."""

    async def speed_up(self, snapshot: SnapshotFiles, config: MachineConfig, rehearsal: Rehearsal) -> None:
        """There is nothing to prepare: the processor runs the guest's code as it is."""

    async def close(self) -> None:
        """Machines run on, and keep what they have."""
        self._means.groups.close()

    def machinery(self, config: MachineConfig) -> Machinery:
        """What a snapshot of such a machine can be restored on."""
        return Machinery(self.name, self.version, "kvm", self._host_cpu, self._shape.devices(config))

    def check(self, snapshot: SnapshotFiles, config: MachineConfig) -> None:
        """SnapshotRefused when the snapshot was made by another VMM, CPU or device list."""
        snapshots.check_fits(snapshots.read_manifest(snapshot), self.machinery(config))

    async def _start(
        self,
        config: MachineConfig,
        home: Path,
        furnish: Callable[[Root], None],
        orders: list[Order],
        wire: Wire | None,
        *,
        own_memory: bool,
    ) -> FirecrackerMachine:
        """A jailed Firecracker that has done the `orders`. On error and cancellation nothing is left."""
        uid = self._means.users.lease(home)
        # What follows a machine has its id too, so the user tells them apart.
        root = Root(home, f"pandastack-{config.vm_id}-{uid}", self.install.firecracker.name, uid)
        begun = time.perf_counter()
        try:
            await carried_through(asyncio.to_thread(_furnish, root, furnish))
            furnished = time.perf_counter()
            child = self._spawned(config, root, wire)
        except BaseException:
            self._means.users.let_go(uid, home)
            await carried_through(asyncio.to_thread(_empty, home))
            raise
        phases = {"disk": _ms(begun, furnished)}
        record = Record(
            child.pid,
            child.started,
            config,
            uid,
            root.name,
            root.program,
            own_memory=own_memory,
            phases_ms=phases,
        )
        machine = self._machine(home, record, child)
        try:
            await self._ordered(machine, record, root, child, orders, furnished)
        except BaseException:
            await carried_through(_undone(machine, home))
            raise
        return machine

    async def _ordered(
        self,
        machine: FirecrackerMachine,
        record: Record,
        root: Root,
        child: jail.Child,
        orders: list[Order],
        spawned: float,
    ) -> None:
        """Have the machine do its first orders, and note how long it took."""
        note(root.home / RECORD, record)
        try:
            machine.join_groups()
            await _listening(child, root)
            await machine.joined_groups()
            listening = time.perf_counter()
            async with api(root.path / API, root.uid) as connection:
                await connection.give(*orders, deadline=LOAD_SECONDS)
        except PandastackError as error:
            said = words(root.home / LOG)[-_WORDS:]
            raise MachineError(f"{error.message} {said}".strip()) from error
        ready = time.perf_counter()
        phases = {**record.phases_ms, "jail": _ms(spawned, listening), "load": _ms(listening, ready)}
        machine.phases_ms.update(phases)
        note(root.home / RECORD, structs.replace(record, phases_ms=phases))

    def _wire(self, tap: int | None) -> AbstractContextManager[Wire | None]:
        """What a machine's network device is wired to; None for one that has no device."""
        return wire_of(tap) if self._shape.wired else nullcontext()

    def _spawned(self, config: MachineConfig, root: Root, wire: Wire | None) -> jail.Child:
        command = jailer_command(self.install, root, config, self._shape.log_level)
        return firecracker_jail.spawn(command, root.home, wire.network if wire else None)

    def _machine(self, home: Path, record: Record, child: jail.Child) -> FirecrackerMachine:
        machinery = self.machinery(record.config)
        return FirecrackerMachine(home, record, child, machinery, self._means)


def _furnish(root: Root, furnish: Callable[[Root], None]) -> None:
    firecracker_jail.make_root(root)
    os.mkfifo(root.home / METRICS)
    (root.home / LOG).touch()
    for name in (METRICS, LOG):
        firecracker_jail.give(root, name)
    furnish(root)
    expected = (METRICS, LOG, DISK, KERNEL, INITRD, STATE, MEMORY)
    firecracker_jail.check_untouched(root, expected)


def _copy_disk(source: Path, root: Root) -> None:
    sparse.copy(source, root.home / DISK)
    firecracker_jail.give(root, DISK)


def _disk_of(snapshot: SnapshotFiles) -> Path:
    """The whole disk as it was: a descended snapshot has its own."""
    return snapshot.layers[-1] if snapshot.base else snapshot.overlay


def _memory_of(snapshot: SnapshotFiles, home: Path) -> Path:
    """The whole memory of a snapshot. A descended one's is put together in the home, and its changes are the
    first ones of the machine.
    """
    if snapshot.base is None:
        return snapshot.memory
    (home / CHANGES).mkdir()
    layers.link(snapshot.memory, home / CHANGES / "0")
    whole = home / MEMORY
    sparse.copy(snapshot.base.memory, whole)
    lay_over(snapshot.memory, whole)
    whole.chmod(0o444)
    return whole


async def _undone(machine: FirecrackerMachine, home: Path) -> None:
    await machine.stop(0)
    await asyncio.to_thread(_empty, home)


async def _listening(child: jail.Child, root: Root) -> None:
    """Return once the API can be asked."""
    try:
        async with asyncio.timeout(START_SECONDS):
            while child.alive() and not answers(root.path / API, root.uid):  # noqa: ASYNC110  # nobody tells when
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise MachineError(f"Firecracker does not listen after {START_SECONDS:g} s.") from None
    if not child.alive():
        raise MachineError("The jailer or Firecracker has ended at once.")


def _empty(home: Path) -> None:
    """Remove all that a start has made; the home itself was there before."""
    for path in home.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 2)
