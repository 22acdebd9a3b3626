"""A machine that this host holds, and the record of it in its home."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from msgspec import Struct

from pandastack.errors import InvalidRequest
from pandastack.host.death import FOUND_ENDED, tail
from pandastack.host.driver import Machine, Machinery
from pandastack.host.guest import Entry, GateFacts, GuestLink
from pandastack.host.network.slots import Slots
from pandastack.host.record import note
from pandastack.host.templates import Prepared
from pandastack.host.trust import environment
from pandastack.host.volumes import Volumes
from pandastack.model.egress import BoundSecret
from pandastack.model.host import VmReport, VmSpec, VmState
from pandastack.model.restore import RestoreProof

RECORD = "vm.json"
CONSOLE = "console.log"
_ID_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


class Sources(Struct, frozen=True):
    """Where a host takes time and randomness from."""

    entropy: Callable[[int], bytes]
    wall_ns: Callable[[], int]


class Supplies(Struct, frozen=True):
    """What a host lends its machines: networks, if it has any, and volumes."""

    volumes: Volumes
    network: Slots | None = None

    def take_back(self, vm_id: str, slot: int | None) -> None:
        """The machine has ended."""
        self.volumes.give_back(vm_id)
        if self.network is not None and slot is not None:
            self.network.give_back(slot)


class VmRecord(Struct, frozen=True):
    """`vm.json`."""

    spec: VmSpec
    report: VmReport
    prepared: Prepared | None = None
    """What it was started from; None of a machine that an older program has started."""
    slot: int | None = None
    """The number of its network, when it has one."""
    bound: bool = False
    """Whether secrets are put in on its way out; they themselves are never written here."""

    @property
    def workdir(self) -> str | None:
        """Where commands start that name no directory."""
        return self.prepared.workdir if self.prepared else None

    @property
    def user(self) -> str | None:
        """As whom commands run that name nobody."""
        return self.prepared.user if self.prepared else None


class Vm:
    """A machine that this program holds: its process, its agent, its last report."""

    def __init__(
        self,
        home: Path,
        record: VmRecord,
        machine: Machine,
        link: GuestLink | None,
        supplies: Supplies | None = None,
    ) -> None:
        self.home = home
        self.spec = record.spec
        self.report = record.report
        self.prepared = record.prepared
        self.workdir = record.workdir
        self.user = record.user
        self.slot = record.slot
        self.bound = record.bound
        self.secrets: tuple[BoundSecret, ...] | None = None if record.bound else ()
        """What is put in on its way out; None when nobody has told this program yet."""
        self.trusts = False
        """Whether it is known to have the certificate of this host's authority."""
        self.machine = machine
        self.link = link
        self._supplies = supplies
        self.verdict = ""
        """Why it was ended from here, when it was."""
        self.still = False
        """Its guest was told to stand still for a snapshot, and not yet to go on."""

    def save(self) -> None:
        """Write the record so that a reader sees the old one or the new one."""
        note(self.home / RECORD, VmRecord(self.spec, self.report, self.prepared, self.slot, self.bound))

    def take_secrets(self, secrets: tuple[BoundSecret, ...]) -> None:
        """From now on these are put in; commands that start have their placeholders."""
        self.secrets, self.bound = secrets, bool(secrets)
        self.speak(self.link)

    def speak(self, link: GuestLink | None) -> None:
        """Have this connection to its agent from now on."""
        self.link = link
        if link is not None:
            link.defaults = environment(self.secrets or ())

    def moved(self, home: Path) -> None:
        """Its home has been renamed."""
        self.home = home
        self.machine.moved(home)

    async def release(self) -> None:
        """End the machine and give back what it was lent; its home stays."""
        try:
            if self.link is not None:
                await self.link.close()
        finally:
            try:
                await self.machine.stop(0)
            finally:
                if self._supplies is not None:
                    self._supplies.take_back(self.spec.id, self.slot)


def make_home(home: Path, stack: AsyncExitStack) -> Path:
    """An empty directory that is removed again unless the start succeeds; what an earlier life left goes
    first.
    """
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True, mode=0o700)
    stack.callback(shutil.rmtree, home, ignore_errors=True)
    return home


def report_of(
    spec: VmSpec,
    prepared: Prepared,
    machine: Machine,
    proof: RestoreProof | None,
    moments: tuple[float, float],
    address: str | None,
) -> VmReport:
    """What the host tells of a machine that has just passed its gate. `moments`: its start began, and its
    template was ready.
    """
    begun, ready = moments
    phases = {"image": ms(begun, ready), **machine.phases_ms}
    return VmReport(
        id=spec.id,
        template=prepared.template.name,
        state=VmState.RUNNING,
        pid=machine.pid,
        cpu=prepared.template.cpu,
        memory_mb=prepared.template.memory_mb,
        boot_mode="cold" if prepared.snapshot is None or spec.cold else "snapshot",
        boot_ms=ms(begun, time.perf_counter()),
        phases_ms=phases,
        guest_ip=address or prepared.guest_ip,
        snapshot=spec.snapshot,
        proof=proof,
    )


def proof_of(spec: VmSpec, facts: GateFacts, entry: Entry, machinery: Machinery) -> RestoreProof | None:
    """What the gate has renewed; None when there was nothing to pass."""
    passed = entry.proof
    if passed is None:
        return None
    return RestoreProof(
        origin=spec.snapshot or "template",
        entropy_bytes=passed.entropy_bytes,
        boot_id=passed.boot_id,
        machine_id=facts.machine_id,
        hostname=facts.hostname,
        clock_step_ms=round(passed.clock_step_us / 1000, 3),
        hooks_run=passed.hooks_run,
        hooks_failed=list(passed.hooks_failed),
        gate_ms=round(passed.spent_us / 1000, 3),
        driver=machinery.driver,
        driver_version=machinery.version,
        accel=machinery.accel,
        cpu=machinery.host_cpu,
    )


def found_dead(home: Path, record: VmRecord, how: str = FOUND_ENDED) -> VmReport:
    """The report of a machine that was there before and is not any more."""
    console = tail(home / CONSOLE, 4096).decode(errors="replace")
    return msgspec.structs.replace(
        record.report, state=VmState.DEAD, cause=f"The machine is gone: {how}.", console=console
    )


def check_id(name: str) -> None:
    """InvalidRequest for what is no id of a machine or snapshot: it becomes a directory's name."""
    if not name or len(name) > 64 or not set(name) <= _ID_ALPHABET:
        raise InvalidRequest(f"{name!r} is no id: lower-case letters, digits and hyphens, at most 64.")


def ms(start: float, end: float) -> float:
    """Milliseconds between two moments in seconds."""
    return round((end - start) * 1000, 2)
