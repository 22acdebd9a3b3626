"""A running QEMU: one process, one directory, a monitor that is spoken to only when there is something to
say.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import structlog
from msgspec import structs

from pandastack.errors import MachineError, NotSupported
from pandastack.host import jail, layers, memory, procfs, snapshots, sparse, unix
from pandastack.host.death import tail
from pandastack.host.driver import Drive, Machinery, SnapshotFiles, Stats, Taken
from pandastack.host.groups import limits_of
from pandastack.host.qemu_command import BASE_DISK, CONSOLE, DISK_PATH, MEMORY, OVERLAY
from pandastack.host.qemu_drives import put_in, resized, take_out
from pandastack.host.qemu_orders import (
    FLATTENING,
    flattening,
    on_top,
    opening,
    save_devices,
    standing_still,
    status,
)
from pandastack.host.qemu_record import AGENT, LOG, ORDERS, QMP, RECORD, Record
from pandastack.host.qmp import DEADLINE, Qmp, QmpRefused, monitor
from pandastack.host.quarters import STATE_IN, Quarters
from pandastack.host.record import note
from pandastack.host.zygote import NotNow, TooLate, Zygote, copied, halted, loaded, running
from pandastack.host.zygotes import Zygotes
from pandastack.model.host import SnapshotSpec

log = structlog.get_logger("host")

_WORDS_BYTES = 16384
COPY_TURNS = 10
COPY_PAUSE_SECONDS = 0.01
"""How often a machine is asked to be copied, when it cannot be at the moment, and what it gets between."""
ANSWER_SECONDS = 5.0
FLATTEN_POLL_SECONDS = 0.01
LOAD_POLL_SECONDS = 0.001
"""QEMU tells that it has loaded a state by what it does next; 20 KB take a few milliseconds."""


class QemuMachine:
    """One QEMU process. All verbs may be repeated; after `stop` only `wait` and `last_words` answer."""

    def __init__(
        self,
        home: Path,
        record: Record,
        child: jail.Child,
        machinery: Machinery,
        copies: Zygotes | None = None,
        quarters: Quarters | None = None,
    ) -> None:
        self.home = home
        self.pid = child.pid
        self.guest_socket = home / AGENT
        self.phases_ms = record.phases_ms
        self._record = record
        self._child = child
        self._machinery = machinery
        self._copies = copies
        self._quarters = quarters or Quarters(home, record.user, limits_of(record.config), None)
        self._turn = asyncio.Lock()
        self._disk = asyncio.Lock()
        self._drives = 0
        self._next_layer: str | None = None
        self._dialed: socket.socket | None = None

    def _monitor(self, *, deadline: float = DEADLINE) -> AbstractAsyncContextManager[Qmp]:
        """Its monitor. MachineError when it has ended: another machine may live at its path since."""
        if not self._child.alive():
            raise MachineError(f"The virtual machine's process {self.pid} has ended.")
        return monitor(self.home / QMP, deadline=deadline)

    async def pause(self) -> None:
        """Stop the virtual CPUs; at once, and fine when they are stopped."""
        await self._told_to(halted, "stop")

    async def resume(self) -> None:
        """Let the virtual CPUs run."""
        await self._told_to(running, "cont")

    async def _told_to(self, order: Callable[[Path], Awaitable[None]], command: str) -> None:
        """By an order, which takes 1 ms less than a command of the monitor, where it takes any."""
        async with self._turn:
            if self._record.forked and self._child.alive():
                with suppress(MachineError):  # that of an older program does not know it
                    return await order(self.home / ORDERS)
            async with self._monitor() as qmp:
                await qmp.execute(command)

    async def answers(self) -> bool:
        """Its monitor does, unless somebody has its turn, who has a deadline of his own."""
        if self._turn.locked() or not self._child.alive():
            return True
        try:
            async with self._turn, self._monitor(deadline=ANSWER_SECONDS) as qmp:
                await status(qmp)
        except MachineError:
            return not self._child.alive()
        return True

    def kill(self) -> None:
        """Who waits for its end is told."""
        self._child.signal(signal.SIGKILL)

    async def status(self) -> str:
        """QEMU's word for what the machine does: running, paused, io-error, inmigrate …"""
        async with self._turn, self._monitor() as qmp:
            return await status(qmp)

    async def recover(self) -> None:
        """Find out what an earlier program has done last: a layer that is on top by now is noted.
        MachineError.
        """
        async with self._turn, self._monitor() as qmp:
            top = await qmp.execute("qom-get", {"path": DISK_PATH, "property": "drive"})
        following = layers.after(self._record.layers)
        if top == layers.node(following):
            self._note_layers((*self._record.layers, following))

    async def dial(self) -> socket.socket:
        """A connection to its agent: the one that its start has waited for, once; then new ones."""
        dialed, self._dialed = self._dialed, None
        return dialed or unix.connect(self.guest_socket)

    def has_dialed(self, connection: socket.socket) -> None:
        """It was connected to before it was there."""
        self._dialed = connection

    def join_groups(self, *, after: float = 0) -> None:
        """See `Quarters`. One that is not limited is ended."""
        self._quarters.join_groups(self._child, after=after)

    async def check_posture(self) -> None:
        """See `posture`; one that is in no jail has none. PostureViolation, MachineError."""
        self._quarters.check(self.pid)

    def moved(self, home: Path) -> None:
        """Its home has been renamed."""
        self._quarters.moved(home)
        self.home = home
        self.guest_socket = home / AGENT

    async def snapshot(self, into: Path) -> SnapshotFiles:
        """Write a whole snapshot into the empty directory `into`; the machine stands still and then goes on.

        Only of a machine that was booted: a restored one's memory is private pages over its base.
        NotSupported says so before anything is touched.
        """
        if not self._record.own_memory:
            raise NotSupported(
                "This machine was restored; only a booted one can be written as a whole snapshot."
            )
        files = snapshots.files_in(into)
        async with self._turn, self._monitor(deadline=120.0) as qmp, standing_still(qmp):
            with self._quarters.state_for(files.state) as name:
                await save_devices(qmp, name)
            await asyncio.to_thread(sparse.copy, self.home / MEMORY, files.memory)
            await asyncio.to_thread(sparse.copy, self.home / OVERLAY, files.overlay)
        config = self._record.config
        await snapshots.seal(
            files, self._machinery, config.root_disk.parent.name, config.cpus, config.memory_mb
        )
        return files

    async def snapshot_since(
        self, base: SnapshotFiles | None, into: Path, spec: SnapshotSpec, went_on: Callable[[], None]
    ) -> Taken:
        """Keep private pages, devices and disk layers in `into`. See `driver.Machine`.

        The files are not flushed. NotSupported for a machine that was booted with a memory of its own.
        """
        if base is None or self._record.own_memory:
            raise NotSupported(
                "This machine was booted with a memory of its own, which differs from nothing: "
                "it can be written as a whole."
            )
        if len(self._record.layers) >= layers.MOST:
            await self.flatten()
        async with self._disk:
            copy = not self._record.config.drives  # two processes would have them open
            return await self._snapshot_since(base, into, spec, went_on, copy=copy)

    async def _snapshot_since(
        self,
        base: SnapshotFiles,
        into: Path,
        spec: SnapshotSpec,
        went_on: Callable[[], None],
        *,
        copy: bool = True,
    ) -> Taken:
        top = self._next_layer or await self._open_layer()
        old = self._record.layers
        files = snapshots.differing(into, base, self._record.config.overlay, len(old))
        try:
            taken = None
            if copy and self._record.forked and self._copies:
                taken = await self._copied_soon(files, base, top, spec, went_on)
            taken = taken or await self._written(files, base, top, hold=spec.hold)
        except TooLate as error:
            log.info("vm.not_copied", vm=self._record.config.vm_id, reason=error.message)
            self._note_layers((*old, top))
            return await self._snapshot_since(base, into, spec, went_on, copy=False)
        except BaseException:
            await self._take_back(top)
            raise
        self._note_layers((*old, top))
        layers.share([self.home / each for each in old], into, [each.name for each in files.layers])
        return taken

    async def _written(self, files: SnapshotFiles, base: SnapshotFiles, top: str, *, hold: bool) -> Taken:
        """All of it is read while the machine stands still."""
        async with self._turn, self._monitor(deadline=120.0) as qmp:
            begun = time.perf_counter()
            async with standing_still(qmp, hold=hold):
                stopped = time.perf_counter()
                with self._quarters.state_for(files.state) as name:
                    await save_devices(qmp, name)
                saved = time.perf_counter()
                mark = await asyncio.to_thread(memory.save, self.pid, base.memory, files.memory)
                copied = time.perf_counter()
                layer = {"node": layers.node(self._record.layers[-1]), "overlay": layers.node(top)}
                await qmp.execute("blockdev-snapshot", layer)
                switched = time.perf_counter()
            ended = time.perf_counter()
        marks = (("stop", begun, stopped), ("devices", stopped, saved), ("memory", saved, copied))
        phases = {name: _ms(*span) for name, *span in (*marks, ("disk", copied, switched))}
        return Taken(files, _ms(begun, ended), phases, {files.memory.name: mark})

    async def _copied_soon(
        self,
        files: SnapshotFiles,
        base: SnapshotFiles,
        top: str,
        spec: SnapshotSpec,
        went_on: Callable[[], None],
    ) -> Taken | None:
        """By a copy of the process; None when it cannot be copied for some time, as on a very busy host."""
        for turn in range(COPY_TURNS):
            try:
                return await self._copied(files, base, top, spec, went_on)
            except NotNow as error:
                log.info("vm.not_copied", vm=self._record.config.vm_id, turn=turn, reason=error.message)
                await asyncio.sleep(COPY_PAUSE_SECONDS)
        return None

    async def _copied(
        self,
        files: SnapshotFiles,
        base: SnapshotFiles,
        top: str,
        spec: SnapshotSpec,
        went_on: Callable[[], None],
    ) -> Taken:
        """The machine stands still for as long as it takes to fork its process; the copy is read then."""
        begun = time.perf_counter()
        disk = (*self._record.layers, top)
        name = f"pandastack-{spec.id}"
        copy, pause_ms = await copied(
            self.home / ORDERS,
            disk,
            name,
            once=spec.once,
            hold=spec.hold,
            user=self._record.user,
            means=self._quarters.means,
        )
        if not spec.hold:
            went_on()
        taken = Taken(files, pause_ms, {"copy": _ms(begun, time.perf_counter())})
        try:
            if spec.durable:
                taken = await self._read(copy, taken, base)
        except BaseException:
            await copy.close()
            raise
        assert self._copies is not None  # noqa: S101  # the caller has looked
        on_disk = files.memory.stat().st_size if spec.durable else None
        await self._copies.keep(spec.id, copy, on_disk=on_disk)
        return taken

    async def _read(self, copy: Zygote, taken: Taken, base: SnapshotFiles) -> Taken:
        """What the copy has, written to files while it stands still."""
        files, begun = taken.files, time.perf_counter()
        with self._quarters.state_for(files.state) as name:
            await copy.save_devices(name)
        saved = time.perf_counter()
        mark = await asyncio.to_thread(memory.save, copy.pid, base.memory, files.memory)
        phases = {"devices": _ms(begun, saved), "memory": _ms(saved, time.perf_counter())}
        return structs.replace(taken, phases_ms=taken.phases_ms | phases, marks={files.memory.name: mark})

    async def load(self, snapshot: SnapshotFiles, base: SnapshotFiles) -> None:
        """Become what `snapshot` holds: a machine that waits for its state and whose memory is `base`'s. It
        runs when this returns. MachineError, SnapshotRefused.
        """
        self._dialed = unix.connect(self.guest_socket)  # QEMU goes on only when its port is open
        begun = time.perf_counter()
        await self.attach(self._record.config.drives)
        async with self._turn, self._monitor() as qmp:
            await status(qmp)  # who answers has mapped its memory
            ready = time.perf_counter()
            await asyncio.to_thread(memory.load, self.pid, base.memory, snapshot.memory)
            loaded = time.perf_counter()
            await qmp.execute("migrate-incoming", {"uri": f"file:{STATE_IN}"})
            while (state := await status(qmp)) == "inmigrate":  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(LOAD_POLL_SECONDS)
            if state == "paused":
                await qmp.execute("cont")
        self.phases_ms |= {"start": _ms(begun, ready), "memory": _ms(ready, loaded)}
        self.phases_ms["devices"] = _ms(loaded, time.perf_counter())

    async def become(self, snapshot: SnapshotFiles, base: SnapshotFiles) -> None:
        """As `load`, of a machine that is a fork of its base and is held: what was translated stays."""
        begun = time.perf_counter()
        async with self._turn, self._monitor() as qmp:
            await self._change_disk(qmp)
        await self.attach(self._record.config.drives)
        linked = time.perf_counter()
        await loaded(self.home / ORDERS, memory.mark(base.memory), snapshot.memory, STATE_IN)
        self.phases_ms |= {"disk": _ms(begun, linked), "load": _ms(linked, time.perf_counter())}

    async def attach(self, drives: Sequence[Drive]) -> None:
        """Put drives in; fine when they are in."""
        async with self._turn:
            for number, drive in enumerate(drives[self._drives :], start=self._drives):
                await put_in(self._quarters, self.home / QMP, number, drive)
                self._drives += 1

    async def resize(self, number: int, size_bytes: int) -> None:
        """Tell the guest of a drive's new size."""
        async with self._turn, self._monitor() as qmp:
            await qmp.execute(*resized(number, size_bytes))

    async def detach(self) -> None:
        """Take them out."""
        async with self._turn, self._monitor() as qmp:
            for number in range(self._drives):
                await take_out(qmp, number)
        self._drives = 0

    async def let_go_of_disk(self) -> None:
        """Stand still with the disk of its base, whatever it has written; for one whose memory goes too."""
        async with self._turn, self._monitor() as qmp:
            await qmp.execute("stop")
            sparse.copy(self._record.config.overlay, self.home / layers.FIRST)
            opened = opening(layers.FIRST, backing=BASE_DISK)
            await qmp.execute_all(opened, *on_top(layers.FIRST, instead=layers.REHEARSAL))
        (self.home / layers.REHEARSAL).unlink()

    async def _change_disk(self, qmp: Qmp) -> None:
        """The disk of a fork of its base gets the layers that its home has; what it had for a top goes."""
        below, opened = BASE_DISK, []
        *lower, top = self._record.layers
        for file in lower:
            opened.append(opening(file, backing=below, read_only=True))
            below = layers.node(file)
        opened.append(opening(top, backing=below))
        await qmp.execute_all(*opened, *on_top(top, instead=layers.FIRST))
        (self.home / layers.FIRST).unlink()

    async def prepare(self) -> None:
        """Open the layer that the next snapshot puts on top; fine when that has been done."""
        async with self._disk:
            if self._next_layer is None and not self._record.own_memory:
                await self._open_layer()

    async def _open_layer(self) -> str:
        """An empty disk layer beside the others; one that an earlier program has left there goes first."""
        name = layers.after(self._record.layers)
        path = self.home / name
        path.unlink(missing_ok=True)
        sparse.copy(self._record.config.overlay, path)
        self._quarters.give(name)
        async with self._turn, self._monitor() as qmp:
            try:
                await qmp.execute_all(opening(name))
            except QmpRefused:
                await qmp.execute_all(("blockdev-del", {"node-name": layers.node(name)}), opening(name))
        self._next_layer = name
        return name

    async def _take_back(self, name: str) -> None:
        """After a snapshot that failed: the layer that was for it goes, unless it is on top already."""
        self._next_layer = None
        try:
            async with self._turn, self._monitor() as qmp:
                await qmp.execute("blockdev-del", {"node-name": layers.node(name)})
            (self.home / name).unlink(missing_ok=True)
        except QmpRefused:
            self._note_layers((*self._record.layers, name))
        except MachineError:
            return  # it has ended

    def _note_layers(self, own: tuple[str, ...]) -> None:
        self._next_layer = None
        self._record = structs.replace(self._record, layers=own)
        note(self.home / RECORD, self._record)
        self._quarters.take_back(*own[:-1])

    async def tidy(self) -> None:
        """Flatten the disk when it has more layers than are good for it."""
        if len(self._record.layers) > layers.COMFORTABLE:
            await self.flatten()

    async def flatten(self) -> None:
        """Bring what all layers hold into the top one, and let go of the others; the guest runs on.

        Snapshots wait for it. MachineError when it failed, and then the disk is as it was.
        """
        async with self._disk:
            *lower, top = self._record.layers
            if not lower:
                return
            order = {"job-id": FLATTENING, "device": layers.node(top), "base-node": BASE_DISK}
            async with self._turn, self._monitor() as qmp:
                if not await flattening(qmp):  # an earlier program may have begun it
                    await qmp.execute("block-stream", {**order, "auto-dismiss": False})
            await self._flattened()
            async with self._turn, self._monitor() as qmp:
                nodes = await qmp.execute("query-named-block-nodes", {"flat": True})
                there = {node["node-name"] for node in nodes}
                for name in (layers.node(file) for file in reversed(lower)):
                    if name in there:
                        await qmp.execute("blockdev-del", {"node-name": name})
            self._note_layers((top,))
            for file in lower:
                (self.home / file).unlink(missing_ok=True)

    async def _flattened(self) -> None:
        """Wait for the end of the job; QEMU is asked now and then, and can be asked other things between."""
        while True:
            async with self._turn, self._monitor() as qmp:
                (job,) = await flattening(qmp)
                if job["status"] == "concluded":
                    await qmp.execute("job-dismiss", {"id": FLATTENING})
                    break
            await asyncio.sleep(FLATTEN_POLL_SECONDS)
        if "error" in job:
            raise MachineError(f"The disk's layers could not be made one: {job['error']}")

    async def stats(self) -> Stats:
        """MachineError when the process has ended."""
        return procfs.stats(self.pid)

    async def stop(self, grace: float = 5.0) -> None:
        """End the process. A sandbox is disposable and its disk dies with it, so there is nothing to wait
        for.
        """
        self._hang_up()
        await self._quarters.joined()
        await self._child.end(0)
        self._child.close()
        await self._quarters.leave()

    async def wait(self) -> int:
        return await self._child.wait()

    def forget(self) -> None:
        """Let go of the machine, which runs on."""
        self._hang_up()
        self._child.close()

    def _hang_up(self) -> None:
        if self._dialed is not None:
            self._dialed.close()
            self._dialed = None

    def last_words(self) -> str:
        """The end of QEMU's log, then of the guest's console."""
        parts = [
            tail(self.home / name, _WORDS_BYTES).decode(errors="replace").strip() for name in (LOG, CONSOLE)
        ]
        return "\n".join(part for part in parts if part)


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 2)
