"""Keeps the egress process running, and every slot served by it: the resolver of each, and its proxy.

Names are not decided here. A process that ends is started anew and given all slots again; until then guests
that names decide about reach nothing, and nobody gets an answer to a question for a name.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import structlog
from msgspec import Struct

from pandastack.carrying import unless_cancelled
from pandastack.errors import MachineError, OutcomeUnknown, PandastackError
from pandastack.host.egress.client import Account, EgressProcess
from pandastack.host.egress.orders import Attach, Begin, Receipts
from pandastack.host.network import namespace
from pandastack.host.network.addresses import RESOLVER
from pandastack.host.network.rules import PROXY_PORT
from pandastack.model.egress import BoundSecret, Egress, Internet

RESTART_SECONDS = 0.5
"""Before a process that has ended is started anew."""
BIND_TRIES, BIND_SECONDS = 40, 0.05
"""The process before may still have the ports."""

log = structlog.get_logger("host")


class Served(Struct, frozen=True):
    """A slot that is served: its namespace, its policy and its secrets, which are kept in memory alone."""

    space: str
    egress: Egress
    secrets: tuple[BoundSecret, ...]


class Gatekeeper:
    """The egress process of a host. `run` has to be run."""

    def __init__(self, ground: Begin, folder: Path, account: Account | None) -> None:
        self._ground = ground
        self._log = folder / "egress.log"
        self._account = account
        self._served: dict[int, Served] = {}
        self._attached: dict[int, int] = {}
        """Those that the process serves, each with how many were before it."""
        self._attachments = 0
        self._turns: dict[int, asyncio.Lock] = {}
        """One is told of a slot at a time: whoever has another policy for it finds it attached, or not."""
        self._process: EgressProcess | None = None

    async def run(self) -> None:
        """Have a process that serves all slots, for ever."""
        while True:
            try:
                async with EgressProcess(self._log, account=self._account) as process:
                    await self._serve_all(process)
                    status = await process.ended()
                log.warning("egress.ended", status=status)
            except (PandastackError, OSError) as error:
                unless_cancelled(error)
                log.warning("egress.not_started", reason=str(error))
            finally:
                self._process = None
                self._attached.clear()
            await asyncio.sleep(RESTART_SECONDS)

    @property
    def certificate(self) -> str | None:
        """What guests are to trust that secrets are put in for, PEM; None on a host that puts in none."""
        return self._ground.authority.certificate if self._ground.authority else None

    async def serve(
        self, number: int, space: str, egress: Egress, secrets: tuple[BoundSecret, ...] = ()
    ) -> None:
        """Serve a slot, whose namespace is called `space`, by this policy from now on, and put these secrets
        in; one without internet has no resolver. Nothing happens while there is no process: the next one
        serves it. MachineError.
        """
        wanted = Served(space, egress, secrets)
        before = self._served.get(number)
        if egress.internet is Internet.OFF:
            await self.leave(number)
            return
        if before == wanted and (self._process is None or number in self._attached):
            return
        self._served[number] = wanted
        if self._process is not None:
            with _unless_ended(self._process):
                await self._tell(self._process, number)

    async def leave(self, number: int) -> None:
        """Serve it no more; fine when it was not served."""
        process, before = self._process, self._served.pop(number, None)
        if process is None or (before is None and number not in self._attached):
            return
        with _unless_ended(process):
            async with self._turn(number):  # behind whoever attaches it just now
                await process.detach(number)
                if process is self._process:
                    self._attached.pop(number, None)

    async def receipts(self, number: int) -> tuple[str, Receipts | None]:
        """What the process knows of a slot, and a name for it that another one has not, nor the same process
        when it serves the slot anew; neither when there is none, or it does not serve it.
        """
        if number not in self._attached or self._process is None:
            return "", None
        process, name = self._process, f"{self._process.name}.{self._attached[number]}"
        with _unless_ended(process):
            return name, await process.receipts(number)
        return "", None

    async def _serve_all(self, process: EgressProcess) -> None:
        await process.begin(self._ground)
        self._process = process
        for number in list(self._served):
            await self._tell_one(process, number)

    async def _tell_one(self, process: EgressProcess, number: int) -> None:
        """One that cannot be served reaches nothing until its next order, and the others are served."""
        try:
            await self._tell(process, number)
        except MachineError as error:
            unless_cancelled(error)
            if not process.alive():
                raise
            self._served.pop(number, None)
            log.warning("egress.not_served", slot=number, reason=str(error))

    async def _tell(self, process: EgressProcess, number: int) -> None:
        """Have it serve the slot as it is to be served now, if it still is. One that is to be changed may not
        be attached yet, while a new process is told of all of them.
        """
        async with self._turn(number):
            served = self._served.get(number)
            if served is None:
                return
            if number in self._attached:
                await process.change(number, served.egress, served.secrets)
                return
            with ExitStack() as held:
                order = Attach(number, served.space, served.egress, served.secrets)
                await process.attach(order, await _bound(served.space, held))
            if process is self._process:
                self._attachments += 1
                self._attached[number] = self._attachments

    def _turn(self, number: int) -> asyncio.Lock:
        return self._turns.setdefault(number, asyncio.Lock())


async def _bound(space: str, held: ExitStack) -> Sequence[socket.socket]:
    """The three sockets of a slot, in its namespace. MachineError when somebody else keeps the ports."""
    for _ in range(BIND_TRIES):
        with suppress(OSError):
            return _bind(space, held)
        await asyncio.sleep(BIND_SECONDS)
    raise MachineError(f"the ports of {space} are in use")


def _bind(space: str, held: ExitStack) -> Sequence[socket.socket]:
    resolver = (str(RESOLVER.ip), 53)
    with namespace.inside(space), ExitStack() as opened:
        questions = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        questions.bind(resolver)
        longer = opened.enter_context(socket.create_server(resolver, backlog=64))
        led = opened.enter_context(socket.create_server(("", PROXY_PORT), backlog=1024))
        held.push(opened.pop_all())
    return questions, longer, led


@contextmanager
def _unless_ended(process: EgressProcess) -> Iterator[None]:
    """What a process that has ended does not answer, the next one is told. One that is silent for too long is
    ended for it: nobody knows what it keeps to.
    """
    try:
        yield
    except OutcomeUnknown as error:
        log.warning("egress.silent", reason=error.message)
        process.end_soon()
    except MachineError:
        if process.alive():
            raise
