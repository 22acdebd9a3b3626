"""A guest to speak with: the real agent as a process, its gate open."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pandastack.host import unix
from pandastack.host.driver import MachineConfig
from pandastack.host.guest import GateFacts, GuestLink
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.process_driver import ProcessDriver, ProcessMachine


def config(vm_id: str = "vm") -> MachineConfig:
    nowhere = Path("/nonexistent/image/file")
    return MachineConfig(
        vm_id=vm_id,
        cpus=1,
        memory_mb=64,
        root_disk=nowhere,
        overlay=nowhere,
        disk_limit_bytes=1 << 30,
        kernel=nowhere,
        initrd=nowhere,
    )


def facts(**env: str) -> GateFacts:
    return GateFacts(
        entropy=os.urandom(64),
        clock_ns=time.time_ns(),
        hostname="box",
        machine_id=os.urandom(16).hex(),
        env=env,
    )


async def enter(machine: ProcessMachine, **env: str) -> GuestLink:
    link = await GuestLink.connect(unix.connect(machine.guest_socket))
    link.announce(os.urandom(16), facts(**env))
    await link.entered(deadline=10)
    return link


@pytest.fixture
async def machine(
    leak_check: LeakCheck, process_driver: ProcessDriver, tmp_path: Path
) -> AsyncIterator[ProcessMachine]:
    """A machine without isolation; everything in it ends with the test."""
    home = tmp_path / "home"
    home.mkdir()
    machine = await process_driver.boot(config(), home)
    yield machine
    await machine.stop(0)


@pytest.fixture
async def guest(machine: ProcessMachine) -> AsyncIterator[GuestLink]:
    """A greeted agent with an open gate; `PLANET=earth` is in the environment of every command."""
    async with await enter(machine, PLANET="earth") as link:
        yield link
