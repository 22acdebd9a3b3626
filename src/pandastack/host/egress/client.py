"""The host's end of the egress process: starts it, gives it orders, notices its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from msgspec import Struct

from pandastack.errors import MachineError, OutcomeUnknown
from pandastack.host import jail, procfs
from pandastack.host.egress.channel import MESSAGE_LIMIT, Channel
from pandastack.host.egress.orders import (
    Answer,
    Attach,
    Begin,
    Change,
    Detach,
    Envelope,
    Order,
    Receipts,
    Report,
)
from pandastack.host.shortage import told
from pandastack.model.egress import BoundSecret, Egress

DEADLINE = 10.0
PATIENCE = 10
"""Parts of the deadline, each of which has to pass by itself: a machine that stood still, as one does that is
moved elsewhere, comes back with one of them over, and does not take that for the process's silence.
"""
END_SECONDS = 5.0

NOBODY_READS = "the egress process does not take orders any more"


class Account(Struct, frozen=True):
    """The user that the process becomes, without any other group."""

    uid: int
    gid: int


class EgressProcess:
    """The process for as long as the block lasts. All orders are idempotent by slot.

    When it has `ended`, the host starts another one and attaches every slot again; until then no guest that
    is decided about by name reaches anything. Orders raise MachineError when it refused or has ended, and
    OutcomeUnknown when no answer came in time.
    """

    def __init__(self, log: Path, *, account: Account | None = None, deadline: float = DEADLINE) -> None:
        self._log = log
        self._account = account
        self.deadline = deadline
        """Seconds for one order."""
        self._turn = asyncio.Lock()
        self._orders = 0
        self._channel: Channel | None = None
        self._child: jail.Child | None = None

    async def __aenter__(self) -> Self:
        """Start it. MachineError when that fails."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._child = _started(theirs, self._log, self._account)
            except BaseException:
                ours.close()
                raise
        self._channel = Channel(ours)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It ends by itself when the channel does, and is killed when it does not."""
        channel, self._channel = self._channel, None  # who waits for an answer learns that none will come
        if channel:
            channel.close()
        if self._child:
            try:
                await asyncio.wait_for(self._child.wait(), END_SECONDS)
            except TimeoutError:
                await self._child.end(0)
            self._child.close()

    @property
    def pid(self) -> int:
        """Its process id; 0 before it was started."""
        return self._child.pid if self._child else 0

    @property
    def name(self) -> str:
        """Tells it from all others, also from those that have its process id before or after it."""
        return f"{self._child.pid}.{self._child.started}" if self._child else ""

    def alive(self) -> bool:
        """Whether it runs and takes orders: it ends soon after the channel to it."""
        return self._channel is not None and self._child is not None and self._child.alive()

    def end_soon(self) -> None:
        """End it at once, for good: it has not answered in time."""
        self._hang_up()
        if self._child is not None:
            self._child.signal(signal.SIGKILL)

    async def ended(self) -> int:
        """Wait until it has ended, and say how: its exit status."""
        if self._child is None:
            raise MachineError("the egress process was not started")
        return await self._child.wait()

    async def begin(self, ground: Begin) -> None:
        """What all slots share; the first order."""
        await self._ask(ground)

    async def attach(self, order: Attach, sockets: Sequence[socket.socket]) -> None:
        """Serve a slot on its three sockets: questions over UDP, over TCP, and connections. The caller closes
        its own descriptors of them afterwards.
        """
        await self._ask(order, [each.fileno() for each in sockets])

    async def change(self, slot: int, egress: Egress, secrets: tuple[BoundSecret, ...] = ()) -> None:
        """Another policy; when this returns, open connections that it forbids are closed."""
        await self._ask(Change(slot, egress, secrets))

    async def detach(self, slot: int) -> None:
        """Close everything of a slot."""
        await self._ask(Detach(slot))

    async def receipts(self, slot: int) -> Receipts:
        """What a slot has used since it was attached."""
        answer = await self._ask(Report(slot))
        if answer.receipts is None:
            raise MachineError("the egress process gave no receipts")
        return answer.receipts

    async def _ask(self, order: Order, descriptors: Sequence[int] = ()) -> Answer:
        async with self._turn:
            self._orders += 1
            envelope = Envelope(self._orders, len(descriptors), order)
            try:
                answer = await self._in_time(envelope, descriptors)
            except (OSError, ValueError) as error:
                self._hang_up()
                raise MachineError(f"{NOBODY_READS}: {error}") from error
        if answer.error:
            raise MachineError(f"the egress process refused an order: {answer.error}")
        return answer

    async def _in_time(self, envelope: Envelope, descriptors: Sequence[int]) -> Answer:
        exchange = asyncio.ensure_future(self._exchange(envelope, descriptors))
        try:
            for _ in range(PATIENCE):
                await asyncio.wait((exchange,), timeout=self.deadline / PATIENCE)
                if exchange.done():
                    return exchange.result()
        finally:
            if not exchange.done():
                exchange.cancel()
                await asyncio.wait((exchange,))
        name = type(envelope.order).__name__.lower()
        raise OutcomeUnknown(f"the egress process has not answered `{name}` in time")

    async def _exchange(self, envelope: Envelope, descriptors: Sequence[int]) -> Answer:
        """Send it and wait for its answer. An answer to an order that somebody gave up is passed over."""
        channel = self._channel
        if channel is None:
            raise MachineError(NOBODY_READS)
        order = msgspec.json.encode(envelope)
        if len(order) > MESSAGE_LIMIT:  # nothing was sent, and the next order is as good as before
            raise MachineError(f"an order of {len(order)} bytes is too long for the egress process")
        try:
            await channel.send(order, descriptors)
        except asyncio.CancelledError:
            self._hang_up()  # half an order may be on its way, and nothing can follow that
            raise
        while message := await channel.receive():
            answer = msgspec.json.decode(message, type=Answer)
            if answer.id == envelope.id:
                return answer
        self._hang_up()
        raise MachineError(NOBODY_READS)

    def _hang_up(self) -> None:
        """It is not alive any more, whether or not its end has been noticed."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


def _started(control: socket.socket, log: Path, account: Account | None) -> jail.Child:
    """The program, with the same code as this one, its end of the socket and nothing else."""
    code = Path(__file__).parents[3]
    argv = [sys.executable, "-m", "pandastack.host.egress", "--control", str(control.fileno())]
    if account:
        argv += ["--uid", str(account.uid), "--gid", str(account.gid)]
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"},
                pass_fds=[control.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            raise told(error, "the egress process cannot be started") from error
    process.returncode = 0  # the pidfd reaps it
    return jail.Child(process.pid, procfs.start_ticks(process.pid) or 0, os.pidfd_open(process.pid))
