"""Machines that flood their logs, or whose process hangs."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from pandastack.host.app import LocalHost
from pandastack.host.readiness import run_to_end
from pandastack.host.watch import LOG_LIMIT, UNRESPONSIVE, Watch
from pandastack.model.host import VmSpec, VmState

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(120)]

PATIENCE = 1.5


async def test_a_process_that_hangs_is_ended_and_the_cause_told(host: LocalHost) -> None:
    hung, fine = [await host.start(VmSpec(name, "base")) for name in ("hung", "fine")]
    watch = Watch(lambda: list(host.vms._vms.values()), patience=PATIENCE)
    os.kill(hung.pid, signal.SIGSTOP)
    async with host.deaths() as deaths:
        guarding = asyncio.ensure_future(watch.guard())
        try:
            async with asyncio.timeout(60):
                report = await anext(deaths)
        finally:
            guarding.cancel()
            await asyncio.wait([guarding])
    assert (report.id, report.state) == ("hung", VmState.DEAD)
    assert str(report.cause).startswith(UNRESPONSIVE)
    assert (await run_to_end(host.guest("fine"), "echo fine", "look"))[1] == "fine\n"
    assert fine.pid == (await host.stats("fine")).pid


async def test_one_that_nobody_watches_hangs_on(host: LocalHost) -> None:
    """The negative control."""
    hung = await host.start(VmSpec("hung", "base"))
    watch = Watch(lambda: list(host.vms._vms.values()), patience=None)
    os.kill(hung.pid, signal.SIGSTOP)
    await asyncio.wait_for(watch.guard(), 5)
    assert [vm.state for vm in host.vms.reports()] == [VmState.RUNNING]


async def test_a_machine_that_was_paused_is_not_taken_for_one_that_hangs(host: LocalHost) -> None:
    await host.start(VmSpec("vm", "base"))
    watch = Watch(lambda: list(host.vms._vms.values()), patience=0.01)
    await host.pause("vm")
    for _ in range(3):
        await watch.ask()
        await asyncio.sleep(0.02)
    await host.resume("vm")
    assert (await run_to_end(host.guest("vm"), "echo fine", "look"))[1] == "fine\n"


async def test_a_flood_on_the_serial_port_is_bounded_and_counted(host: LocalHost, state: Path) -> None:
    await host.start(VmSpec("vm", "base"))
    console, largest = state / "v" / "vm" / "console.log", 0
    flood = asyncio.ensure_future(
        run_to_end(host.guest("vm"), "timeout 8 cat /dev/zero > /dev/ttyS0; true", "flood")
    )
    while not flood.done():
        largest = max(largest, console.stat().st_size)
        await asyncio.sleep(0.05)
    assert largest < 4 * LOG_LIMIT
    assert host.vms.watch.dropped["vm"] > LOG_LIMIT // 2, "and what was cut off is known"
    assert len(await host.console("vm")) <= 65536
