"""One slot: the connections and questions of one guest, under one policy."""

from __future__ import annotations

import asyncio
import socket
import struct
import traceback
from collections.abc import Callable
from contextlib import suppress

from pandastack.host.egress.bucket import Bucket
from pandastack.host.egress.dial import original_destination
from pandastack.host.egress.orders import Receipts
from pandastack.host.egress.proxy import Connection
from pandastack.host.egress.resolver import Questions, Resolver
from pandastack.host.egress.standing import Standing
from pandastack.host.egress.streams import Plain
from pandastack.model.egress import BoundSecret, Egress

STREAMED_QUESTIONS = 16
"""Most TCP connections to the resolver at a time."""
QUESTION_SECONDS = 5.0
MESSAGE_LIMIT = 65535
BUSY_SECONDS = 0.05
"""How long to wait when this process has no descriptor left."""

Told = Callable[[str], None]
"""Takes a line for the log."""


class Slot:
    """Serves from `serve` until that is cancelled, and owns the three sockets."""

    def __init__(self, vm: str, standing: Standing, sockets: list[socket.socket], tell: Told) -> None:
        self.vm = vm
        self._standing = standing
        self._questions, self._streamed, self._proxied = sockets
        self._tell = tell
        rate = standing.ground.limits.questions_per_second
        clock = standing.ground.clock
        bucket = Bucket(rate, rate, clock.steady)
        self._resolver = Resolver(standing.policy, standing.ground.upstream, standing.ledger, bucket)
        self._open: dict[asyncio.Task[None], Connection | None] = {}
        self._asking: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Until cancelled; then everything of it is closed."""
        loop = asyncio.get_running_loop()
        for each in (self._questions, self._streamed, self._proxied):
            each.setblocking(False)
        try:
            async with asyncio.TaskGroup() as group:
                transport, questions = await loop.create_datagram_endpoint(
                    lambda: Questions(self._resolver, group), sock=self._questions
                )
                try:
                    group.create_task(self._accept_questions(group))
                    await self._accept(group)
                finally:
                    transport.close()
                    await questions.closed.wait()
        finally:
            self._streamed.close()
            self._proxied.close()

    async def change(self, egress: Egress, secrets: tuple[BoundSecret, ...]) -> None:
        """Another policy holds when this returns; what it forbids is closed."""
        self._standing.change(egress, secrets)
        policy = self._resolver.policy = self._standing.policy
        forbidden = [
            task
            for task, connection in self._open.items()
            if connection is not None and not connection.may_stay(policy, self._standing.secrets)
        ]
        for task in forbidden:
            task.cancel()
        if forbidden:
            await asyncio.wait(forbidden)

    def receipts(self) -> Receipts:
        """What it has used so far."""
        return Receipts(self.vm, self._standing.ledger.receipts(), self._standing.ledger.names())

    async def _accept(self, group: asyncio.TaskGroup) -> None:
        while True:
            connection = await _accepted(self._proxied)
            if connection is None:
                continue
            if len(self._open) >= self._standing.policy.egress.max_connections:
                self._turn_away(connection)
                continue
            task = group.create_task(self._serve(connection))
            self._open[task] = None
            task.add_done_callback(lambda done: self._open.pop(done, None) and None)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                original = original_destination(connection)
                proxied = Connection(self._standing, Plain(connection), original)
                current = asyncio.current_task()
                if current is not None:
                    self._open[current] = proxied
                await proxied.run()
        except* (OSError, TimeoutError):
            pass  # one of the ends has broken it off, or nobody spoke for too long
        except* Exception as errors:  # one connection must not end the others; values stay out of the log
            for error in errors.exceptions:
                self._tell(f"a connection of {self.vm} failed: {_place(error)}")

    def _turn_away(self, connection: socket.socket) -> None:
        limit = self._standing.policy.egress.max_connections
        with suppress(OSError):
            address, port = original_destination(connection)
            self._standing.ledger.tally(("tcp", None, address, port, f"max_connections: {limit}", False))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    async def _accept_questions(self, group: asyncio.TaskGroup) -> None:
        while True:
            connection = await _accepted(self._streamed)
            if connection is None:
                continue
            if len(self._asking) >= STREAMED_QUESTIONS:
                connection.close()
                continue
            task = group.create_task(self._answer(connection))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _answer(self, connection: socket.socket) -> None:
        """Questions over TCP, one after the other."""
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(sock=connection)
            try:
                while True:
                    async with asyncio.timeout(QUESTION_SECONDS):
                        wire = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                    answer = (
                        await self._resolver.answer(wire, MESSAGE_LIMIT) if self._resolver.admits() else None
                    )
                    if answer is None:
                        return
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                    async with asyncio.timeout(QUESTION_SECONDS):
                        await writer.drain()
            finally:
                writer.transport.abort()


async def _accepted(listener: socket.socket) -> socket.socket | None:
    """The next connection; None when one was lost, or there is no descriptor for it."""
    try:
        connection, _ = await asyncio.get_running_loop().sock_accept(listener)
    except OSError:
        await asyncio.sleep(BUSY_SECONDS)
        return None
    return connection


def _place(error: BaseException) -> str:
    """What went wrong and where, without any value."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        f"{type(error).__name__} in {frames[-1].name}:{frames[-1].lineno}" if frames else type(error).__name__
    )
