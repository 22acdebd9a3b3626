"""What a guest is asked for around a snapshot of it.

Nothing of a tenant's may be under way between host and guest at that moment: it would be in the snapshot, and
reach every machine that goes on from it. None of its programs may run: it would go on running in each of them
before their gate, and draw the same chance. And its disk is to be consistent by itself, for the day when the
memory cannot be used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog

from pandastack.errors import GuestUnreachable, MachineError, PandastackError
from pandastack.host.guest import GuestLink
from pandastack.host.vm import Vm
from pandastack.model.host import SnapshotSpec, VmState

FREEZE_SECONDS = 20.0
"""How long a guest may take to flush its disk; and then for how long it stays frozen at most."""
ANSWER_SECONDS = 5.0
STILL_MS = 500
"""How long programs stand still at most, of the guest's own time: it stands while the machine is read."""
log = structlog.get_logger("host")


@asynccontextmanager
async def quiet(vm: Vm, spec: SnapshotSpec) -> AsyncIterator[Callable[[], None]]:
    """Within the block nothing is sent to the guest, and what was sent before it has taken in; its disk is
    frozen for a snapshot that is to last, its programs stand still. A paused guest is as it is. Meanwhile its
    machine prepares. If the block fails it goes on, also one that was to hold. Gives what lets the guest go
    on before the end of the block, when it has been read.
    """
    go = partial(set_going, vm)
    if vm.link is None or vm.report.state is not VmState.RUNNING:
        yield go
        return
    async with vm.link.hold():
        try:
            await _ready(vm, vm.link, freeze=spec.durable)
            yield go
        except BaseException:
            if spec.hold:
                with suppress(PandastackError):  # it may have ended
                    await vm.machine.resume()
            go()
            raise
        if not spec.hold:  # one that holds cannot answer: it goes on when it is resumed, or by its gate
            go()


def set_going(vm: Vm) -> None:
    """Let the guest's programs run and write to its disk again; they would by themselves a little later."""
    if vm.still and vm.link is not None:
        vm.still = False
        with suppress(PandastackError):
            vm.link.go()


async def _ready(vm: Vm, link: GuestLink, *, freeze: bool) -> None:
    """The guest settles while its machine prepares."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(vm.machine.prepare())
            if freeze:
                group.create_task(_freeze(vm, link))
            wait = ANSWER_SECONDS + FREEZE_SECONDS * freeze  # the guest does what it is asked in that order
            group.create_task(_still(vm, link, deadline=wait))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed


async def _still(vm: Vm, link: GuestLink, *, deadline: float) -> None:
    vm.still = True
    try:
        await link.still(STILL_MS, deadline=deadline)
    except GuestUnreachable:
        raise
    except MachineError as error:
        log.warning("vm.not_still", vm=vm.spec.id, reason=error.message)


async def _freeze(vm: Vm, link: GuestLink) -> None:
    try:
        await link.freeze(int(FREEZE_SECONDS * 1000), deadline=FREEZE_SECONDS)
    except PandastackError as error:
        log.warning("vm.not_frozen", vm=vm.spec.id, reason=error.message)
