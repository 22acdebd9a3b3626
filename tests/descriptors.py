"""What a living process has open: its descriptors come and go while one looks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISSOCK


def opened(pid: int) -> Iterator[tuple[str, os.stat_result]]:
    """Each descriptor that stays open while it is looked at: what it leads to, by name and as a file."""
    for link in list(Path(f"/proc/{pid}/fd").iterdir()):
        with suppress(FileNotFoundError):  # closed meanwhile
            yield str(link.readlink()), link.stat()


def targets(pid: int) -> list[str]:
    """The names of what its descriptors lead to."""
    return [name for name, _ in opened(pid)]


def sockets(pid: int) -> set[str]:
    """The sockets among them, as `socket:[inode]`."""
    return {name for name, status in opened(pid) if S_ISSOCK(status.st_mode)}
