"""What is in the home of a machine on QEMU, and what the next program needs to find the machine again."""

from __future__ import annotations

from msgspec import Struct

from pandastack.host import layers
from pandastack.host.driver import MachineConfig

AGENT = "agent"
QMP = "qmp"
ORDERS = "orders"
"""Where it listens: for its agent's connection, for its monitor, and if it is a fork for the order to be
copied.
"""
LOG = "vmm.log"
RECORD = "machine.json"


class Record(Struct, frozen=True):
    """`machine.json`: what the next program needs to find this machine again."""

    pid: int
    started: int
    config: MachineConfig
    own_memory: bool
    """Booted from its kernel: the file `memory` in its home is its memory."""
    phases_ms: dict[str, float]
    layers: tuple[str, ...] = (layers.FIRST,)
    """Its disk layers, files of its home, the lowest first; see `layers`."""
    forked: bool = False
    """It can be copied while it runs."""
    user: int = 0
    """Whom its process belongs to; 0 when it is in no jail."""
