"""What a machine's monitor is told and asked, in QEMU's words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pandastack.host import layers
from pandastack.host.qemu_command import DISK_PATH
from pandastack.host.qmp import Order, Qmp

FLATTENING = "flatten"


async def status(qmp: Qmp) -> str:
    """QEMU's word for what the machine does."""
    return str((await qmp.execute("query-status"))["status"])


@asynccontextmanager
async def standing_still(qmp: Qmp, *, hold: bool = False) -> AsyncIterator[None]:
    """Its virtual CPUs are stopped within the block, and go on behind it: unless they were stopped before, or
    are to hold and the block has ended well.
    """
    running = (await qmp.execute("query-status"))["running"]
    if running:
        await qmp.execute("stop")
    try:
        yield
    except BaseException:
        hold = False
        raise
    finally:
        if running and not hold:
            await qmp.execute("cont")


def on_top(file: str, *, instead: str) -> tuple[Order, Order]:
    """The disk gets another top, which is open already; the one that it had is closed."""
    drive = {"path": DISK_PATH, "property": "drive", "value": layers.node(file)}
    return ("qom-set", drive), ("blockdev-del", {"node-name": layers.node(instead)})


async def flattening(qmp: Qmp) -> list[dict[str, Any]]:
    """The job that makes the layers of a disk one, if there is any."""
    return [job for job in await qmp.execute("query-jobs") if job["id"] == FLATTENING]


async def save_devices(qmp: Qmp, into: str) -> None:
    """All that is no memory and no disk. `live: false` leaves the disks usable: the machine goes on."""
    await qmp.execute("xen-save-devices-state", {"filename": into, "live": False})


def opening(file: str, *, backing: str | None = None, read_only: bool = False) -> Order:
    """Open a layer that is in the home."""
    layer = {
        "driver": "qcow2",
        "node-name": layers.node(file),
        "file": {"driver": "file", "filename": file, "locking": "off"},
        "cache": {"no-flush": True},
        "read-only": read_only,
        "backing": backing,
    }
    return "blockdev-add", layer
