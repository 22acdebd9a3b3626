"""The machines of this host: start, stop, pause, adopt. One directory and one process each, idempotent by id.

The directory is the record: it gets its `vm.json` when the machine's restore gate has answered, so whatever
lies there without one was never acknowledged and is removed. There is no database; a start of this program
reads the directories, adopts what answers and reports what died.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from pandastack.carrying import beside, carried_through, undone
from pandastack.errors import (
    Conflict,
    GuestUnreachable,
    MachineError,
    NoSpace,
    PandastackError,
    SandboxNotFound,
)
from pandastack.host.attachments import unmount_all
from pandastack.host.birth import Birth
from pandastack.host.death import cause_of_death, end_silent, ends_soon, piece, tail
from pandastack.host.driver import Driver
from pandastack.host.guest import GuestLink
from pandastack.host.publish import full_disk_said
from pandastack.host.quiet import quiet, set_going
from pandastack.host.record import read_record
from pandastack.host.room import Room
from pandastack.host.scrub import Scrub
from pandastack.host.shortage import told
from pandastack.host.spares import FIRST_REST_SECONDS, REST_SECONDS, Spares
from pandastack.host.templates import Prepared, Templates
from pandastack.host.vault import Vault
from pandastack.host.vm import CONSOLE, RECORD, Sources, Supplies, Vm, VmRecord, check_id, found_dead
from pandastack.host.watch import Watch
from pandastack.model.host import SnapshotReport, SnapshotSpec, VmReport, VmSpec, VmState, VmStats

NEXT = ".next"
"""Behind the name of a home whose machine is about to take another's place."""
REGREET_SECONDS = 5.0
"""How long to wait before an agent that does not answer is greeted again."""
TEND_SECONDS = 5.0
"""How often the machines are looked after."""
PATIENCE_SECONDS = 30.0
"""A machine whose process has not answered for so long is ended."""
log = structlog.get_logger("host")


