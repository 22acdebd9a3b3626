"""What a guest is asked for around a snapshot of it.

Nothing of a tenant's may be under way between host and guest at that moment: it would be in the snapshot, and
reach every machine that goes on from it. And its disk is to be consistent by itself, for the day when the
memory cannot be used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from pandastack.errors import PandastackError
from pandastack.host.guest import GuestLink
from pandastack.host.vm import Vm
from pandastack.model.host import SnapshotSpec, VmState

FREEZE_SECONDS = 20.0
"""How long a guest may take to flush its disk; and then for how long it stays frozen at most."""
ANSWER_SECONDS = 5.0
log = structlog.get_logger("host")


@asynccontextmanager
async def quiet(vm: Vm, spec: SnapshotSpec) -> AsyncIterator[None]:
    """Within the block nothing is sent to the guest, and what was sent before it has taken in; its disk is
    frozen for a snapshot that is to last. A paused guest is as it is. Meanwhile its machine prepares. If the
    block fails it goes on, also one that was to hold.
    """
    if vm.link is None or vm.report.state is not VmState.RUNNING:
        yield
        return
    async with vm.link.hold():
        try:
            await _ready(vm, vm.link, freeze=spec.durable)
            yield
        except BaseException:
            if spec.hold:
                with suppress(PandastackError):  # it may have ended
                    await vm.machine.resume()
            await thawed(vm)
            raise
        if not spec.hold:  # one that holds cannot answer: it is thawed when it is resumed, or by its gate
            await thawed(vm)


async def thawed(vm: Vm) -> None:
    """Let the guest write to its disk again; it would do so by itself a little later."""
    if vm.frozen and vm.link is not None:
        vm.frozen = False
        with suppress(PandastackError):
            await vm.link.thaw(deadline=ANSWER_SECONDS)


async def _ready(vm: Vm, link: GuestLink, *, freeze: bool) -> None:
    """The guest settles while its machine prepares."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(vm.machine.prepare())
            group.create_task(_settle(vm, link, freeze=freeze))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed


async def _settle(vm: Vm, link: GuestLink, *, freeze: bool) -> None:
    if not freeze:
        await link.ping(deadline=ANSWER_SECONDS)
        return
    try:
        await link.freeze(int(FREEZE_SECONDS * 1000), deadline=FREEZE_SECONDS)
        vm.frozen = True
    except PandastackError as error:
        log.warning("vm.not_frozen", vm=vm.spec.id, reason=error.message)
        await link.ping(deadline=ANSWER_SECONDS)
