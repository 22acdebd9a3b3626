"""What machines may reach, and have reached: the verbs of a host on their networks."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from msgspec import structs

from pandastack.carrying import carried_through
from pandastack.errors import MachineError, NotSupported, PandastackError
from pandastack.host import procfs, trust
from pandastack.host.network.slots import Slots
from pandastack.host.publish import full_disk_said
from pandastack.host.vm import Vm
from pandastack.model.book import Sighting
from pandastack.model.egress import BoundSecret, Egress

Secrets = tuple[BoundSecret, ...]
log = structlog.get_logger("host")


class Reach:
    """The policies of a host's machines. `find` knows them by their ids."""

    def __init__(self, find: Callable[[str], Vm], network: Slots | None) -> None:
        self._find = find
        self._network = network

    async def set_egress(self, vm_id: str, egress: Egress, secrets: Secrets | None = None) -> None:
        """See `model.host.Host.set_egress`."""
        vm = self._find(vm_id)
        if self._network is None or vm.slot is None:
            raise NotSupported(f"Sandbox {vm_id} has no network of its own, which could keep a policy.")
        if secrets and not vm.bound and vm.link is not None:  # one that cannot be asked: with its next link
            await trust.install(vm.link, self._network.certificate or "")
            vm.trusts = True
        before, kept, bound = vm.spec, vm.secrets, vm.bound
        wanted = kept if secrets is None else secrets
        try:
            if secrets is not None:
                vm.take_secrets(secrets)
            _note(vm, egress)  # first: should this program end now, the next one has it keep the new one
            await self._network.obey(vm.slot, egress, wanted)
        except BaseException:
            vm.take_secrets(kept or ())
            vm.secrets, vm.bound = kept, bound
            try:
                _note(vm, before.egress)
            finally:
                await carried_through(self._kept(vm.slot, before.egress, kept))
            raise

    async def _kept(self, slot: int, egress: Egress, secrets: Secrets | None) -> None:
        """The old policy, as far as it can be had: its next change, or the next program, tries again."""
        assert self._network is not None  # noqa: S101  # it was asked before
        try:
            await self._network.obey(slot, egress, secrets)
        except (PandastackError, OSError) as error:
            log.warning("network.not_kept", slot=slot, reason=str(error))

    async def receipts(self, vm_id: str) -> Sighting:
        """See `model.host.Host.receipts`."""
        vm = self._find(vm_id)
        if self._network is None or vm.slot is None:
            return Sighting()
        seen = await self._network.receipts(vm.slot, vm.spec.egress)
        pid = vm.machine.pid
        begun = procfs.start_ticks(pid)
        if begun is None:  # what was counted would be taken for another machine's
            raise MachineError(f"The machine of sandbox {vm_id} has just ended.")
        return structs.replace(seen, life=f"{vm.slot}.{pid}.{begun}")


def _note(vm: Vm, egress: Egress) -> None:
    vm.spec = structs.replace(vm.spec, egress=egress)
    with full_disk_said():
        vm.save()
