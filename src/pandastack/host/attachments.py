"""The volumes of a machine, from its own side: mounted in it, and flushed before it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from msgspec import structs

from pandastack.errors import GuestUnreachable, NotSupported, PandastackError, VolumeBusy
from pandastack.host.driver import Drive, MachineConfig
from pandastack.host.guest import GuestLink
from pandastack.host.templates import Prepared
from pandastack.host.vm import Vm
from pandastack.host.volumes import Volumes
from pandastack.model.host import VmState, VolumeReport
from pandastack.model.volume import Mount

FLUSH_SECONDS = 10.0
"""How long a machine that is being stopped may take to write what its volumes have not got yet."""

log = structlog.get_logger("host")


def with_drives(prepared: Prepared, drives: tuple[Drive, ...]) -> Prepared:
    """The same for a machine that has these. NotSupported for one that it could not write to its end."""
    for drive in drives:
        if not drive.read_only:
            _check_writable(prepared.any_machine, drive.size_bytes)
    return structs.replace(prepared, any_machine=structs.replace(prepared.any_machine, drives=drives))


def _check_writable(machine: MachineConfig, size_bytes: int) -> None:
    """A fork of a fork server has its limit for files (RLIMIT_FSIZE), which nobody raises later: root may not
    everywhere, and a process in a jail nowhere.
    """
    if size_bytes > machine.disk_limit_bytes:
        raise NotSupported(
            f"The volume has {size_bytes >> 20} MiB, and a machine of this template can write one of at most "
            f"{machine.disk_limit_bytes >> 20}: attach it read_only, or use a template with a larger disk."
        )


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
                with suppress(VolumeBusy):  # it has been flushed
                    await vm.link.unmount(mount.path)
    except (PandastackError, TimeoutError) as error:
        log.warning("volume.not_unmounted", vm=vm.spec.id, reason=str(error))


class Growth:
    """The verb on volumes that machines may have."""

    def __init__(self, volumes: Volumes, find: Callable[[str], Vm]) -> None:
        self._volumes = volumes
        self._find = find

    async def grow(self, volume_id: str, size_mb: int) -> VolumeReport:
        """See `model.host.Host.grow_volume`."""
        writer = self._volumes.writer(volume_id)
        vm = None if writer is None else self._find(writer)
        if vm is not None and vm.prepared is not None:
            _check_writable(vm.prepared.any_machine, size_mb << 20)
        report = await self._volumes.grow(volume_id, size_mb)
        if vm is not None:
            if vm.link is None or vm.report.state is not VmState.RUNNING:
                raise GuestUnreachable("The machine that has the volume cannot be told that it is larger.")
            number, mount = next(
                (number, each) for number, each in enumerate(vm.spec.volumes) if each.id == volume_id
            )
            size = report.size_mb << 20
            await vm.machine.resize(number, size)
            await vm.link.mount(number, mount.path, size)
        return report
