"""The QEMU driver: how a machine is started, restored and found again.

Speed comes from what is *not* done. The memory of a restore is the snapshot's file, mapped privately: nothing
is read up front, and siblings share every page that they have not written. The device state is 20 KB. The
sockets listen before QEMU exists, so nobody polls for them, and the guest's first orders wait in the socket
before the guest runs. An emulated machine is not even restored: it is a fork of one that was, whose
translated code it shares.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import structlog
from msgspec import structs

from pandastack.carrying import carried_through
from pandastack.errors import MachineError, SnapshotRefused
from pandastack.host import jail, layers, qemu_jail, smallfiles, snapshots, sparse, unix
from pandastack.host.driver import Feature, MachineConfig, Machinery, Rehearsal, SnapshotFiles
from pandastack.host.groups import limits_of, number_of
from pandastack.host.jailer import NOT_ROOT, Jailer
from pandastack.host.means import Means
from pandastack.host.memory import mark, read_runs
from pandastack.host.network.namespace import idle_tap
from pandastack.host.qemu_command import (
    MEMORY,
    OVERLAY,
    Files,
    Vmm,
    boot_command,
    boot_over_command,
    devices,
    restore_command,
)
from pandastack.host.qemu_machine import QemuMachine
from pandastack.host.qemu_record import AGENT, LOG, RECORD, Record
from pandastack.host.qemu_start import Start
from pandastack.host.quarters import STATE_IN, Ahead, Quarters
from pandastack.host.shortage import told
from pandastack.host.zygote import CHANNEL, NAME_PLACEHOLDER, Zygote
from pandastack.host.zygotes import Beginning, Plan, Zygotes
from pandastack.model.sandbox import Isolation

log = structlog.get_logger("host")

NO_FILTER = "no filter of system calls"
"""Of a QEMU that was built without one, what it has beside the jail's."""
GREETED_SECONDS = 0.001
"""By then a forked machine's guest has been greeted, and this program has nothing to do but wait for it."""