class Vms:
    """All machines below one directory. Made by `open_vms`, which adopts and which lets go at the end."""

    def __init__(
        self,
        driver: Driver,
        templates: Templates,
        vault: Vault,
        home: Path,
        sources: Sources,
        supplies: Supplies,
        *,
        patience: float | None = PATIENCE_SECONDS,
    ) -> None:
        self.driver = driver
        self.templates = templates
        self.vault = vault
        self._home = home
        self._supplies = supplies
        self._network = supplies.network
        self._birth = Birth(driver, templates, vault, sources, supplies)
        self._vms: dict[str, Vm] = {}
        self._dead: dict[str, VmReport] = {}
        self._starting: dict[str, asyncio.Task[VmReport]] = {}
        self._keeping: dict[str, asyncio.Task[SnapshotReport]] = {}
        self._resting: set[str] = set()
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._listeners: set[asyncio.Queue[VmReport]] = set()
        self._room = Room(home)
        self.spares = Spares(self._vms.get)
        self.watch = Watch(lambda: list(self._vms.values()), patience=patience)

    async def start(self, spec: VmSpec) -> VmReport:
        """Restore (or boot) the machine and pass its gate. See `model.host.Host.start` for what is
        guaranteed.

        A second call with the same id joins the first. When the caller is cancelled the start is undone; when
        `stop` comes in between, the caller gets a Conflict.
        """
        check_id(spec.id)
        if vm := self._vms.get(spec.id):
            return vm.report
        return await self._begun(spec, self._start)

    async def replace(self, spec: VmSpec) -> VmReport:
        """Start another machine in place of the one with this id, which ends once the new one is there.

        The old one runs on when that fails, and when the caller is cancelled before.
        """
        check_id(spec.id)
        self.find(spec.id)
        return await self._begun(spec, self._replace)

    async def _begun(
        self, spec: VmSpec, start: Callable[[VmSpec], Coroutine[None, None, VmReport]]
    ) -> VmReport:
        """The outcome of `start`, or of the one that is under way for the same id."""
        task = self._starting.get(spec.id)
        if task is not None:
            return await asyncio.shield(task)
        task = asyncio.create_task(start(spec), name=f"start {spec.id}")
        self._starting[spec.id] = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Conflict(f"Machine {spec.id} was stopped while it started.") from None
            await undone(task)
            raise
        except OSError as error:
            raise told(error, "The machine could not be started") from error
        finally:
            del self._starting[spec.id]

    async def _start(self, spec: VmSpec) -> VmReport:
        vm = await self._birth.made(spec, self._home / spec.id)
        self._hold(vm)
        return vm.report

    async def _replace(self, spec: VmSpec) -> VmReport:
        vm = await self._birth.made(spec, self._home / (spec.id + NEXT))
        await carried_through(self._swap(vm))  # there is no way back
        return vm.report

    async def _swap(self, vm: Vm) -> None:
        """The new machine takes the place of the old one, which ends."""
        await self._unwatch(vm.spec.id)
        old = self._vms.pop(vm.spec.id, None)
        if old is not None:
            await old.release()
        home = self._home / vm.spec.id
        await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
        vm.home.rename(home)
        vm.moved(home)
        self._dead.pop(vm.spec.id, None)
        self._hold(vm)

    async def stop(self, vm_id: str) -> None:
        """End the machine and remove all of it. Fine when there is none; a start under way is cancelled."""
        check_id(vm_id)
        await carried_through(self._stop(vm_id))

    async def _stop(self, vm_id: str) -> None:
        if starting := self._starting.get(vm_id):
            await undone(starting)
        self._dead.pop(vm_id, None)
        vm = self._vms.pop(vm_id, None)
        await self._unwatch(vm_id)
        if vm is not None:
            await unmount_all(vm)
            await vm.release()
        await asyncio.to_thread(shutil.rmtree, self._home / vm_id, ignore_errors=True)

    async def pause(self, vm_id: str) -> None:
        """Stop the machine's virtual CPUs; fine when they are stopped."""
        vm = self.find(vm_id)
        self._move(vm, VmState.PAUSED)  # first: the next program must not wait for a paused guest's answer
        try:
            await vm.machine.pause()
        except BaseException:
            self._move(vm, VmState.RUNNING)
            raise

    async def resume(self, vm_id: str) -> None:
        """Let the virtual CPUs run, also those that a full disk has stopped; fine when they do."""
        vm = self.find(vm_id)
        await vm.machine.resume()
        self._move(vm, VmState.RUNNING)
        set_going(vm)
        if vm.link is not None:
            await self._birth.confide(vm, vm.link)

    async def snapshot(self, spec: SnapshotSpec) -> SnapshotReport:
        """Keep the machine as it is now. See `model.host.Host.snapshot` for what is guaranteed.

        A second call with the same id joins the first. When the caller is cancelled it is undone. Errors:
        Conflict when it is dropped meanwhile.
        """
        check_id(spec.id)
        if known := self.vault.find(spec.id):
            return known
        task = self._keeping.get(spec.id)
        if task is not None:
            return await asyncio.shield(task)
        vm = self.find(spec.vm)
        ran = vm.report.state is VmState.RUNNING
        task = asyncio.create_task(self._keep(spec, vm), name=f"snapshot {spec.id}")
        self._keeping[spec.id] = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Conflict(f"Snapshot {spec.id} was deleted while it was being taken.") from None
            await undone(task)
            if self.vault.find(spec.id):
                await self.vault.drop(spec.id)  # nobody heard of it
                if spec.hold and ran:
                    await self.resume(spec.vm)
            raise
        except NoSpace:
            await self._go_on()  # those that wrote while it filled the disk; there is room again
            raise
        except OSError as error:
            raise told(error, "The snapshot could not be taken") from error
        finally:
            del self._keeping[spec.id]

    async def _keep(self, spec: SnapshotSpec, vm: Vm) -> SnapshotReport:
        self._resting.add(spec.vm)
        try:
            report = await self.vault.keep(spec, vm, quiet(vm, spec))
            if spec.hold:
                self._move(vm, VmState.PAUSED)
                await self._supplies.volumes.flush(vm.spec.volumes)  # its memory goes on from them
        finally:
            self._resting.discard(spec.vm)
        self.spares.later(spec.vm, REST_SECONDS)
        return report

    async def drop_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; fine when there is none. One that is being taken is not taken."""
        check_id(snapshot_id)
        if keeping := self._keeping.get(snapshot_id):
            await undone(keeping)
        await self.vault.drop(snapshot_id)

    async def stats(self, vm_id: str) -> VmStats:
        vm = self.find(vm_id)
        counters = await vm.machine.stats()
        return VmStats(
            pid=vm.machine.pid,
            uptime_seconds=counters.uptime_seconds,
            cpu_seconds=counters.cpu_seconds,
            rss_bytes=counters.rss_bytes,
            vsz_bytes=counters.vsz_bytes,
            private_dirty_bytes=counters.private_dirty_bytes,
            threads=counters.threads,
        )

    def guest(self, vm_id: str) -> GuestLink:
        """The machine's agent. GuestUnreachable while a lost connection has not been made again."""
        link = self.find(vm_id).link
        if link is None:
            raise GuestUnreachable(f"The agent of sandbox {vm_id} does not answer at the moment.")
        return link

    async def console(self, vm_id: str, *, tail_bytes: int = 65536) -> bytes:
        return tail(self._home_of(vm_id) / CONSOLE, tail_bytes)

    async def console_at(self, vm_id: str, offset: int) -> tuple[int, bytes]:
        """The console from `offset` on (negative: before its end), at most 64 KiB, and the offset behind
        that.
        """
        return piece(self._home_of(vm_id) / CONSOLE, offset)

    def reports(self) -> list[VmReport]:
        """The living first, then the dead that nobody has stopped yet."""
        return [vm.report for vm in self._vms.values()] + list(self._dead.values())

    def origins(self) -> list[Prepared]:
        """What the machines were started from."""
        return [vm.prepared for vm in self._vms.values() if vm.prepared]

    @asynccontextmanager
    async def deaths(self) -> AsyncIterator[AsyncIterator[VmReport]]:
        queue: asyncio.Queue[VmReport] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield _drain(queue)
        finally:
            self._listeners.discard(queue)

    # -- life and death

    def _hold(self, vm: Vm) -> None:
        self._vms[vm.spec.id] = vm
        self.spares.later(vm.spec.id, FIRST_REST_SECONDS)
        self._watchers[vm.spec.id] = asyncio.create_task(self._watch(vm), name=f"watch {vm.spec.id}")

    async def _unwatch(self, vm_id: str) -> None:
        watcher = self._watchers.pop(vm_id, None)
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait([watcher])

    async def _watch(self, vm: Vm) -> None:
        """Owned by this object: ends with the machine, cancelled by `stop` and by `let_go`."""
        status = await self._keep_linked(vm)
        cause = vm.verdict or cause_of_death(status, vm.machine.last_words())
        console = tail(vm.home / CONSOLE, 4096).decode(errors="replace")
        report = msgspec.structs.replace(vm.report, state=VmState.DEAD, cause=cause, console=console)
        vm.report = report
        with suppress(OSError):  # on a full disk the death is told all the same
            vm.save()
        await vm.release()  # who stops it meanwhile releases it too; it is among the living or the dead
        self._vms.pop(vm.spec.id, None)
        self._watchers.pop(vm.spec.id, None)
        self._bury(report)

    async def _keep_linked(self, vm: Vm) -> int:
        """Greet the agent again whenever its connection is lost; returns the exit status of the machine."""
        ended = asyncio.ensure_future(vm.machine.wait())
        try:
            while not ended.done():
                lost = asyncio.ensure_future(
                    vm.link.wait_lost() if vm.link else asyncio.sleep(REGREET_SECONDS)
                )
                await asyncio.wait((ended, lost), return_when=asyncio.FIRST_COMPLETED)
                lost.cancel()
                if not await ends_soon(ended):
                    await self._relink(vm)
            return ended.result()
        finally:
            ended.cancel()

    async def _relink(self, vm: Vm) -> None:
        if vm.link is not None:
            await vm.link.close()
            vm.link = None
        try:
            vm.speak(await self._birth.greet_again(vm))
        except (PandastackError, OSError) as error:
            log.warning("vm.unreachable", vm=vm.spec.id, reason=str(error))

    def _bury(self, report: VmReport) -> None:
        self._dead[report.id] = report
        for queue in self._listeners:
            queue.put_nowait(report)

    def find(self, vm_id: str) -> Vm:
        """A machine that lives. SandboxNotFound, Conflict when it has died."""
        vm = self._vms.get(vm_id)
        if vm is None:
            dead = self._dead.get(vm_id)
            if dead is not None:
                raise Conflict(f"Sandbox {vm_id} is dead: {dead.cause}")
            raise SandboxNotFound(f"This host has no machine {vm_id}.")
        return vm

    def _home_of(self, vm_id: str) -> Path:
        check_id(vm_id)
        if vm_id not in self._vms and vm_id not in self._dead:
            raise SandboxNotFound(f"This host has no machine {vm_id}.")
        return self._home / vm_id

    def _move(self, vm: Vm, state: VmState) -> None:
        """Note the state; NoSpace when it cannot be, and then it is as before."""
        before = vm.report
        vm.report = msgspec.structs.replace(before, state=state)
        try:
            with full_disk_said():
                vm.save()
        except BaseException:
            vm.report = before
            raise

    # -- start and end of this program

    async def adopt(self) -> None:
        """Take over what an earlier program left: hold what answers, record what died, remove what was half
        made.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        for following in sorted(self._home.glob(f"*{NEXT}")):
            home = following.with_name(following.name.removesuffix(NEXT))
            if (following / RECORD).exists() and not await self._lives(home):  # that one was ended for it
                await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
                following.rename(home)
        for home in sorted(self._home.iterdir()):
            if home.is_dir():
                await self._adopt(home)
        if self._network is not None:
            await self._network.tidy()

    async def _lives(self, home: Path) -> bool:
        """Whether the machine of a home runs."""
        if (machine := await self.driver.adopt(home)) is not None:
            machine.forget()
        return machine is not None

    async def _adopt(self, home: Path) -> None:
        machine = await self.driver.adopt(home)
        record = read_record(home / RECORD, VmRecord)
        if record is None or home.name.endswith(NEXT):
            if machine is not None:
                await machine.stop(0)
            await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
            return
        if machine is None:
            self._bury(found_dead(home, record))
            return
        if self._network is not None and record.slot is not None:
            await self._network.adopt(record.slot, record.spec.egress, bound=record.bound)
        self._supplies.volumes.adopt(record.spec.id, record.spec.volumes)
        vm = Vm(home, record, machine, None, self._supplies)
        try:
            if vm.report.state is VmState.RUNNING:
                with suppress(MachineError):  # it may stand still for a snapshot that came to nothing
                    await machine.resume()
            vm.speak(await self._birth.greet_again(vm))
        except OSError:  # nobody listens there
            self._bury(found_dead(home, record, await end_silent(machine)))
            await vm.release()
            return
        except PandastackError as error:
            log.warning("vm.unreachable", vm=home.name, reason=error.message)
        self._hold(vm)

    async def let_go(self) -> None:
        """Forget all machines, which run on."""
        for watcher in self._watchers.values():
            watcher.cancel()
        if self._watchers:
            await asyncio.wait(self._watchers.values())
        self._watchers.clear()
        for vm in self._vms.values():
            if vm.link is not None:
                await vm.link.close()
            vm.machine.forget()
        self._vms.clear()

    async def end_all(self) -> None:
        """Stop every machine of this directory."""
        for vm_id in [*self._vms, *self._dead]:
            await self.stop(vm_id)

    async def tend(self) -> None:
        """`look_after` the machines for ever."""
        while True:
            await self.look_after()
            await asyncio.sleep(TEND_SECONDS)

    async def look_after(self) -> None:
        """Have disks tidied, let machines go on that a full disk had stopped, and have what no snapshot needs
        any more removed.
        """
        for vm in list(self._vms.values()):
            if self._vms.get(vm.spec.id) is vm:  # the last one may have taken its time
                await _tidy(vm)
        if self._room.is_back():
            await self._go_on()
        if not self._starting and not self._keeping:
            await self.vault.tidy(self.origins())

    async def _go_on(self) -> None:
        """Not those of which a snapshot is being taken: they may have to stand still behind it."""
        running = [vm for vm in self._vms.values() if vm.report.state is VmState.RUNNING]
        for vm in [vm for vm in running if vm.spec.id not in self._resting]:
            try:
                await vm.machine.resume()
            except MachineError as error:
                log.warning("vm.stands_still", vm=vm.spec.id, reason=error.message)


@asynccontextmanager
async def open_vms(
    driver: Driver, templates: Templates, state: Path, sources: Sources, supplies: Supplies
) -> AsyncIterator[Vms]:
    """The machines and snapshots below `state`, adopted; at the end they are let go and run on."""
    vault = Vault(driver, state)
    vms = Vms(driver, templates, vault, state / "v", sources, supplies)
    await asyncio.to_thread(vault.open)
    await vms.adopt()
    scrub = Scrub(vault, sources.wall_ns)
    try:
        async with beside(vms.tend(), vms.watch.curb(), vms.watch.guard(), vms.spares.go_on(), scrub.go_on()):
            yield vms
    finally:
        await vms.let_go()


async def _tidy(vm: Vm) -> None:
    try:
        await vm.machine.tidy()
    except (PandastackError, OSError) as error:
        log.info("vm.untidy", vm=vm.spec.id, reason=str(error))


async def _drain(queue: asyncio.Queue[VmReport]) -> AsyncIterator[VmReport]:
    while True:
        yield await queue.get()
