"""The volumes of a machine, from its own side: mounted in it, and flushed before it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from msgspec import structs

from pandastack.errors import PandastackError
from pandastack.host.driver import Drive
from pandastack.host.guest import GuestLink
from pandastack.host.templates import Prepared
from pandastack.host.vm import Vm
from pandastack.model.host import VmState
from pandastack.model.volume import Mount

FLUSH_SECONDS = 10.0
"""How long a machine that is being stopped may take to write what its volumes have not got yet."""

log = structlog.get_logger("host")


def with_drives(prepared: Prepared, drives: tuple[Drive, ...]) -> Prepared:
    """The same for a machine that has these, each of which its process may write to its end."""
    machine = prepared.any_machine
    limit = max((machine.disk_limit_bytes, *(drive.size_bytes for drive in drives)))
    machine = structs.replace(machine, drives=drives, disk_limit_bytes=limit)
    return structs.replace(prepared, any_machine=machine)


async def mount_all(link: GuestLink, mounts: Sequence[Mount], drives: Sequence[Drive]) -> None:
    """Mount what a machine has for the first time. MachineError."""
    for number, (mount, drive) in enumerate(zip(mounts, drives, strict=True)):
        await link.mount(number, mount.path, drive.size_bytes, read_only=mount.read_only)


async def unmount_all(vm: Vm) -> None:
    """Have all that was written be on the volumes of a machine that is about to be ended, as far as its guest
    does it in time: one that does not answer has lost what it had not flushed.
    """
    written = [mount for mount in vm.spec.volumes if not mount.read_only]
    if not written or vm.link is None or vm.report.state is not VmState.RUNNING:
        return
    try:
        async with asyncio.timeout(FLUSH_SECONDS):
            for mount in written:
                await vm.link.unmount(mount.path)
    except (PandastackError, TimeoutError) as error:
        log.warning("volume.not_unmounted", vm=vm.spec.id, reason=str(error))
