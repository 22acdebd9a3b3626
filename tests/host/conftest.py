"""A guest to speak with: the real agent as a process, its gate open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pandastack.host.guest import GuestLink
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.machines import enter, machine_config
from pandastack.testing.process_driver import ProcessDriver, ProcessMachine


@pytest.fixture
async def machine(
    leak_check: LeakCheck, process_driver: ProcessDriver, tmp_path: Path
) -> AsyncIterator[ProcessMachine]:
    """A machine without isolation; everything in it ends with the test."""
    home = tmp_path / "home"
    home.mkdir()
    machine = await process_driver.boot(machine_config(), home)
    yield machine
    await machine.stop(0)


@pytest.fixture
async def guest(machine: ProcessMachine) -> AsyncIterator[GuestLink]:
    """A greeted agent with an open gate; `PLANET=earth` is in the environment of every command."""
    async with await enter(machine, PLANET="earth") as link:
        yield link
