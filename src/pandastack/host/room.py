"""Room on the disk that machines write to.

QEMU stops a machine whose write finds the host's disk full; it goes on, with nothing lost, once it is told to
after room has been made.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pandastack.errors import MachineError, NoSpace
from pandastack.telemetry import logger

FULL_BYTES = 1 << 20
"""A disk with less is full: a machine's disk grows by 64 KiB at a time."""

log = logger("host")


class Room:
    """The free space of the file system that holds `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._full = False

    def is_back(self) -> bool:
        """Whether the disk was full when this was last asked and no longer is. The log is told of both."""
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError:
            return False  # the directory is gone: there is nobody to go on
        was_full, self._full = self._full, free < FULL_BYTES
        if self._full and not was_full:
            log.error("disk.full", directory=str(self._directory), hint="machines that write stand still")
        if was_full and not self._full:
            log.info("disk.has_room", directory=str(self._directory))
        return was_full and not self._full


@contextmanager
def full_disk_found(directory: Path) -> Iterator[None]:
    """NoSpace for what a machine could not do in the block while the disk was full: its process does not
    always say why.
    """
    try:
        yield
    except MachineError as error:
        if shutil.disk_usage(directory).free >= FULL_BYTES:
            raise
        raise NoSpace(f"The disk is full. Free some space and try again: {error.message}") from error
