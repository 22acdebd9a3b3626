"""Drives of machines that run: put into devices that have waited for them, empty, since the template's boot.

A machine reaches a drive's file by a descriptor alone, which its monitor is handed: nothing of the host's
files is in its jail. The descriptor is locked (flock(2)), and the lock is there for as long as a process has
it: a second machine is refused by the kernel whatever this program believes. QEMU's own locks would not do:
in a jail, where it finds no /dev/null to try OFD locks with, it takes those of POSIX, which end when any
descriptor of the file is closed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pandastack.errors import MachineError, VolumeBusy
from pandastack.host.driver import Drive
from pandastack.host.overlay import overlay
from pandastack.host.qemu_command import drive as name_of
from pandastack.host.qemu_command import empty_drive
from pandastack.host.qmp import Order, Qmp, monitor
from pandastack.host.quarters import Quarters

NOWHERE = Path("drive")
"""What a layer says that it lies over; QEMU is told better."""


async def put_in(quarters: Quarters, qmp: Path, number: int, drive: Drive) -> None:
    """Have the machine behind the monitor `qmp` see the drive, with its size. VolumeBusy, MachineError.

    What is to be read alone gets a layer over it that is thrown away with the machine: the guest's device
    takes writes, since what it was told at its boot it cannot be told anew.
    """
    name = name_of(number)
    with _opened(drive) as descriptor:
        async with monitor(qmp, descriptor=descriptor) as monitored:
            await monitored.execute_all(
                ("add-fd", {"fdset-id": number}),
                *(_layered(quarters, name, number, drive) if drive.read_only else _plain(name, number)),
                ("qom-set", {"path": f"/machine/peripheral/{name}", "property": "drive", "value": name}),
                resized(number, drive.size_bytes),
                ("remove-fd", {"fdset-id": number}),
            )


def resized(number: int, size_bytes: int) -> Order:
    """Have the guest told of a drive's size, which its file has already."""
    return "block_resize", {"node-name": name_of(number), "size": size_bytes}


async def take_out(qmp: Qmp, number: int) -> None:
    """Have the machine see an empty device again. MachineError."""
    name, empty = name_of(number), empty_drive(number)
    await qmp.execute_all(
        ("qom-set", {"path": f"/machine/peripheral/{name}", "property": "drive", "value": empty}),
        ("blockdev-del", {"node-name": name}),
    )


@contextmanager
def _opened(drive: Drive) -> Iterator[int]:
    mode = os.O_RDONLY if drive.read_only else os.O_RDWR
    try:
        descriptor = os.open(drive.path, mode | os.O_CLOEXEC)
    except OSError as error:
        raise MachineError(f"A volume cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_NB | (fcntl.LOCK_SH if drive.read_only else fcntl.LOCK_EX))
        yield descriptor
    except BlockingIOError as error:
        raise VolumeBusy("Another machine of this host has the volume.") from error
    finally:
        os.close(descriptor)


def _plain(name: str, number: int) -> tuple[Order]:
    return (
        ("blockdev-add", {"driver": "raw", "node-name": name, "file": _file(number), "discard": "unmap"}),
    )


def _layered(quarters: Quarters, name: str, number: int, drive: Drive) -> tuple[Order, Order]:
    file = f"{name}.qcow2"
    (quarters.home / file).write_bytes(overlay(drive.size_bytes, NOWHERE))
    quarters.give(file)
    below = {"driver": "raw", "node-name": f"{name}-below", "read-only": True, "file": _file(number)}
    above = {
        "driver": "qcow2",
        "node-name": name,
        "file": {"driver": "file", "filename": file, "locking": "off"},
        "cache": {"no-flush": True},
        "backing": f"{name}-below",
    }
    return ("blockdev-add", below), ("blockdev-add", above)


def _file(number: int) -> dict[str, Any]:
    return {"driver": "file", "filename": f"/dev/fdset/{number}", "locking": "off"}