class QemuDriver:
    """Starts machines with one QEMU binary. `vmm` says which and how; with `zygotes` and the library for them
    emulated machines are forks of one that was restored and warmed. With a `jailer` each is in a jail.
    """

    name = "qemu"
    features = Feature.SNAPSHOT | Feature.DIFF_SNAPSHOT | Feature.LAZY_MEMORY | Feature.PAUSE | Feature.DRIVES

    def __init__(
        self,
        vmm: Vmm,
        *,
        host_cpu: str,
        zygote_library: Path | None = None,
        zygotes: Zygotes | None = None,
        jailer: Jailer | None = None,
    ) -> None:
        self.vmm = vmm
        self.jailer = jailer
        self._library = zygote_library if vmm.accel != "kvm" and vmm.seccomp else None
        self.zygotes = zygotes if self._library else None
        self.version = vmm.version
        self._host_cpu = host_cpu
        self.isolation = Isolation.HARDWARE if vmm.accel == "kvm" else Isolation.EMULATED
        self.degraded = jailer.means.groups.lacks if jailer else (NOT_ROOT,)
        if not vmm.seccomp:
            self.degraded += (NO_FILTER,)
        if vmm.accel != "kvm":
            self.features |= Feature.SOFT_EMULATION
        if self.zygotes:
            self.features |= Feature.LIVE_FORK

    @property
    def _means(self) -> Means | None:
        return self.jailer.means if self.jailer else None

    async def boot(
        self, config: MachineConfig, home: Path, disk: SnapshotFiles | None = None, tap: int | None = None
    ) -> QemuMachine:
        """Start the kernel. Returns when QEMU runs; the guest's agent answers some seconds later.

        The memory is a file of the machine's own, so that `snapshot` finds it there. With the `disk` of a
        snapshot over the base disk it is what that lies over, mapped privately: a kernel that boots does not
        mind what its memory holds, and states of the machine can be kept as those of any other. Unless that
        was cut off: the memory is its own then too.
        """
        base = disk and (disk.base or disk)
        memory = base.memory if base and _is_whole(base.memory, config.memory_mb) else None
        made = () if memory else (MEMORY,)
        if memory is None:
            _make_memory(home / MEMORY, config.memory_mb)
        own = (layers.FIRST,) if disk is None else _disk(disk)
        if disk is not None:
            layers.share(disk.layers, home, own[:-1])
        start = Start(config, home, config.overlay, own, jailer=self.jailer, files=made)
        with self._tap(tap) as nic, start.with_nic(nic) as start:
            files = _files(f"pandastack-{config.vm_id}", start.fds, memory or Path(MEMORY), base, own=own)
            files = structs.replace(files, state=None)
            command = boot_over_command if memory else boot_command
            child = self._spawned(start, files, command, env=self.vmm.env)
            return self._recorded(start, child, "spawn", own_memory=memory is None)

    async def restore(
        self, snapshot: SnapshotFiles, config: MachineConfig, home: Path, tap: int | None = None
    ) -> QemuMachine:
        """Start from a snapshot that `check` accepted. Returns when QEMU runs; the guest answers as its first
        act.
        """
        with self._tap(tap) as nic:
            return await self._restored(snapshot, config, home, nic)

    async def _restored(
        self, snapshot: SnapshotFiles, config: MachineConfig, home: Path, tap: int
    ) -> QemuMachine:
        machine = await self._forked(config, home, snapshot, tap)
        if snapshot.base is None:
            return machine or self._start(config, home, snapshot, tap)
        if machine is None and not snapshot.memory.exists():
            raise SnapshotRefused("The snapshot was kept in memory alone, by a process that has ended.")
        if machine is None:
            read_runs(snapshot.memory)
            machine = await self._become(config, home, snapshot, tap)
        return machine or await self._assembled(config, home, snapshot, tap)

    async def speed_up(self, snapshot: SnapshotFiles, config: MachineConfig, rehearsal: Rehearsal) -> None:
        """Make a fork server for this snapshot: restores of it are forks then."""
        if self.zygotes:
            begin = functools.partial(self._begin_zygote, snapshot, config)
            await self.zygotes.prepare(snapshot.directory.name, Plan(begin, rehearsal))

    async def release(self, name: str) -> None:
        """End what served this snapshot, its fork server or the copy of a machine."""
        if self.zygotes:
            await self.zygotes.drop(name)

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
            if self._means:
                await self._means.end(home)
            return None
        child = jail.adopt(record.pid, record.started)
        if child is None:
            if self._means:
                await self._means.end(home)
            return None
        quarters = Quarters(home, record.user, limits_of(record.config), self._means)
        machine = QemuMachine(home, record, child, self.machinery(record.config), self.zygotes, quarters)
        machine.join_groups()  # whoever started it may have ended before that
        try:
            await machine.recover()
        except MachineError as error:  # it ends, or does not answer: whoever greets it finds out
            log.warning("vm.not_recovered", vm=record.config.vm_id, reason=error.message)
        return machine

    async def close(self) -> None:
        """End the fork servers; machines run on."""
        if self.zygotes:
            await self.zygotes.close()
        if self._means:
            self._means.groups.close()

    @contextlib.contextmanager
    def _tap(self, given: int | None) -> Iterator[int]:
        """The descriptor that a machine's network device gets: what is given, or one that leads nowhere."""
        if given is not None:
            yield given
            return
        idle = idle_tap() if self.vmm.taps else os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            yield idle
        finally:
            os.close(idle)

    def _start(self, config: MachineConfig, home: Path, snapshot: SnapshotFiles, tap: int) -> QemuMachine:
        """A machine of a whole snapshot."""
        with Start(config, home, config.overlay, jailer=self.jailer, state=snapshot.state).with_nic(
            tap
        ) as start:
            files = _files(f"pandastack-{config.vm_id}", start.fds, snapshot.memory, snapshot)
            child = self._spawned(start, files, restore_command, env=self.vmm.env)
            return self._recorded(start, child, "spawn")

    async def _assembled(
        self, config: MachineConfig, home: Path, snapshot: SnapshotFiles, tap: int
    ) -> QemuMachine:
        """A machine of a snapshot's base, with the snapshot's disk layers and, before its devices are loaded
        (virtio reads its rings from memory), its pages.
        """
        base, disk = _base(snapshot), _disk(snapshot)
        layers.share(snapshot.layers, home, disk[:-1])
        with Start(config, home, config.overlay, disk, jailer=self.jailer, state=snapshot.state).with_nic(
            tap
        ) as start:
            files = _files(f"pandastack-{config.vm_id}", start.fds, base.memory, base, own=disk)
            files = structs.replace(files, deferred=True)
            child = self._spawned(start, files, restore_command, env=self.vmm.env)
            machine = self._recorded(start, child, "spawn")
        try:
            await machine.load(snapshot, base)
        except BaseException:
            await machine.stop(0)
            raise
        return machine

    async def _become(
        self, config: MachineConfig, home: Path, snapshot: SnapshotFiles, tap: int
    ) -> QemuMachine | None:
        """A fork of the base's fork server that is made the machine of the snapshot before its guest runs;
        None when there is no server. It keeps the server's translated code.
        """
        base = _base(snapshot)
        key = base.directory.name
        zygote = self.zygotes.find(key) if self.zygotes and self.vmm.loads_in_place else None
        if zygote is None:
            return None
        disk = (*_disk(snapshot)[:-1], layers.after(zygote.disk))
        layers.share(snapshot.layers, home, disk[:-1])
        sparse.copy(config.overlay, home / disk[-1])
        machine = await self._fork_of((key, zygote), config, home, tap, disk, become=snapshot.state)
        if machine is None:
            return None
        try:
            await machine.become(snapshot, base)
        except BaseException:
            await machine.stop(0)
            raise
        return machine

    async def _forked(
        self, config: MachineConfig, home: Path, snapshot: SnapshotFiles, tap: int
    ) -> QemuMachine | None:
        """The machine from the snapshot's fork server; None when there is none yet, or it failed."""
        key = snapshot.directory.name
        zygote = self.zygotes.find(key) if self.zygotes else None
        if zygote is None:
            return None
        layers.share(snapshot.layers, home, zygote.disk[:-1])
        return await self._fork_of((key, zygote), config, home, tap, zygote.disk)

    async def _fork_of(
        self,
        found: tuple[str, Zygote],
        config: MachineConfig,
        home: Path,
        tap: int,
        disk: tuple[str, ...],
        *,
        become: Path | None = None,
    ) -> QemuMachine | None:
        """A machine that is a fork; None when the server failed, and then its home is empty again. It is held
        if it is to `become` what that device state is.
        """
        key, zygote = found
        with Start(
            config,
            home,
            zygote.empty or config.overlay,
            zygote.disk,
            jailer=self.jailer,
            user=zygote.user or None,
            state=become,
            files=disk[-1:],
        ).with_nic(tap) as start:
            ahead = Ahead(self._quarters(start), unix.connect(home / AGENT))
            ahead.quarters.make_groups()
            try:
                child = await zygote.fork(
                    f"pandastack-{config.vm_id}",
                    home=start.lodging.home,
                    own=start.fds,
                    file_size_limit=config.disk_limit_bytes,
                    user=start.lodging.user,
                    hold=become is not None,
                )
            except MachineError as error:
                assert self.zygotes is not None  # noqa: S101  # the server is one of them
                self.zygotes.abandon(key, zygote, error.message)
                await carried_through(ahead.undo())
                _empty(home)
                return None
            except BaseException:
                await carried_through(ahead.undo())
                raise
            machine = self._recorded(start, child, "fork", disk=disk, ahead=ahead)
            machine.join_groups(after=GREETED_SECONDS)
            return machine

    def _begin_zygote(
        self, snapshot: SnapshotFiles, config: MachineConfig, home: Path, *, again: bool
    ) -> Beginning:
        """A machine that is restored as any, and that can be told to stand still and be forked; before that
        to go back and begin `again`.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own = (layers.REHEARSAL if again else layers.FIRST,)
        first = Start(config, home, config.overlay, own, jailer=self.jailer, user=0, state=snapshot.state)
        with self._tap(None) as tap, first.with_nic(tap) as start, theirs:
            files = _files(NAME_PLACEHOLDER, start.fds, snapshot.memory, snapshot, own=own)
            numbers = (theirs.fileno(), *start.fds)
            env = {"LD_PRELOAD": str(self._library), CHANNEL: " ".join(map(str, numbers))}
            try:
                child = self._spawned(
                    start,
                    files,
                    restore_command,
                    env={**self.vmm.env, **env},
                    also=(numbers[0], numbers[3]),
                    is_server=True,
                )
            except BaseException:
                ours.close()
                raise
            machine = self._recorded(start, child, "spawn")
            zygote = Zygote(child, ours, empty=home / OVERLAY, is_jailed=self.jailer is not None)
            return Beginning(zygote, machine, functools.partial(_go_back, zygote, machine, snapshot))

    def _spawned(
        self,
        start: Start,
        files: Files,
        command: Callable[[Vmm, MachineConfig, Files], list[str]],
        *,
        env: Mapping[str, str],
        also: tuple[int, ...] = (),
        is_server: bool = False,
    ) -> jail.Child:
        config, cell = start.config, None
        if self.jailer:
            library = self._library if is_server else None
            binds = qemu_jail.binds(self.vmm, config, files, library)
            try:
                limits, number = limits_of(config), number_of(start.home)
                groups = () if is_server else self.jailer.means.groups.make(number, limits)
                cell = self.jailer.cell(
                    start.lodging,
                    binds,
                    groups=groups,
                    is_server=is_server,
                    signals=self.vmm.accel == "kvm",
                )
            except OSError as error:
                raise told(error, f"{self.vmm.binary} cannot be started") from error
        return jail.spawn(
            command(self.vmm, config, files),
            log=start.home / LOG,
            cwd=start.home,
            env=env,
            pass_fds=(files.qmp_fd, files.agent_fd, files.tap_fd, *also),
            file_size_limit=config.disk_limit_bytes,
            cell=cell,
        )

    def _recorded(
        self,
        start: Start,
        child: jail.Child,
        how: str,
        *,
        disk: tuple[str, ...] | None = None,
        own_memory: bool = False,
        ahead: Ahead | None = None,
    ) -> QemuMachine:
        record = Record(
            pid=child.pid,
            started=child.started,
            config=start.config,
            own_memory=own_memory,
            phases_ms=start.phases(how),
            layers=disk or start.disk,
            forked=ahead is not None,
            user=start.lodging.user,
        )
        smallfiles.make(start.home / RECORD, msgspec.json.encode(record, enc_hook=str))
        machinery = self.machinery(start.config)
        quarters = ahead.quarters if ahead else self._quarters(start)
        machine = QemuMachine(start.home, record, child, machinery, self.zygotes, quarters)
        if ahead:
            machine.has_dialed(ahead.connection)
        return machine

    def _quarters(self, start: Start) -> Quarters:
        return Quarters(start.home, start.lodging.user, limits_of(start.config), self._means)


def _files(
    name: str,
    fds: tuple[int, int, int, int],
    memory: Path,
    snapshot: SnapshotFiles | None,
    *,
    own: tuple[str, ...] = (layers.FIRST,),
) -> Files:
    """What a machine of one name has; paths without a folder are in its home, where its process works."""
    return Files(
        name=name,
        memory=memory,
        base_layers=(snapshot.overlay,) if snapshot else (),
        own_layers=own,
        qmp_fd=fds[0],
        agent_fd=fds[1],
        tap_fd=fds[3],
        state=Path(STATE_IN) if snapshot else None,
    )


def _base(snapshot: SnapshotFiles) -> SnapshotFiles:
    """What a snapshot that is no whole one lies over."""
    if snapshot.base is None:
        raise SnapshotRefused("The snapshot is a whole one: it lies over nothing.")
    return snapshot.base


def _disk(snapshot: SnapshotFiles) -> tuple[str, ...]:
    """The layers of a machine that goes on from a snapshot, by the names that they have in its home."""
    return (*(layers.below(number) for number in range(len(snapshot.layers))), layers.FIRST)


async def _go_back(zygote: Zygote, machine: QemuMachine, snapshot: SnapshotFiles) -> None:
    """To where the machine began: of all that it has done its translated code is left."""
    await machine.let_go_of_disk()
    await zygote.go_back(mark(snapshot.memory), STATE_IN)


def _empty(home: Path) -> None:
    """As if nothing had been started in it: another start may follow."""
    for path in home.iterdir():
        path.unlink()


def _is_whole(memory: Path, megabytes: int) -> bool:
    """Whether it can be mapped for a machine of this size."""
    return memory.exists() and memory.stat().st_size == megabytes << 20


def _make_memory(path: Path, megabytes: int) -> None:
    with path.open("xb") as file:
        os.ftruncate(file.fileno(), megabytes << 20)


def _path(kind: type, value: object) -> Path:
    """The only type of a record that JSON does not know."""
    return Path(str(value))


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 2)
