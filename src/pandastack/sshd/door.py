"""How many may come, how long they may take to say who they are, and what ends with them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine

import asyncssh
from msgspec import Struct

from pandastack.carrying import unless_cancelled
from pandastack.errors import PandastackError
from pandastack.services.certificates import Admission, Certificates
from pandastack.services.commands import Commands
from pandastack.services.ports import Ports
from pandastack.services.sandboxes import Sandboxes
from pandastack.services.trail import Trail
from pandastack.sshd.limits import Limits
from pandastack.sshd.line import Line
from pandastack.telemetry import logger

log = logger("sshd")


class House(Struct, frozen=True):
    """What visitors come for."""

    certificates: Certificates
    commands: Commands
    sandboxes: Sandboxes
    ports: Ports
    trail: Trail
    new_id: Callable[[], str]


class Door:
    """All connections of a listener, and the tasks that serve them."""

    def __init__(self, house: House, limits: Limits, group: asyncio.TaskGroup) -> None:
        self.house = house
        self.limits = limits
        self._group = group
        self._inside: dict[Line, str] = {}
        self._strangers: dict[Line, str] = {}
        self._admitted: dict[Line, tuple[str, str]] = {}
        self._by_address: Counter[str] = Counter()
        self._left = asyncio.Event()
        self._ending = False

    def enter(self, line: Line, address: str) -> bool:
        """Count one more, unless there are too many; strangers make room for strangers."""
        limits = self.limits
        if self._by_address[address] >= limits.of_one_address + limits.strangers_of_one_address:
            return False
        if len(self._inside) >= limits.connections + limits.strangers:
            return False
        same = [other for other, its in self._strangers.items() if its == address]
        if len(same) >= limits.strangers_of_one_address:
            same[0].abort()
            self.leave(same[0])
        elif len(self._strangers) >= limits.strangers:
            oldest = next(iter(self._strangers))
            oldest.abort()
            self.leave(oldest)
        self._inside[line] = self._strangers[line] = address
        self._by_address[address] += 1
        return True

    def leave(self, line: Line) -> None:
        """It has ended; twice is fine."""
        self._strangers.pop(line, None)
        self._admitted.pop(line, None)
        address = self._inside.pop(line, None)
        if address is not None:
            self._left.set()
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def know(self, line: Line, login: str, key: str) -> bool:
        """Somebody has shown a certificate for `login`, made with this API key; False when there are too many
        already.
        """
        address = self._strangers.pop(line, None)
        if address is None:
            return False
        known = sum(its == address for other, its in self._inside.items() if other in self._admitted)
        if known >= self.limits.of_one_address or len(self._admitted) >= self.limits.connections:
            return False
        if sum(its == key for _, its in self._admitted.values()) >= self.limits.of_one_key:
            return False
        self._admitted[line] = login, key
        line.known = True
        log.info("ssh.admitted", login=login, key=key, address=address)
        return True

    def start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None] | None:
        """Have something done beside; it must not fail, and ends when the listener does. None when that ends
        already.
        """
        if self._ending:
            work.close()
            return None
        return self._group.create_task(work)

    async def admit(self, login: str, key: str) -> Admission:
        """Errors: those of certificates."""
        return await self.house.certificates.admit(login, key)

    async def keep(self) -> None:
        """End connections whose sandbox or API key is gone, as soon as that is seen. It goes on for ever."""
        while True:
            await asyncio.sleep(self.limits.look)
            for line, (login, key) in list(self._admitted.items()):
                await self._look(line, login, key)

    async def _look(self, line: Line, login: str, key: str) -> None:
        try:
            await self.admit(login, key)
        except PandastackError as error:
            unless_cancelled(error)
            if error.status < 500:  # else it is our fault, and passes
                self.end(line, str(error))
        except Exception as error:  # a bug of ours, which must not end the connections
            unless_cancelled(error)
            log.exception("look.crashed")

    def end(self, line: Line, reason: str) -> None:
        """End a connection, and tell its client why."""
        log.info("ssh.ended", login=self._admitted.get(line, ("", ""))[0], reason=reason)
        line.disconnect(asyncssh.DISC_BY_APPLICATION, reason)

    def end_all(self) -> None:
        """End every connection."""
        self._ending = True
        for line in list(self._inside):
            line.disconnect(asyncssh.DISC_BY_APPLICATION, "The server ends.")

    def cut_all(self) -> None:
        """End every connection whose client does not take that it ends."""
        for line in list(self._inside):
            line.abort()

    async def emptied(self) -> None:
        """Return once nobody is left."""
        while self._inside:
            self._left.clear()
            await self._left.wait()
