"""Where rows and machines meet: at the start of the server, and when a machine ends by itself.

The rows say what should be, the host what is. After `adopt` each living row has a machine that answers and
each machine a living row; whatever did not fit is ended, with its cause recorded.
"""

from __future__ import annotations

from collections.abc import Mapping

from pandastack.errors import PandastackError
from pandastack.model.host import HostReport, VmReport, VmState
from pandastack.model.sandbox import ALIVE, Sandbox, SandboxState
from pandastack.services.activity import Activity
from pandastack.services.ledger import Ledger, Story
from pandastack.services.placement import Placement
from pandastack.services.sandboxes import Sandboxes, allowed_idle
from pandastack.telemetry import Metrics, logger

log = logger("adoption")

CONSOLE_KEPT = 16 << 10
"""Of a dead machine's console so many characters are kept in its last event."""

UNSETTLED = (SandboxState.CREATING, SandboxState.STOPPING)
STANDING = {VmState.RUNNING: SandboxState.RUNNING, VmState.PAUSED: SandboxState.PAUSED}


class Adoption:
    """Brings rows and machines together."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        sandboxes: Sandboxes,
        placement: Placement,
        activity: Activity,
        metrics: Metrics,
    ) -> None:
        self._ledger = ledger
        self._sandboxes = sandboxes
        self._placement = placement
        self._activity = activity
        self._metrics = metrics
        self._unrecorded: dict[str, VmReport] = {}

    async def adopt(self) -> None:
        """Before anything is served: take over what runs, record what is gone, end what nobody knows."""
        report = await self._placement.refresh()
        machines = {vm.id: vm for vm in report.vms}
        living = {sandbox.id: sandbox for sandbox in await self._ledger.listing(ALIVE)}
        for sandbox in living.values():
            await self._meet(sandbox, machines)
        for unknown in machines.keys() - living.keys():
            log.warning("machine.unknown", sandbox_id=unknown)
            await self._stop(unknown)

    async def settle(self) -> None:
        """Look again at the rows that hang between two states and that no request works on, and at deaths
        that could not be recorded.
        """
        unrecorded, self._unrecorded = self._unrecorded, {}
        for vm in unrecorded.values():
            await self.bury(vm)
        waiting = [
            sandbox
            for sandbox in await self._ledger.listing(UNSETTLED)
            if not self._sandboxes.is_busy(sandbox.id)
        ]
        if waiting:
            await self._settle_all(waiting, await self._placement.refresh())

    async def bury(self, vm: VmReport) -> None:
        """As `died`; what the database refuses is tried again by `settle`."""
        try:
            await self.died(vm)
        except PandastackError as error:
            log.warning("death.unrecorded", sandbox_id=vm.id, error=error.message)
            self._unrecorded[vm.id] = vm

    async def died(self, vm: VmReport) -> None:
        """A machine ended by itself: record why, keep its last words, remove what is left of it."""
        cause = vm.cause or "its machine ended"
        console = vm.console[-CONSOLE_KEPT:]
        story = Story("vm.died", {"pid": vm.pid, "cause": cause, "console": console})
        self._activity.end(vm.id)
        failed = await self._ledger.fail(vm.id, cause, story)
        if failed is not None:
            self._metrics.deaths.inc()
            log.warning("sandbox.died", sandbox_id=vm.id, cause=cause)
            await self._stop(vm.id)

    async def _settle_all(self, waiting: list[Sandbox], report: HostReport) -> None:
        machines = {vm.id: vm for vm in report.vms}
        for sandbox in waiting:
            try:
                await self._sandboxes.settle(sandbox, machines.get(sandbox.id))
            except PandastackError as error:
                log.warning("sandbox.unsettled", sandbox_id=sandbox.id, error=error.message)

    async def _meet(self, sandbox: Sandbox, machines: Mapping[str, VmReport]) -> None:
        vm = machines.get(sandbox.id)
        if sandbox.status in UNSETTLED:
            await self._sandboxes.settle(sandbox, vm)
        elif vm is None:
            cause = "its machine was gone when the server started"
            await self._ledger.fail(sandbox.id, cause, Story("vm.died", {"cause": cause}))
        elif vm.state in STANDING:
            await self._take_over(sandbox, vm)
        else:
            await self.died(vm)

    async def _take_over(self, sandbox: Sandbox, vm: VmReport) -> None:
        state = STANDING[vm.state]
        story = Story("sandbox.adopted", {"pid": vm.pid, "state": state})
        if state is sandbox.status:
            await self._ledger.change(sandbox.id, story, guest_ip=vm.guest_ip)
        else:
            await self._ledger.move(sandbox.id, state, story)
        self._activity.begin(sandbox.id, allowed_idle(sandbox))

    async def _stop(self, sandbox_id: str) -> None:
        try:
            host = self._placement.host_of(sandbox_id)
            await self._placement.ordered(host.stop(sandbox_id), "stop")
        except PandastackError as error:
            log.warning("machine.not_stopped", sandbox_id=sandbox_id, error=error.message)
