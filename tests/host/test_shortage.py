"""What a host has run out of."""

from __future__ import annotations

import errno

import pytest

from pandastack.errors import MachineError, NoCapacity, NoSpace, PandastackError
from pandastack.host.shortage import told


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, NoSpace, "disk is full"),
        (errno.ENOMEM, NoCapacity, "no room for another machine at the moment: Cannot allocate memory."),
        (errno.EMFILE, NoCapacity, "Too many open files"),
        (errno.ENOENT, MachineError, r"x cannot be made: No such file or directory \(/a\)."),
    ],
)
def test_it_is_told_by_its_class(number: int, kind: type[PandastackError], words: str) -> None:
    with pytest.raises(kind, match=words):
        raise told(OSError(number, "", "/a"), "x cannot be made")
