"""Where a machine lives: its home, and when it is in a jail its user and its control groups."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
from msgspec import Struct

from pandastack.errors import PostureViolation
from pandastack.host import mounts, posture, sparse
from pandastack.host.groups import Groups, Limits, number_of
from pandastack.host.jail import Child
from pandastack.host.means import Means

STATE_IN = "state.in"
STATE_OUT = "state.out"
"""The state of a machine's devices that it goes on from, or was told to write: in its home, as it sees
nothing else.
"""
log = structlog.get_logger("host")


class Quarters:
    """Those of one machine, which is `user` among those of `means`. 0 and None: it is in no jail, and its
    home has plain files.
    """

    def __init__(self, home: Path, user: int, limits: Limits, means: Means | None) -> None:
        self.home = home
        self.user = user
        self.means = means
        self._limits = limits
        self._number = number_of(home) if means else 0
        self._joining: asyncio.Future[None] | None = None
        self._made: tuple[Path, ...] = ()

    def moved(self, home: Path) -> None:
        """The home has been renamed."""
        if self.user and self.means:
            self.means.users.hold(self.user, home)
            self.means.users.let_go(self.user, self.home)
        self.home = home

    def give(self, name: str) -> None:
        """Have a file of the home be the machine's to write."""
        if self.user:
            with mounts.opened(self.home) as folder:
                mounts.give(folder, (name,), self.user)

    def take_back(self, *names: str) -> None:
        """Have files of the home be the machine's to read alone."""
        if self.user:
            mounts.take_back(self.home, names)

    @contextmanager
    def state_for(self, target: Path) -> Iterator[str]:
        """The name of a file where it can write its devices' state, which is copied to `target` then."""
        path = self.home / STATE_OUT
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        self.give(STATE_OUT)
        try:
            yield STATE_OUT
            sparse.copy(path, target)
        finally:
            path.unlink(missing_ok=True)

    def make_groups(self) -> None:
        """Make its control groups, beside whatever comes next; or `join_groups` does."""
        if self.means is not None:
            loop = asyncio.get_running_loop()
            self._joining = loop.run_in_executor(None, self._make, self.means.groups)

    def join_groups(self, process: Child, *, after: float = 0) -> None:
        """A process that was not started in its control groups is put into them beside its start: the kernel
        may take milliseconds for that. One that cannot be is ended.

        It begins `after` so many seconds: what this program does beside greeting a guest holds that up.
        """
        if self.means is not None:
            self._joining = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(after, self._begin, self.means, process, self._joining)

    def _begin(self, means: Means, process: Child, joined: asyncio.Future[None]) -> None:
        work = asyncio.get_running_loop().run_in_executor(None, self._join, means.groups, process)
        work.add_done_callback(lambda _: joined.set_result(None))

    async def joined(self) -> None:
        """Return once it is in them, or is ended, or they are made if nobody is to join them."""
        if self._joining is not None:
            await asyncio.wait((self._joining,))  # whoever is cancelled here does not cancel it for others

    def _make(self, groups: Groups) -> None:
        """In a thread."""
        with suppress(OSError):  # told by who joins them
            self._made = groups.make(self._number, self._limits)

    def _join(self, groups: Groups, process: Child) -> None:
        """In a thread."""
        try:
            groups.join(self._made or groups.make(self._number, self._limits), process.pid)
            posture.check_groups(process.pid, groups.parents, str(self._number))
        except (OSError, PostureViolation) as error:
            if process.ended_within(0):
                return
            log.warning("vm.not_limited", home=self.home.name, reason=str(error))
            process.signal(signal.SIGKILL)

    def check(self, pid: int) -> None:
        """PostureViolation when the process may do more than it should, MachineError when it has ended."""
        if self.user and self.means:
            posture.check(pid, self.user)

    async def leave(self) -> None:
        """Its process has ended: others may have what it had."""
        await self.joined()
        if self.user and self.means:
            self.means.users.let_go(self.user, self.home)
            await self.means.groups.end(self._number)


class Ahead(Struct, frozen=True):
    """What a machine has before its process is: made while a fork server is busy with that."""

    quarters: Quarters
    connection: socket.socket
    """To its agent's socket; the machine goes on only when it has it."""

    async def undo(self) -> None:
        """There will be no such machine."""
        self.connection.close()
        await self.quarters.leave()
