"""What the host has run out of, told as the error of ours that says so."""

from __future__ import annotations

import errno
import os

from pandastack.errors import MachineError, NoCapacity, NoSpace, PandastackError

SPACE = (errno.ENOSPC, errno.EDQUOT)
ROOM = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)
"""Memory, processes, descriptors: what comes back when others end."""


def told(error: OSError, what: str) -> PandastackError:
    """NoSpace for a full disk and NoCapacity for what may be there later, else MachineError that `what`."""
    why = os.strerror(error.errno or 0)
    if error.errno in SPACE:
        return NoSpace("The host's disk is full: nothing was created. Free space and try again.")
    if error.errno in ROOM:
        return NoCapacity(f"The host has no room for another machine at the moment: {why}.")
    return MachineError(f"{what}: {why}" + (f" ({error.filename})." if error.filename else "."))
