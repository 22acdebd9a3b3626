"""The disk of a machine: copy-on-write files over its base, of which only the top is written.

A snapshot of a running machine puts a new, empty layer on top; what was the top until then is never written
again. It belongs to the machine and to the snapshot alike: each has a link to it in a directory of its own,
and the file system removes it with the last of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pandastack.host import sparse

FIRST = "overlay.qcow2"
"""The top of a machine that has just started, in its home."""
REHEARSAL = "rehearsal.qcow2"
"""What a machine has for a top that rehearses, and is put away then."""


COMFORTABLE, MOST = 3, 7
"""Layers that a machine may have before they are made one: when there is time, and at the latest."""


def after(own: Sequence[str]) -> str:
    """The file of the layer that comes on top of a machine's `own`."""
    number = 1 + max(
        (int(Path(name).stem.partition("-")[2] or 0) for name in own if name[0] == "o"), default=0
    )
    return f"overlay-{number}.qcow2"


def below(number: int) -> str:
    """The file of a snapshot's layer, 0 the lowest; a machine that goes on from it has it under that name."""
    return f"layer-{number}.qcow2"


def node(name: str) -> str:
    """What QEMU calls the layer in this file."""
    return "root" if name == FIRST else Path(name).stem


def share(files: Sequence[Path], into: Path, names: Sequence[str]) -> None:
    """Have layers that nobody writes any more in a further directory too, by other names."""
    for file, name in zip(files, names, strict=True):
        link(file, into / name)


def link(file: Path, target: Path) -> None:
    """A link to `file`, which nobody writes any more; a copy where `target` is on another file system."""
    try:
        os.link(file, target)
    except OSError:
        sparse.copy(file, target)
