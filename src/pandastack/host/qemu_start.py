"""The beginning of every machine: what is in its home before its process is."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from pandastack.host import layers, sparse, unix
from pandastack.host.driver import MachineConfig
from pandastack.host.jailer import Jailer, Lodging, lodging
from pandastack.host.qemu_command import CONSOLE
from pandastack.host.qemu_record import AGENT, LOG, ORDERS, QMP
from pandastack.host.quarters import STATE_IN


class Start:
    """What every start of a machine has in its home first: a copy of the overlay, three sockets that listen,
    the device `state` if it goes on from one. The sockets are this program's for the length of the block.

    With a `jailer` the machine has a user, who may write these things and `files`.
    """

    def __init__(
        self,
        config: MachineConfig,
        home: Path,
        overlay: Path,
        disk: tuple[str, ...] = (layers.FIRST,),
        *,
        jailer: Jailer | None,
        user: int | None = None,
        state: Path | None = None,
        files: tuple[str, ...] = (),
    ) -> None:
        self.config = config
        self.home = home
        self.fds: tuple[int, int, int, int]
        """Where it is listened for the monitor, the agent's connection, and orders to a fork; then the other
        end of the network device.
        """
        self.lodging: Lodging
        self.disk = disk
        self._jailer = jailer
        self._user = user
        self._state = state
        self._files = {disk[-1], *files, CONSOLE, LOG, *((STATE_IN,) if state else ())}
        self._overlay = overlay
        self._tap = -1
        self._sockets = contextlib.ExitStack()
        self._begun = self._copied = time.perf_counter()

    def with_nic(self, tap: int) -> Self:
        """What its network device sends to and receives from."""
        self._tap = tap
        return self

    def __enter__(self) -> Self:
        sparse.copy(self._overlay, self.home / self.disk[-1])
        self._copied = time.perf_counter()
        if self._state:
            sparse.copy(self._state, self.home / STATE_IN)
        with self._sockets:
            self.lodging = self._sockets.enter_context(
                lodging(self._jailer, self.home, self._files, user=self._user)
            )
            qmp, agent, orders = (
                self._sockets.enter_context(unix.listen(self.home / name)) for name in (QMP, AGENT, ORDERS)
            )
            self._sockets = self._sockets.pop_all()
        self.fds = (qmp.fileno(), agent.fileno(), orders.fileno(), self._tap)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sockets.__exit__(kind, error, trace)

    def phases(self, how: str) -> dict[str, float]:
        """Milliseconds until now, the last ones called `how`."""
        return {"overlay": ms(self._begun, self._copied), how: ms(self._copied, time.perf_counter())}


def ms(start: float, end: float) -> float:
    """Milliseconds between two moments in seconds."""
    return round((end - start) * 1000, 2)
