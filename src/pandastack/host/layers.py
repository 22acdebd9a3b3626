"""The disk layers in a machine's home: copy-on-write files over its base, of which only the top is written.

A snapshot of a running machine puts a new, empty layer on top; what was the top until then is never written
again. It belongs to the machine and to the snapshot alike: each has a link to it in a directory of its own,
and the file system removes it with the last of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pandastack.host import sparse

FIRST = "overlay.qcow2"


def name(number: int) -> str:
    """The file of a home's layer, 0 the lowest."""
    return FIRST if number == 0 else f"overlay-{number}.qcow2"


def node(number: int) -> str:
    """What QEMU calls it."""
    return "root" if number == 0 else f"root-{number}"


def share(files: Iterable[Path], into: Path) -> None:
    """Have layers that nobody writes any more in a further directory too, under their names."""
    for file in files:
        link(file, into / file.name)


def link(file: Path, target: Path) -> None:
    """A link to `file`, which nobody writes any more; a copy where `target` is on another file system."""
    try:
        os.link(file, target)
    except OSError:
        sparse.copy(file, target)
