"""The machines of this host: start, stop, pause, adopt. One directory and one process each, idempotent by id.

The directory is the record: it gets its `vm.json` when the machine's restore gate has answered, so whatever
lies there without one was never acknowledged and is removed. There is no database; a start of this program
reads the directories, adopts what answers and reports what died.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from pandastack.errors import (
    Conflict,
    GuestUnreachable,
    InvalidRequest,
    MachineError,
    PandastackError,
    SandboxNotFound,
)
from pandastack.host import unix
from pandastack.host.death import answered, cause_of_death, ends_soon, piece, shorten, tail
from pandastack.host.driver import Driver, Machine
from pandastack.host.guest import GateFacts, GuestLink
from pandastack.host.publish import full_disk_said
from pandastack.host.room import Room
from pandastack.host.shortage import told
from pandastack.host.templates import Prepared, Templates
from pandastack.model.host import VmReport, VmSpec, VmState, VmStats

RECORD = "vm.json"
CONSOLE = "console.log"
VMM_LOG = "vmm.log"
GATE_SECONDS = 30.0
"""How long a restored guest may take to its first answer; a booted one gets BOOT_SECONDS."""
BOOT_SECONDS = 120.0
REGREET_SECONDS = 5.0
"""How long to wait before an agent that does not answer is greeted again."""
TEND_SECONDS = 5.0
"""How often the logs of the machines are looked at."""
DYING_SECONDS = 0.5
"""How long a machine that does not listen may take to have ended."""
FOUND_ENDED = "its process had ended when the server started"
LOG_LIMIT = 1 << 20
LOG_KEPT = 64 << 10
"""Bytes: a guest that floods its console costs the host so much and no more."""
log = structlog.get_logger("host")
_ID_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


class Sources(Struct, frozen=True):
    """Where a host takes time and randomness from."""

    entropy: Callable[[int], bytes]
    wall_ns: Callable[[], int]


class VmRecord(Struct, frozen=True):
    """`vm.json`."""

    spec: VmSpec
    report: VmReport
    workdir: str | None = None
    """Where commands start that name no directory, as the template said when the machine was made."""


class Vm:
    """A machine that this program holds: its process, its agent, its last report."""

    def __init__(self, home: Path, record: VmRecord, machine: Machine, link: GuestLink | None) -> None:
        self.home = home
        self.spec = record.spec
        self.report = record.report
        self.workdir = record.workdir
        self.machine = machine
        self.link = link

    def save(self) -> None:
        """Write the record so that a reader sees the old one or the new one."""
        fresh = self.home / f"{RECORD}.new"
        fresh.write_bytes(msgspec.json.encode(VmRecord(self.spec, self.report, self.workdir)))
        fresh.replace(self.home / RECORD)


class Vms:
    """All machines below one directory. Made by `open_vms`, which adopts and which lets go at the end."""

    def __init__(self, driver: Driver, templates: Templates, home: Path, sources: Sources) -> None:
        self.driver = driver
        self.templates = templates
        self._home = home
        self._sources = sources
        self._vms: dict[str, Vm] = {}
        self._dead: dict[str, VmReport] = {}
        self._starting: dict[str, asyncio.Task[VmReport]] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._listeners: set[asyncio.Queue[VmReport]] = set()
        self._room = Room(home)

    async def start(self, spec: VmSpec) -> VmReport:
        """Restore (or boot) the machine and pass its gate. See `model.host.Host.start` for what is
        guaranteed.

        A second call with the same id joins the first. When the caller is cancelled the start is undone; when
        `stop` comes in between, the caller gets a Conflict.
        """
        _check_id(spec.id)
        if vm := self._vms.get(spec.id):
            return vm.report
        task = self._starting.get(spec.id)
        if task is not None:
            return await asyncio.shield(task)
        task = asyncio.create_task(self._start(spec), name=f"start {spec.id}")
        self._starting[spec.id] = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Conflict(f"Machine {spec.id} was stopped while it started.") from None
            await _undo(task)
            raise
        except OSError as error:
            raise told(error, "The machine could not be started") from error
        finally:
            del self._starting[spec.id]

    async def _start(self, spec: VmSpec) -> VmReport:
        begun = time.perf_counter()
        prepared = await self.templates.prepare(spec.template)
        ready = time.perf_counter()
        async with AsyncExitStack() as stack:
            home = _make_home(self._home / spec.id, stack)
            machine = await self._launch(prepared, spec, home)
            stack.push_async_callback(machine.stop, 0)
            link = await self._enter(machine, spec, prepared, stack)
            report = _report(spec, prepared, machine, begun, ready)
            vm = Vm(home, VmRecord(spec, report, prepared.workdir), machine, link)
            vm.save()
            stack.pop_all()
        self._hold(vm)
        return report

    async def _launch(self, prepared: Prepared, spec: VmSpec, home: Path) -> Machine:
        config = prepared.config(spec.id)
        if prepared.snapshot is None:
            return await self.driver.boot(config, home)
        return await self.driver.restore(prepared.snapshot, config, home)

    async def _enter(
        self, machine: Machine, spec: VmSpec, prepared: Prepared, stack: AsyncExitStack
    ) -> GuestLink:
        """Greet the agent and open its gate, or say why the machine died instead."""
        link = await GuestLink.connect(unix.connect(machine.guest_socket), workdir=prepared.workdir)
        stack.push_async_callback(link.close)
        link.announce(self._sources.entropy(16), self._facts(spec, prepared))
        seconds = BOOT_SECONDS if prepared.snapshot is None else GATE_SECONDS
        begun = time.perf_counter()
        entry = await answered(machine, link, seconds)
        machine.phases_ms["answer"] = _ms(begun, time.perf_counter())
        machine.phases_ms["gate"] = round(entry.spent_us / 1000, 2)
        return link

    def _facts(self, spec: VmSpec, prepared: Prepared) -> GateFacts:
        return GateFacts(
            entropy=self._sources.entropy(64),
            clock_ns=self._sources.wall_ns(),
            hostname=spec.hostname or f"sandbox-{spec.id[:8]}",
            machine_id=self._sources.entropy(16).hex(),
            env={**prepared.env, **spec.env},
        )

    async def stop(self, vm_id: str) -> None:
        """End the machine and remove all of it. Fine when there is none; a start under way is cancelled."""
        _check_id(vm_id)
        if starting := self._starting.get(vm_id):
            await _undo(starting)
        self._dead.pop(vm_id, None)
        vm = self._vms.pop(vm_id, None)
        watcher = self._watchers.pop(vm_id, None)
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait([watcher])
        if vm is not None:
            await self._release(vm)
        await asyncio.to_thread(shutil.rmtree, self._home / vm_id, ignore_errors=True)

    async def pause(self, vm_id: str) -> None:
        """Stop the machine's virtual CPUs; fine when they are stopped."""
        vm = self._find(vm_id)
        self._move(vm, VmState.PAUSED)  # first: the next program must not wait for a paused guest's answer
        try:
            await vm.machine.pause()
        except BaseException:
            self._move(vm, VmState.RUNNING)
            raise

    async def resume(self, vm_id: str) -> None:
        """Let the virtual CPUs run, also those that a full disk has stopped; fine when they do."""
        vm = self._find(vm_id)
        await vm.machine.resume()
        self._move(vm, VmState.RUNNING)

    async def stats(self, vm_id: str) -> VmStats:
        vm = self._find(vm_id)
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
        link = self._find(vm_id).link
        if link is None:
            raise GuestUnreachable(f"The agent of sandbox {vm_id} does not answer at the moment.")
        return link

    async def console(self, vm_id: str, *, tail_bytes: int = 65536) -> bytes:
        _check_id(vm_id)
        if vm_id not in self._vms and vm_id not in self._dead:
            raise SandboxNotFound(f"This host has no machine {vm_id}.")
        return tail(self._home / vm_id / CONSOLE, tail_bytes)

    async def console_at(self, vm_id: str, offset: int) -> tuple[int, bytes]:
        """The console from `offset` on (negative: before its end), at most 64 KiB, and the offset behind
        that.
        """
        _check_id(vm_id)
        if vm_id not in self._vms and vm_id not in self._dead:
            raise SandboxNotFound(f"This host has no machine {vm_id}.")
        return piece(self._home / vm_id / CONSOLE, offset)

    def reports(self) -> list[VmReport]:
        """The living first, then the dead that nobody has stopped yet."""
        return [vm.report for vm in self._vms.values()] + list(self._dead.values())

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
        self._watchers[vm.spec.id] = asyncio.create_task(self._watch(vm), name=f"watch {vm.spec.id}")

    async def _watch(self, vm: Vm) -> None:
        """Owned by this object: ends with the machine, cancelled by `stop` and by `let_go`."""
        status = await self._keep_linked(vm)
        cause = cause_of_death(status, vm.machine.last_words())
        console = tail(vm.home / CONSOLE, 4096).decode(errors="replace")
        report = msgspec.structs.replace(vm.report, state=VmState.DEAD, cause=cause, console=console)
        self._vms.pop(vm.spec.id, None)
        self._watchers.pop(vm.spec.id, None)
        vm.report = report
        with suppress(OSError):  # on a full disk the death is told all the same
            vm.save()
        await self._release(vm)
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
            vm.link = await self._greet_again(vm)
        except (PandastackError, OSError) as error:
            log.warning("vm.unreachable", vm=vm.spec.id, reason=str(error))

    def _bury(self, report: VmReport) -> None:
        self._dead[report.id] = report
        for queue in self._listeners:
            queue.put_nowait(report)

    async def _release(self, vm: Vm) -> None:
        if vm.link is not None:
            await vm.link.close()
        await vm.machine.stop(0)

    def _find(self, vm_id: str) -> Vm:
        vm = self._vms.get(vm_id)
        if vm is None:
            dead = self._dead.get(vm_id)
            if dead is not None:
                raise Conflict(f"Sandbox {vm_id} is dead: {dead.cause}")
            raise SandboxNotFound(f"This host has no machine {vm_id}.")
        return vm

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
        for home in sorted(self._home.iterdir()):
            if home.is_dir():
                await self._adopt(home)

    async def _adopt(self, home: Path) -> None:
        machine = await self.driver.adopt(home)
        try:
            record = msgspec.json.decode((home / RECORD).read_bytes(), type=VmRecord)
        except (FileNotFoundError, msgspec.MsgspecError):
            if machine is not None:
                await machine.stop(0)
            await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
            return
        if machine is None:
            self._bury(_found_dead(home, record))
            return
        vm = Vm(home, record, machine, None)
        try:
            vm.link = await self._greet_again(vm)
        except (PandastackError, OSError):  # the latter: nobody listens there
            self._bury(_found_dead(home, record, await _end_silent(machine)))
            return
        self._hold(vm)

    async def _greet_again(self, vm: Vm) -> GuestLink:
        """A paused guest cannot answer: its HELLO waits in the socket until it is resumed."""
        link = await GuestLink.connect(unix.connect(vm.machine.guest_socket), workdir=vm.workdir)
        link.announce(self._sources.entropy(16))
        if vm.report.state is VmState.RUNNING:
            await answered(vm.machine, link, GATE_SECONDS)
        return link

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
        """Keep the machines' logs short, and let those go on that a full disk had stopped."""
        for vm in list(self._vms.values()):
            for name in (CONSOLE, VMM_LOG):
                shorten(vm.home / name, LOG_LIMIT, LOG_KEPT)
        if self._room.is_back():
            await self._go_on()

    async def _go_on(self) -> None:
        for vm in [vm for vm in self._vms.values() if vm.report.state is VmState.RUNNING]:
            try:
                await vm.machine.resume()
            except MachineError as error:
                log.warning("vm.stands_still", vm=vm.spec.id, reason=error.message)


