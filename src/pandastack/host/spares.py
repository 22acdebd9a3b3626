"""What a snapshot needs and can be done before it is done in a machine's free time: forks wait for less."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from pandastack.errors import PandastackError
from pandastack.host.vm import Vm
from pandastack.model.host import VmState

FIRST_REST_SECONDS = 0.5
"""So long a new machine is left alone: many are gone by then."""
REST_SECONDS = 0.03
"""And so long one that was just kept, whose children start now."""
log = structlog.get_logger("host")


class Spares:
    """Has machines prepare, one after another, unless they are gone (`find` says so) or stand still."""

    def __init__(self, find: Callable[[str], Vm | None]) -> None:
        self._find = find
        self._due: asyncio.Queue[str] = asyncio.Queue()

    def later(self, vm_id: str, seconds: float) -> None:
        """The machine is to prepare in so many seconds; one that is gone by then is not kept for it."""
        asyncio.get_running_loop().call_later(seconds, self._due.put_nowait, vm_id)

    async def go_on(self) -> None:
        """For ever."""
        while True:
            vm = self._find(await self._due.get())
            if vm is None or vm.report.state is not VmState.RUNNING:
                continue
            try:
                await vm.machine.prepare()
            except (PandastackError, OSError) as error:  # its next snapshot tries again, and tells
                log.info("vm.not_prepared", vm=vm.spec.id, reason=str(error))
            del vm  # it may end while the next one is waited for
