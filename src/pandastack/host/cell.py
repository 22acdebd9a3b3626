"""What a process has in its jail, as a value, and the order that the jail's program takes.

`jail/src/order.h` tells the order's form.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

MAX_DESCRIPTORS = 1024
BADNESS = 500
"""How much rather than the server a machine is ended when memory is short, of 1000."""


class Bind(Struct, frozen=True):
    """A file or folder of the host's that the jail has at the same path, read only."""

    path: Path
    how: str = ""
    """`x`: can be executed. `d`: a device that works."""


class Cell(Struct, frozen=True, kw_only=True):
    """One jail."""

    program: Path
    """The jail's program, which makes it."""
    user: int
    """And group. The server of forks is root, with few capabilities."""
    home: int
    """The descriptor of the home, a mount that is attached nowhere."""
    binds: tuple[Bind, ...]
    links: Mapping[str, str] = {}
    """Symbolic links in the root: where they lead, by name."""
    groups: tuple[Path, ...] = ()
    """The lists of the control groups that it is in."""
    capabilities: int = 0
    is_server: bool = False
    """Its children outlive it, in the same namespace of processes; what they may not do they see to
    themselves.
    """

    signals: bool = False
    """Its threads signal each other; it could signal whatever process of its user it sees, so it must be
    alone.
    """

    def order(self, argv: Sequence[str], env: Mapping[str, str], file_size: int | None) -> bytes:
        """All of it, to have `argv` executed there."""
        words = [word for part in self._parts(argv, env, file_size) for word in part]
        return b"".join(os.fsencode(word) + b"\0" for word in words)

    def _parts(
        self, argv: Sequence[str], env: Mapping[str, str], file_size: int | None
    ) -> Iterator[tuple[str, ...]]:
        for bind in self.binds:
            yield "b", str(bind.path), str(bind.path).lstrip("/"), bind.how
        for name, target in self.links.items():
            yield "s", target, name
        for group in self.groups:
            yield "g", str(group)
        limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: MAX_DESCRIPTORS}
        if file_size is not None:
            limits[resource.RLIMIT_FSIZE] = file_size
        for which, limit in limits.items():
            yield "l", str(which), str(limit)
        yield "h", str(self.home)
        yield "u", str(self.user)
        yield "k", f"{self.capabilities:x}"
        yield "o", str(BADNESS)
        yield ("i",) if self.is_server else ("f",)
        if self.signals:
            yield ("t",)
        for name, value in env.items():
            yield "e", f"{name}={value}"
        for word in argv:
            yield "a", word
