"""The QEMU driver: how a machine is started, restored and found again.

Speed comes from what is *not* done. The memory of a restore is the snapshot's file, mapped privately: nothing
is read up front, and siblings share every page that they have not written. The device state is 20 KB. The
sockets listen before QEMU exists, so nobody polls for them, and the guest's first orders wait in the socket
before the guest runs. An emulated machine does not even start QEMU: a fork server has done that before it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

import msgspec

from pandastack.errors import MachineError
from pandastack.host import jail, snapshots, sparse, unix
from pandastack.host.driver import Feature, MachineConfig, Machinery, SnapshotFiles
from pandastack.host.qemu_command import MEMORY, OVERLAY, Files, Vmm, boot_command, devices, restore_command
from pandastack.host.qemu_machine import AGENT, LOG, QMP, RECORD, QemuMachine, Record
from pandastack.host.zygote import FIRST_FD, NAME_PLACEHOLDER, Zygote
from pandastack.model.sandbox import Isolation


class QemuDriver:
    """Starts machines with one QEMU binary. `vmm` says which and how."""

    name = "qemu"
    features = Feature.SNAPSHOT | Feature.LAZY_MEMORY | Feature.PAUSE

    def __init__(self, vmm: Vmm, *, host_cpu: str, zygote_library: Path | None = None) -> None:
        self.vmm = vmm
        self._library = zygote_library if vmm.accel != "kvm" else None
        self._zygotes: dict[Path, Zygote] = {}
        self._abandoned: list[Zygote] = []
        self.version = vmm.version
        self._host_cpu = host_cpu
        self.isolation = Isolation.HARDWARE if vmm.accel == "kvm" else Isolation.EMULATED
        if vmm.accel != "kvm":
            self.features = self.features | Feature.SOFT_EMULATION

    async def boot(self, config: MachineConfig, home: Path) -> QemuMachine:
        """Start the kernel. Returns when QEMU runs; the guest's agent answers some seconds later.

        The memory is a file of the machine's own, so that `snapshot` finds it there.
        """
        _make_memory(home / MEMORY, config.memory_mb)
        return self._start(config, home, Path(MEMORY), None)

    async def restore(self, snapshot: SnapshotFiles, config: MachineConfig, home: Path) -> QemuMachine:
        """Start from a snapshot that `check` accepted. Returns when QEMU runs; the guest answers as its first
        act.
        """
        return self._start(config, home, snapshot.memory, snapshot)

    def check(self, snapshot: SnapshotFiles, config: MachineConfig) -> None:
        """SnapshotRefused when the snapshot was made by another VMM, mode, CPU or device list."""
        snapshots.check_fits(snapshots.read_manifest(snapshot), self.machinery(config))

    def machinery(self, config: MachineConfig) -> Machinery:
        vmm = self.vmm
        return Machinery("qemu", vmm.version, vmm.accel, self._host_cpu, devices(config, vmm))

    async def adopt(self, home: Path) -> QemuMachine | None:
        """The machine whose home this is, if its process still runs; one that was never recorded is ended."""
        try:
            record = msgspec.json.decode((home / RECORD).read_bytes(), type=Record, dec_hook=_path)
        except (FileNotFoundError, msgspec.MsgspecError):
            await jail.end_writers(home / LOG)
            return None
        child = jail.adopt(record.pid, record.started)
        return None if child is None else QemuMachine(home, record, child, self.machinery(record.config))

    async def close(self) -> None:
        """End the fork servers; machines run on."""
        zygotes = [*self._zygotes.values(), *self._abandoned]
        self._zygotes, self._abandoned = {}, []
        for zygote in zygotes:
            await zygote.close()

    def _start(
        self, config: MachineConfig, home: Path, memory: Path, snapshot: SnapshotFiles | None
    ) -> QemuMachine:
        begun = time.perf_counter()
        sparse.copy(config.overlay, home / OVERLAY)
        copied = time.perf_counter()
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(unix.listen(home / name)) for name in (QMP, AGENT)]
            child = self._forked(config, home, sockets, snapshot) if snapshot else None
            if child is None:
                child = self._spawned(config, home, sockets, memory, snapshot)
        phases = {"overlay": _ms(begun, copied), "spawn": _ms(copied, time.perf_counter())}
        record = Record(child.pid, child.started, config, snapshot is None, phases)
        (home / RECORD).write_bytes(msgspec.json.encode(record, enc_hook=str))
        return QemuMachine(home, record, child, self.machinery(config))

    def _spawned(
        self,
        config: MachineConfig,
        home: Path,
        sockets: list[socket.socket],
        memory: Path,
        snapshot: SnapshotFiles | None,
    ) -> jail.Child:
        fds = (sockets[0].fileno(), sockets[1].fileno())
        files = _files(f"pandastack-{config.vm_id}", fds, memory, snapshot)
        command = boot_command if snapshot is None else restore_command
        return jail.spawn(
            command(self.vmm, config, files),
            log=home / LOG,
            cwd=home,
            env=self.vmm.env,
            pass_fds=fds,
            file_size_limit=config.disk_limit_bytes,
        )

    def _forked(
        self, config: MachineConfig, home: Path, sockets: list[socket.socket], snapshot: SnapshotFiles
    ) -> jail.Child | None:
        """The machine from the snapshot's fork server; None when there is none here, or it failed."""
        if self._library is None:
            return None
        try:
            return self._zygote(self._library, config, snapshot).fork(
                f"pandastack-{config.vm_id}",
                home=home,
                log=home / LOG,
                fds=[each.fileno() for each in sockets],
                file_size_limit=config.disk_limit_bytes,
            )
        except MachineError:
            self._abandon(snapshot.directory)
            return None

    def _zygote(self, library: Path, config: MachineConfig, snapshot: SnapshotFiles) -> Zygote:
        found = self._zygotes.get(snapshot.directory)
        if found is not None and not found.alive():
            self._abandon(snapshot.directory)
            found = None
        if found is None:
            files = _files(NAME_PLACEHOLDER, (FIRST_FD, FIRST_FD + 1), snapshot.memory, snapshot)
            command = restore_command(self.vmm, config, files)
            home = snapshot.directory
            found = Zygote.start(library, command, home=home, env=self.vmm.env, log=Path(os.devnull))
            self._zygotes[home] = found
        return found

    def _abandon(self, directory: Path) -> None:
        """Forget a fork server that failed; the next start makes another."""
        if failed := self._zygotes.pop(directory, None):
            failed.abandon()
            self._abandoned.append(failed)


def _files(name: str, fds: tuple[int, int], memory: Path, snapshot: SnapshotFiles | None) -> Files:
    """What a machine of one name has; paths without a folder are in its home, where its process works."""
    return Files(
        name=name,
        memory=memory,
        layers=(snapshot.overlay, Path(OVERLAY)) if snapshot else (Path(OVERLAY),),
        qmp_fd=fds[0],
        agent_fd=fds[1],
        state=snapshot.state if snapshot else None,
    )


def _make_memory(path: Path, megabytes: int) -> None:
    with path.open("xb") as file:
        os.ftruncate(file.fileno(), megabytes << 20)


def _path(kind: type, value: object) -> Path:
    """The only type of a record that JSON does not know."""
    return Path(str(value))


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 2)
