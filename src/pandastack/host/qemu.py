"""The QEMU driver: a machine is one QEMU process and one directory.

Speed comes from what is *not* done. The memory of a restore is the snapshot's file, mapped privately: nothing is read
up front and siblings share every page they have not written. The device state is 13 KB. The sockets listen before QEMU
exists, so nobody polls for them; the guest's first orders wait in the socket before the guest runs; and the monitor is
spoken to only when there is something to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from pandastack.errors import BootFailed, MachineError, NotSupported
from pandastack.host import jail, procfs, snapshots, sparse, unix
from pandastack.host.driver import Feature, MachineConfig, SnapshotFiles, Stats
from pandastack.host.qemu_command import Files, Vmm, boot_command, devices, restore_command
from pandastack.host.qmp import monitor
from pandastack.host.snapshots import Machinery
from pandastack.model.sandbox import Isolation

AGENT = "agent"
QMP = "qmp"
OVERLAY = "overlay.qcow2"
MEMORY = "memory"
CONSOLE = "console.log"
LOG = "vmm.log"
RECORD = "machine.json"


class Record(Struct, frozen=True):
    """`machine.json`: what the next program needs to find this machine again."""

    pid: int
    started: int
    config: MachineConfig
    own_memory: bool
    """Booted from its kernel: the file `memory` in its home is its memory."""
    phases_ms: dict[str, float]


class QemuMachine:
    """One QEMU process. All verbs may be repeated; after `stop` only `wait` and `last_words` answer."""

    def __init__(self, home: Path, record: Record, child: jail.Child, machinery: Machinery) -> None:
        self.home = home
        self.pid = child.pid
        self.guest_socket = home / AGENT
        self.phases_ms = record.phases_ms
        self._record = record
        self._child = child
        self._machinery = machinery
        self._turn = asyncio.Lock()

    async def pause(self) -> None:
        """Stop the virtual CPUs; at once, and fine when they are stopped."""
        async with self._turn, monitor(self.home / QMP) as qmp:
            await qmp.execute("stop")

    async def resume(self) -> None:
        """Let the virtual CPUs run."""
        async with self._turn, monitor(self.home / QMP) as qmp:
            await qmp.execute("cont")

    async def status(self) -> str:
        """QEMU's word for what the machine does: running, paused, io-error, inmigrate …"""
        async with self._turn, monitor(self.home / QMP) as qmp:
            return str((await qmp.execute("query-status"))["status"])

    async def snapshot(self, into: Path, *, since: SnapshotFiles | None = None) -> SnapshotFiles:
        """Write a whole snapshot into the empty directory `into`; the machine stands still and then goes on.

        Only of a machine that was booted: a restored one's memory is private pages over its base, and a snapshot of
        those is a verb of its own. NotSupported says so before anything is touched.
        """
        if not self._record.own_memory or since is not None:
            raise NotSupported(
                "This machine was restored; only a booted one can be written as a whole snapshot."
            )
        files = snapshots.files_in(into)
        async with self._turn, monitor(self.home / QMP, deadline=120.0) as qmp:
            await qmp.execute("stop")
            try:
                await qmp.execute("xen-save-devices-state", {"filename": str(files.state), "live": False})
                await asyncio.to_thread(sparse.copy, self.home / MEMORY, files.memory)
                await asyncio.to_thread(sparse.copy, self.home / OVERLAY, files.overlay)
            finally:
                await qmp.execute("cont")
        config = self._record.config
        await snapshots.seal(
            files, self._machinery, config.root_disk.parent.name, config.cpus, config.memory_mb
        )
        return files

    async def stats(self) -> Stats:
        """MachineError when the process has ended."""
        counters = procfs.stats(self.pid)
        if counters is None:
            raise MachineError(f"The machine's process {self.pid} has ended.")
        return counters

    async def stop(self, grace: float = 5.0) -> None:
        """End the process. A sandbox is disposable and its disk dies with it, so there is nothing to wait for."""
        await self._child.end(0)
        self._child.close()

    async def wait(self) -> int:
        return await self._child.wait()

    def forget(self) -> None:
        """Let go of the machine, which runs on."""
        self._child.close()

    def last_words(self) -> str:
        parts = [_tail(self.home / LOG), _tail(self.home / CONSOLE)]
        return "\n".join(part for part in parts if part)


