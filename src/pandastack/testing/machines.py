"""What a test needs to speak with a machine: a configuration, the facts of a gate, a greeted agent."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pandastack.host.driver import Machine, MachineConfig
from pandastack.host.guest import GateFacts, GuestLink

NOWHERE = Path("/nonexistent/image/file")


def machine_config(vm_id: str = "vm") -> MachineConfig:
    """A small machine of no image: enough for the process driver, which reads none."""
    return MachineConfig(
        vm_id=vm_id,
        cpus=1,
        memory_mb=64,
        root_disk=NOWHERE,
        overlay=NOWHERE,
        disk_limit_bytes=1 << 30,
        kernel=NOWHERE,
        initrd=NOWHERE,
    )


def gate_facts(**env: str) -> GateFacts:
    """Facts of a machine named `box`, with fresh entropy; `env` is the environment of its commands."""
    return GateFacts(
        entropy=os.urandom(64),
        clock_ns=time.time_ns(),
        hostname="box",
        machine_id=os.urandom(16).hex(),
        env=env,
    )


async def enter(machine: Machine, *, deadline: float = 10.0, **env: str) -> GuestLink:
    """A link to the machine's agent, greeted and with its gate open; the caller closes it."""
    link = await GuestLink.connect(await machine.dial())
    try:
        link.announce(os.urandom(16), gate_facts(**env))
        await link.entered(deadline=deadline)
    except BaseException:
        await link.close()
        raise
    return link
