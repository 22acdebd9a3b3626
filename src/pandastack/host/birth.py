"""How a machine comes to life: restored or booted in a home of its own, greeted, through its gate."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
from msgspec import structs

from pandastack.errors import BootFailed, PandastackError, SnapshotRefused
from pandastack.host import trust
from pandastack.host.attachments import mount_all, with_drives
from pandastack.host.death import answered
from pandastack.host.driver import Driver, Machine
from pandastack.host.guest import GateFacts, GuestLink
from pandastack.host.network.slot import Slot
from pandastack.host.network.slots import Slots
from pandastack.host.templates import Prepared, Templates
from pandastack.host.vault import Vault
from pandastack.host.vm import Sources, Supplies, Vm, VmRecord, make_home, ms, proof_of, report_of
from pandastack.model.host import VmSpec, VmState
from pandastack.model.restore import RestoreProof

log = structlog.get_logger("host")

GATE_SECONDS = 30.0
"""How long a restored guest may take to its first answer; a booted one gets BOOT_SECONDS."""
BOOT_SECONDS = 120.0


class Birth:
    """Makes machines from templates and from snapshots."""

    def __init__(
        self, driver: Driver, templates: Templates, vault: Vault, sources: Sources, supplies: Supplies
    ) -> None:
        self._driver = driver
        self._supplies = supplies
        self._network = supplies.network
        self._templates = templates
        self._vault = vault
        self._sources = sources

    async def made(self, spec: VmSpec, path: Path) -> Vm:
        """As `_made`; a machine that goes on from a snapshot and does not come up is tried once more: what it
        goes on from is whole, and its process may have met with an accident.
        """
        with self._templates.wanted(spec.template):
            return await self._made_at_last(spec, path)

    async def _made_at_last(self, spec: VmSpec, path: Path) -> Vm:
        try:
            return await self._made(spec, path)
        except BootFailed as error:
            if spec.snapshot is None:
                raise
            words = str(error.details.get("console", ""))[-400:]
            log.warning("vm.tried_again", vm=spec.id, reason=error.message, console=words)
            if (kept := self._vault.find(spec.snapshot)) and kept.durable:
                await self._driver.release(spec.snapshot)  # from its files then, not from a copy of a process
            try:
                return await self._made(spec, path)
            except SnapshotRefused:  # it was for one start alone
                raise error from None

    async def _made(self, spec: VmSpec, path: Path) -> Vm:
        """A machine in the home `path` that has passed its gate; on any error nothing of it is left."""
        begun = time.perf_counter()
        prepared = await self._prepared(spec)
        ready = time.perf_counter()
        async with AsyncExitStack() as stack:
            home = make_home(path, stack)
            slot = await self._slot(spec, stack)
            drives = self._supplies.volumes.lend(spec.id, spec.volumes)
            stack.callback(self._supplies.volumes.give_back, spec.id)
            prepared = with_drives(prepared, drives)
            machine = await self._launch(prepared, spec, home, slot)
            stack.push_async_callback(machine.stop, 0)
            link, proof = await self._enter(machine, spec, prepared, stack)
            if drives and not self._has_slept(spec):
                await machine.attach(drives)
                await mount_all(link, spec.volumes, drives)
            await machine.check_posture()
            report = report_of(spec, prepared, machine, proof, (begun, ready), slot.address if slot else None)
            written = structs.replace(spec, secrets=())
            record = VmRecord(written, report, prepared, slot.number if slot else None)
            vm = Vm(home, record, machine, link, self._supplies)
            await self._confide(vm, spec)
            vm.save()
            stack.pop_all()
        return vm

    async def _prepared(self, spec: VmSpec) -> Prepared:
        if spec.snapshot is None:
            return await self._templates.prepare(spec.template)
        if not spec.cold:
            return self._vault.prepare(spec.snapshot)
        prepared = await self._vault.prepare_cold(spec.snapshot)
        machine = prepared.any_machine
        if machine.kernel.exists() and machine.initrd.exists():
            return prepared
        now = (await self._templates.prepare(prepared.template.name)).any_machine
        machine = structs.replace(machine, kernel=now.kernel, initrd=now.initrd)
        return structs.replace(prepared, any_machine=machine)

    async def _slot(self, spec: VmSpec, stack: AsyncExitStack) -> Slot | None:
        """A network for the machine, given back unless the start succeeds; None on a host that has none."""
        if self._network is None:
            return None
        slot = await self._network.take(spec.egress, spec.secrets)
        stack.callback(self._network.give_back, slot.number)
        return slot

    async def _launch(self, prepared: Prepared, spec: VmSpec, home: Path, slot: Slot | None) -> Machine:
        config, tap = prepared.config(spec.id), slot.tap if slot else None
        if prepared.snapshot is None or spec.cold:
            machine = await self._driver.boot(config, home, prepared.snapshot, tap)
        else:
            machine = await self._driver.restore(prepared.snapshot, config, home, tap)
        if slot:
            slot.let_go()
        return machine

    async def _enter(
        self, machine: Machine, spec: VmSpec, prepared: Prepared, stack: AsyncExitStack
    ) -> tuple[GuestLink, RestoreProof | None]:
        """Greet the agent and open its gate, or say why the machine died instead."""
        link = await GuestLink.connect(await machine.dial(), workdir=prepared.workdir, user=prepared.user)
        stack.push_async_callback(link.close)
        facts = self._facts(spec, prepared)
        link.announce(self._sources.entropy(16), facts)
        seconds = BOOT_SECONDS if prepared.snapshot is None or spec.cold else GATE_SECONDS
        begun = time.perf_counter()
        entry = await answered(machine, link, seconds)
        machine.phases_ms["answer"] = ms(begun, time.perf_counter())
        machine.phases_ms["gate"] = round(entry.spent_us / 1000, 2)
        machinery = self._driver.machinery(prepared.any_machine)
        return link, proof_of(spec, facts, entry, machinery)

    async def _confide(self, vm: Vm, spec: VmSpec) -> None:
        """Have a machine that secrets are put in for trust this host. One that goes on from a snapshot may
        have become unable to, by a full disk for example: then its connections to their hosts fail, not it.
        """
        if not spec.secrets or self._network is None or vm.link is None:
            return
        vm.take_secrets(spec.secrets)
        try:
            await self._have_trust(vm, vm.link, self._network)
        except PandastackError as error:
            if spec.snapshot is None:
                raise BootFailed(error.message) from error
            log.warning("vm.trusts_not", vm=spec.id, reason=error.message)

    async def confide(self, vm: Vm, link: GuestLink) -> None:
        """Have a machine that secrets are put in for trust this host, by a link that no command has yet,
        unless it is known to. One that cannot is tried again with its next link.
        """
        if not vm.bound or vm.trusts or self._network is None:
            return
        try:
            await self._have_trust(vm, link, self._network)
        except PandastackError as error:
            log.warning("vm.trusts_not", vm=vm.spec.id, reason=error.message)

    async def _have_trust(self, vm: Vm, link: GuestLink, network: Slots) -> None:
        await trust.install(link, network.certificate or "")
        vm.trusts = True

    def _has_slept(self, spec: VmSpec) -> bool:
        """Whether it goes on where its volumes are mounted already."""
        kept = self._vault.find(spec.snapshot) if spec.snapshot and not spec.cold else None
        return kept is not None and kept.held

    def _facts(self, spec: VmSpec, prepared: Prepared) -> GateFacts:
        return GateFacts(
            entropy=self._sources.entropy(64),
            clock_ns=self._sources.wall_ns(),
            hostname=spec.hostname or f"sandbox-{spec.id[:8]}",
            machine_id=self._sources.entropy(16).hex(),
            env={**prepared.env, **spec.env},
            fresh=spec.snapshot is not None and not spec.cold,
        )

    async def greet_again(self, vm: Vm) -> GuestLink:
        """A paused guest cannot answer: its HELLO waits in the socket until it is resumed. One that runs, and
        that secrets were set for while it could not be asked, trusts this host before it gets a placeholder.
        """
        link = await GuestLink.connect(await vm.machine.dial(), workdir=vm.workdir, user=vm.user)
        link.announce(self._sources.entropy(16))
        if vm.report.state is VmState.RUNNING:
            await answered(vm.machine, link, GATE_SECONDS)
            await self.confide(vm, link)
        return link