@asynccontextmanager
async def open_vms(driver: Driver, templates: Templates, home: Path, sources: Sources) -> AsyncIterator[Vms]:
    """The machines below `home`, adopted; at the end they are let go and run on."""
    vms = Vms(driver, templates, home, sources)
    await vms.adopt()
    tending = asyncio.create_task(vms.tend(), name="tend the machines")
    try:
        yield vms
    finally:
        tending.cancel()
        await asyncio.wait([tending])
        await vms.let_go()


async def _undo(task: asyncio.Task[VmReport]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _make_home(home: Path, stack: AsyncExitStack) -> Path:
    """An empty directory that is removed again unless the start succeeds; what an earlier life left goes
    first.
    """
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True, mode=0o700)
    stack.callback(shutil.rmtree, home, ignore_errors=True)
    return home


def _report(spec: VmSpec, prepared: Prepared, machine: Machine, begun: float, ready: float) -> VmReport:
    phases = {"image": _ms(begun, ready), **machine.phases_ms}
    return VmReport(
        id=spec.id,
        template=spec.template,
        state=VmState.RUNNING,
        pid=machine.pid,
        cpu=prepared.template.cpu,
        memory_mb=prepared.template.memory_mb,
        boot_mode="cold" if prepared.snapshot is None else "snapshot",
        boot_ms=_ms(begun, time.perf_counter()),
        phases_ms=phases,
        guest_ip=prepared.guest_ip,
    )


async def _end_silent(machine: Machine) -> str:
    """End a machine that does not greet; says how it has gone. A dying one stops listening before it ends."""
    try:
        await asyncio.wait_for(machine.wait(), DYING_SECONDS)
    except TimeoutError:
        return "its agent did not answer after a restart of the server"
    else:
        return FOUND_ENDED
    finally:
        await machine.stop(0)


def _found_dead(home: Path, record: VmRecord, how: str = FOUND_ENDED) -> VmReport:
    console = tail(home / CONSOLE, 4096).decode(errors="replace")
    return msgspec.structs.replace(
        record.report, state=VmState.DEAD, cause=f"The machine is gone: {how}.", console=console
    )


async def _drain(queue: asyncio.Queue[VmReport]) -> AsyncIterator[VmReport]:
    while True:
        yield await queue.get()


def _check_id(vm_id: str) -> None:
    if not vm_id or len(vm_id) > 64 or not set(vm_id) <= _ID_ALPHABET:
        raise InvalidRequest(
            f"{vm_id!r} is no machine id: lower-case letters, digits and hyphens, at most 64."
        )


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 2)
