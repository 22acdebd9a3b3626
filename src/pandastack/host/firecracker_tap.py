"""A tap for a Firecracker, which opens it by its name, in a namespace that it is started in.

Others hand on an open tap. What is behind such a descriptor tells its name and its namespace; and since a tap
is open once at a time, it is closed behind the descriptor, whose number stays its owner's.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from pandastack.host.firecracker_orders import Wire
from pandastack.host.network import namespace
from pandastack.host.network.addresses import GUEST_MAC
from pandastack.host.shortage import told

_TUNGETIFF = 0x800454D2
_TUNSETPERSIST = 0x400454CB
_TUNGETDEVNETNS = 0x54E3


@contextmanager
def wire_of(tap: int | None) -> Iterator[Wire]:
    """The way to the network behind the open `tap`, which nobody has open any more; without one a way that
    leads nowhere. For the length of the block, in which the machine must open it. MachineError.
    """
    descriptor = namespace.idle_tap() if tap is None else tap
    try:
        name, network = _released(descriptor)
    except OSError as error:
        raise told(error, "The tap cannot be handed on") from error
    finally:
        if tap is None:
            os.close(descriptor)
    try:
        yield Wire(network, name, GUEST_MAC)
    finally:
        os.close(network)


def _released(tap: int) -> tuple[str, int]:
    """Its name, and a descriptor of the namespace that it stays in."""
    name = struct.unpack("16s24x", fcntl.ioctl(tap, _TUNGETIFF, bytes(40)))[0].rstrip(b"\0").decode()
    fcntl.ioctl(tap, _TUNSETPERSIST, 1)
    network = fcntl.ioctl(tap, _TUNGETDEVNETNS)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(nothing, tap, inheritable=False)
    os.close(nothing)
    return name, network
