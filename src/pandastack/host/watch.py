"""What is looked after while machines run: the length of their logs, and whether their processes answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from pandastack.host.death import shorten
from pandastack.host.vm import CONSOLE, Vm
from pandastack.model.host import VmState

VMM_LOG = "vmm.log"
LOOK_SECONDS = 0.5
"""How often the logs are looked at. A byte on a guest's serial port is one write of its machine's process,
paid out of the machine's own share of the processor: 0.35 MB a second when it is emulated (measured), as many
as the kernel can do of such writes otherwise, so that a log is never much longer than its limit. What is cut
off so soon was never on a disk.
"""
LOG_LIMIT = 1 << 20
LOG_KEPT = 64 << 10
"""Bytes: a guest that floods its console costs the host so much and no more."""
UNRESPONSIVE = "vmm_unresponsive"
log = structlog.get_logger("host")


class Watch:
    """Looks after `living`. A process that has not answered for `patience` seconds is ended; None lets all
    run.
    """

    def __init__(
        self,
        living: Callable[[], Iterable[Vm]],
        *,
        patience: float | None,
    ) -> None:
        self._living = living
        self._patience = patience
        self._silent: dict[str, float] = {}
        self.dropped: dict[str, int] = {}
        """Bytes of their logs that were cut off, by machine."""

    async def curb(self) -> None:
        """`cut` the logs for ever."""
        while True:
            self.cut()
            await asyncio.sleep(LOOK_SECONDS)

    def cut(self) -> None:
        """Keep the machines' logs short. The log is told once of each that floods."""
        living = {vm.spec.id: vm.home for vm in self._living()}
        for vm_id, home in living.items():
            gone = sum(_cut(home / name) for name in (CONSOLE, VMM_LOG))
            if gone and vm_id not in self.dropped:
                log.warning("vm.floods", vm=vm_id, bytes=gone)
            if gone:
                self.dropped[vm_id] = self.dropped.get(vm_id, 0) + gone
        for vm_id in self.dropped.keys() - living.keys():
            del self.dropped[vm_id]

    async def guard(self) -> None:
        """`ask` the machines for ever."""
        while self._patience is not None:
            await asyncio.sleep(self._patience / 3)
            await self.ask()

    async def ask(self) -> None:
        """End those whose process has not answered for too long; they die of `UNRESPONSIVE`."""
        running = {vm.spec.id: vm for vm in self._living() if vm.report.state is VmState.RUNNING}
        answers = await asyncio.gather(*(vm.machine.answers() for vm in running.values()))
        for vm, does_answer in zip(running.values(), answers, strict=True):
            if does_answer:
                self._silent.pop(vm.spec.id, None)
            elif self._is_over(self._silent.setdefault(vm.spec.id, asyncio.get_running_loop().time())):
                log.error("vm.unresponsive", vm=vm.spec.id, pid=vm.machine.pid)
                vm.verdict = f"{UNRESPONSIVE}: its process had not answered for {self._patience:g} s."
                vm.machine.kill()
        for vm_id in self._silent.keys() - running.keys():
            del self._silent[vm_id]

    def _is_over(self, since: float) -> bool:
        return (
            self._patience is not None and asyncio.get_running_loop().time() - since >= self._patience * 2 / 3
        )


def _cut(path: Path) -> int:
    """How many bytes were cut off."""
    try:
        before = path.stat().st_size
    except OSError:
        return 0
    if before <= LOG_LIMIT:
        return 0
    shorten(path, LOG_LIMIT, LOG_KEPT)
    return max(0, before - LOG_KEPT)
