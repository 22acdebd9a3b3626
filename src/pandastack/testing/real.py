"""Real virtual machines for tests: the driver of this machine and the image of a template, made when
missing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from pandastack.config import HostConfig
from pandastack.host.agent import find_images_dir
from pandastack.host.builder import prepare
from pandastack.host.driver import MachineConfig
from pandastack.host.jailer import find_jailer
from pandastack.host.network.ability import lacking
from pandastack.host.paths import Cache
from pandastack.host.probe import choose_vmm, host_cpu
from pandastack.host.qemu import QemuDriver
from pandastack.host.shelf import machine_config

USERS = Path("/run/pandastack/users")
CACHE = Path("~/.cache/pandastack").expanduser()


async def real_machine(template: str = "base", cache: Path = CACHE) -> tuple[QemuDriver, MachineConfig]:
    """The QEMU driver and a machine of `template`, to be booted or restored."""
    where = Cache(cache)
    qemu, images = await prepare(where, find_images_dir(), [template], lambda line, fraction: None)
    vmm = await choose_vmm(qemu, where, dict(os.environ), taps=lacking() is None)
    config = msgspec.structs.replace(machine_config(images[0]), vm_id="contract")
    jailer = await find_jailer(where, USERS, "200000-265535", f"pandastack-test-{os.getpid()}", None)
    return QemuDriver(vmm, host_cpu=host_cpu(), jailer=jailer), config


def broken(driver: QemuDriver) -> QemuDriver:
    """The same driver with a VMM that does not exist."""
    vmm = msgspec.structs.replace(driver.vmm, binary=Path("/nonexistent/qemu"))
    return QemuDriver(vmm, host_cpu="none", jailer=driver.jailer)


def small_host(state: Path, **more: Any) -> HostConfig:  # noqa: ANN401  # fields of a configuration
    """A host that prepares little: what it has ready is for somebody who comes later than a test lasts."""
    return HostConfig(
        **{"state_dir": state, "cache_dir": CACHE, "rehearse": False, "networks_ready": 2, **more}
    )
