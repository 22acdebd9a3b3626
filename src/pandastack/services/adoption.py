"""Where rows and machines meet: at the start of the server, and when a machine ends by itself.

The rows say what should be, the host what is. After `adopt` each living row has a machine that answers and
each machine a living row; whatever did not fit is ended, with its cause recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pandastack.errors import PandastackError
from pandastack.model.host import HostReport, Networks, VmReport, VmState
from pandastack.model.sandbox import ALIVE, Sandbox, SandboxState
from pandastack.services.archive import Archive
from pandastack.services.births import Births
from pandastack.services.endings import Endings, server_of
from pandastack.services.ground import Ground
from pandastack.services.ledger import Story
from pandastack.services.litters import Litters
from pandastack.services.volumes import Volumes
from pandastack.telemetry import logger

log = logger("adoption")

CONSOLE_KEPT = 16 << 10
"""Of a dead machine's console so many characters are kept in its last event."""

UNSETTLED = frozenset({SandboxState.CREATING, SandboxState.STOPPING})
STANDING = {VmState.RUNNING: SandboxState.RUNNING, VmState.PAUSED: SandboxState.PAUSED}


class Adoption:
    """Brings rows and machines together."""

    def __init__(
        self,
        ground: Ground,
        archive: Archive,
        births: Births,
        endings: Endings,
        litters: Litters,
        volumes: Volumes,
    ) -> None:
        self._volumes = volumes
        self._ledger = ground.ledger
        self._placement = ground.placement
        self._safe = ground.safe
        self._activity = ground.activity
        self._archive = archive
        self._births = births
        self._endings = endings
        self._litters = litters
        self._turns = ground.turns
        self._metrics = ground.metrics

    async def adopt(self) -> None:
        """Before anything is served: take over what runs, record what is gone, end what nobody knows."""
        report = await self._placement.refresh()
        await self._archive.lose_missing(report)  # first: nobody is to be told that he can go back to it
        machines = {vm.id: vm for vm in report.vms}
        living = {sandbox.id: sandbox for sandbox in await self._ledger.listing(ALIVE)}
        held = {snapshot.sandbox_id for snapshot in await self._archive.interrupted()}
        for sandbox in living.values():
            await self._meet(sandbox, machines, held)
        for unknown in machines.keys() - living.keys():
            log.warning("machine.unknown", sandbox_id=unknown)
            await self._endings.stop_quietly(unknown)
        await self._litters.end_half_made()
        await self._archive.settle(report)
        await self._volumes.settle(report)

    async def settle(self) -> None:
        """Look again at the rows that hang between two states and that no request works on, at machines that
        should have ended, at deaths that were not recorded, and at snapshots.
        """
        report = await self._placement.refresh()  # before the rows: what it tells of has one by now
        machines = {vm.id: vm for vm in report.vms}
        rows = {sandbox.id: sandbox for sandbox in await self._ledger.listing(ALIVE)}
        for sandbox in rows.values():
            if await self._hangs(sandbox):
                await self._settle_quietly(sandbox, machines.get(sandbox.id))
            elif _is_dead(sandbox.id, report):
                await self._bury_late(sandbox.id)
        for stray in machines.keys() - rows.keys():
            await self._end_stray(stray)
        await self._litters.end_half_made()
        await self._archive.settle(report)
        await self._volumes.settle(report)

    async def bury(self, vm: VmReport) -> None:
        """As `died`, also of one whose row is just being made to say that it runs. What the database refuses
        is tried again by `settle`: the host remembers its dead.
        """
        with _noting(vm.id):
            if not await self.died(vm):
                await self._births.created(vm.id)
                await self._bury_late(vm.id)

    async def died(self, vm: VmReport) -> bool:
        """A machine ended by itself: record why, keep its last words, remove what is left of it. False when
        its row does not say that it ran.
        """
        cause = await self._with_way_back(vm.id, vm.cause or "its machine ended")
        console = vm.console[-CONSOLE_KEPT:]
        story = Story("vm.died", {"pid": vm.pid, "cause": cause, "console": console})
        self._activity.end(vm.id)
        if await self._ledger.fail(vm.id, cause, story) is None:
            return False
        self._metrics.deaths.inc()
        log.warning("sandbox.died", sandbox_id=vm.id, cause=cause)
        await self._endings.stop_quietly(vm.id)
        return True

    async def _with_way_back(self, sandbox_id: str, cause: str) -> str:
        """The cause of a death, with what of the dead can be had again."""
        image = await self._archive.last_image(sandbox_id)
        if image is None:
            return cause
        when = image.created_at.isoformat(timespec="seconds")
        kept = f"Its image of {when} is kept: roll it back to snapshot {image.id}."
        return f"{cause.removesuffix('.')}. {kept}"

    async def _bury_late(self, sandbox_id: str) -> None:
        """A machine that died while its row was being made to say that it runs."""
        with _noting(sandbox_id):
            async with self._turns.turn(sandbox_id):
                for vm in (await self._placement.refresh()).vms:
                    if vm.id == sandbox_id and vm.state is VmState.DEAD:
                        await self.died(vm)

    async def _hangs(self, sandbox: Sandbox) -> bool:
        """Whether it is between two states now, as when its row was read, and no request works on it."""
        if sandbox.status not in UNSETTLED or self._is_busy(sandbox.id):
            return False
        now = await self._ledger.find_any(server_of(sandbox), sandbox.id)
        return now.status is sandbox.status and not self._is_busy(sandbox.id)

    def _is_busy(self, sandbox_id: str) -> bool:
        return self._births.is_creating(sandbox_id) or self._endings.is_ending(sandbox_id)

    async def _settle_quietly(self, sandbox: Sandbox, vm: VmReport | None) -> None:
        try:
            await self._settle(sandbox, vm)
        except PandastackError as error:
            log.warning("sandbox.unsettled", sandbox_id=sandbox.id, error=error.message)

    async def _settle(self, sandbox: Sandbox, vm: VmReport | None) -> None:
        """Bring a row that hangs between states to what its host says of the machine."""
        if sandbox.status is SandboxState.STOPPING:
            story = Story("sandbox.deleted", {"cause": sandbox.cause or "deleted"})
            await self._endings.finish(sandbox.id, story)
        elif vm is not None and vm.cause is None and vm.pid:
            await self._births.running(None, sandbox, vm)
        else:
            await self._endings.undo(sandbox, "its creation was interrupted before its machine ran")

    async def _end_stray(self, sandbox_id: str) -> None:
        """End a machine whose row says that it has none, unless somebody is giving it one just now."""
        async with self._turns.turn(sandbox_id):
            rows = await self._ledger.listing(ALIVE)
            if sandbox_id not in {row.id for row in rows}:
                log.warning("machine.unknown", sandbox_id=sandbox_id)
                await self._endings.stop_quietly(sandbox_id)

    async def _meet(self, sandbox: Sandbox, machines: Mapping[str, VmReport], held: set[str]) -> None:
        vm = machines.get(sandbox.id)
        if sandbox.status in UNSETTLED:
            await self._settle_quietly(sandbox, vm)
            if sandbox.status is SandboxState.CREATING and vm is not None and vm.state in STANDING:
                await self._keep_to_policy(sandbox)  # its host does not know its secrets any more
        elif vm is None:
            gone = "its machine was gone when the server started"
            cause = await self._with_way_back(sandbox.id, gone)
            await self._ledger.fail(sandbox.id, cause, Story("vm.died", {"cause": cause}))
        elif vm.state in STANDING:
            await self._take_over(sandbox, vm, held=sandbox.id in held)
        else:
            await self.died(vm)

    async def _take_over(self, sandbox: Sandbox, vm: VmReport, *, held: bool) -> None:
        state = STANDING[vm.state]
        if held and state is SandboxState.PAUSED and sandbox.status is SandboxState.RUNNING:
            host = self._placement.host_of(sandbox.id)  # a snapshot that was interrupted holds it still
            await self._placement.ordered(host.resume(sandbox.id), "resume")
            state = SandboxState.RUNNING
        story = Story("sandbox.adopted", {"pid": vm.pid, "state": state})
        if state is sandbox.status:
            await self._ledger.change(sandbox.id, story, guest_ip=vm.guest_ip)
        else:
            await self._ledger.move(sandbox.id, state, story)
        self._activity.begin(sandbox)
        await self._keep_to_policy(sandbox)

    async def _keep_to_policy(self, sandbox: Sandbox) -> None:
        """A server that ended in the middle of a change of it has told the host, and not written it down; and
        no host writes secrets down.
        """
        if self._placement.report.network is not Networks.SLOTS:
            return
        host = self._placement.host_of(sandbox.id)
        try:
            order = host.set_egress(sandbox.id, sandbox.egress, await self._safe.of(sandbox))
            await self._placement.ordered(order, "set_egress")
        except PandastackError as error:
            log.warning("sandbox.egress_unknown", sandbox_id=sandbox.id, error=error.message)


def _is_dead(sandbox_id: str, report: HostReport) -> bool:
    return any(vm.id == sandbox_id and vm.state is VmState.DEAD for vm in report.vms)


@contextmanager
def _noting(sandbox_id: str) -> Iterator[None]:
    """A death that cannot be recorded in the block is logged."""
    try:
        yield
    except PandastackError as error:
        log.warning("death.unrecorded", sandbox_id=sandbox_id, error=error.message)