class QemuDriver:
    """Starts machines with one QEMU binary. `vmm` says which and how."""

    name = "qemu"
    features = Feature.SNAPSHOT | Feature.LAZY_MEMORY | Feature.PAUSE

    def __init__(self, vmm: Vmm, *, host_cpu: str) -> None:
        self.vmm = vmm
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
        layers = (home / OVERLAY,)
        return self._start(config, home, layers=layers, memory=home / MEMORY, state=None)

    async def restore(self, snapshot: SnapshotFiles, config: MachineConfig, home: Path) -> QemuMachine:
        """Start from a snapshot that `check` accepted. Returns when QEMU runs; the guest answers as its first act."""
        layers = (snapshot.overlay, home / OVERLAY)
        return self._start(config, home, layers=layers, memory=snapshot.memory, state=snapshot.state)

    def check(self, snapshot: SnapshotFiles, config: MachineConfig) -> snapshots.Manifest:
        """SnapshotRefused when the snapshot was made by another VMM, mode, CPU or device list."""
        manifest = snapshots.read_manifest(snapshot)
        snapshots.check_fits(manifest, self.machinery(config))
        return manifest

    def machinery(self, config: MachineConfig) -> Machinery:
        vmm = self.vmm
        return Machinery("qemu", vmm.version, vmm.accel, self._host_cpu, devices(config, vmm))

    async def adopt(self, home: Path) -> QemuMachine | None:
        """The machine whose home this is, if its process still runs."""
        try:
            record = msgspec.json.decode((home / RECORD).read_bytes(), type=Record, dec_hook=_path)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        child = jail.adopt(record.pid, record.started)
        return None if child is None else QemuMachine(home, record, child, self.machinery(record.config))

    def _start(
        self, config: MachineConfig, home: Path, *, layers: tuple[Path, ...], memory: Path, state: Path | None
    ) -> QemuMachine:
        begun = time.perf_counter()
        sparse.copy(config.overlay, home / OVERLAY)
        copied = time.perf_counter()
        with contextlib.ExitStack() as stack:
            qmp = stack.enter_context(unix.listen(home / QMP))
            agent = stack.enter_context(unix.listen(home / AGENT))
            files = Files(
                memory=memory,
                layers=layers,
                console=home / CONSOLE,
                qmp_fd=qmp.fileno(),
                agent_fd=agent.fileno(),
                state=state,
            )
            command = boot_command if state is None else restore_command
            child = jail.spawn(
                command(self.vmm, config, files),
                log=home / LOG,
                cwd=home,
                env=self.vmm.env,
                pass_fds=(qmp.fileno(), agent.fileno()),
                file_size_limit=config.disk_limit_bytes,
            )
        phases = {"overlay": _ms(begun, copied), "spawn": _ms(copied, time.perf_counter())}
        record = Record(child.pid, child.started, config, state is None, phases)
        (home / RECORD).write_bytes(msgspec.json.encode(record, enc_hook=str))
        return QemuMachine(home, record, child, self.machinery(config))


def find_version(output: str) -> str:
    """The version in the first line of `qemu-system-x86_64 --version`, package suffix included."""
    head = output.splitlines()[0] if output else ""
    _, found, version = head.partition(" version ")
    if not found:
        raise BootFailed(f"This is no QEMU: it calls itself {head!r}.")
    return version.strip()


def _make_memory(path: Path, megabytes: int) -> None:
    with path.open("xb") as file:
        os.ftruncate(file.fileno(), megabytes << 20)


def _tail(path: Path, limit: int = 2000) -> str:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return os.pread(file.fileno(), limit, max(0, size - limit)).decode(errors="replace").strip()
    except OSError:
        return ""


def _path(kind: type, value: object) -> Path:
    """The only type of a record that JSON does not know."""
    return Path(str(value))


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 2)
