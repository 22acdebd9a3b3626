"""A connection that a client forwards to a port of the sandbox."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

import asyncssh

from pandastack.carrying import unless_cancelled
from pandastack.errors import PandastackError
from pandastack.model.guest import Connection
from pandastack.services.certificates import Admission
from pandastack.sshd.channel import Opener
from pandastack.telemetry import logger

log = logger("sshd")

READ_AHEAD = 256 << 10


class Tunnel(asyncssh.SSHTCPSession[bytes]):
    """One channel, and the service behind it, which is connected before the channel is."""

    def __init__(self, visitor: Opener, port: int) -> None:
        self._visitor = visitor
        self._port = port
        self._standing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._made = asyncio.Event()
        self._taken = asyncio.Event()
        self._taken.set()
        self._came = asyncio.Event()
        self._pieces: deque[bytes] = deque()
        self._kept = 0
        self._ended = False
        self._chan: asyncssh.SSHTCPChannel[bytes]

    # -- called by asyncssh

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._chan = chan
        self._made.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._visitor.close(self)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._pieces.append(data)
        self._kept += len(data)
        self._came.set()
        if self._kept > READ_AHEAD:
            self._chan.pause_reading()

    def eof_received(self) -> bool:
        self._ended = True
        self._came.set()
        return True

    def pause_writing(self) -> None:
        self._taken.clear()

    def resume_writing(self) -> None:
        self._taken.set()

    # -- ours

    async def stands(self) -> None:
        """Return once the service is connected. Errors: ChannelOpenError."""
        await self._standing

    async def carry(self) -> None:
        """Both directions, each to its own end; then the channel is closed."""
        try:
            admission = await self._visitor.admitted()
            await self._carry(admission)
        except PandastackError as error:
            unless_cancelled(error)
            self._refuse(str(error))
        except (asyncssh.Error, OSError) as error:  # the client has left
            unless_cancelled(error)
        except Exception as error:  # a bug of ours, which must not end the other connections
            unless_cancelled(error)
            log.exception("tunnel.crashed")
        finally:
            self._refuse("The connection has ended.")
            if self._made.is_set():
                self._chan.close()

    async def _carry(self, admission: Admission) -> None:
        ports = self._visitor.house.ports
        async with ports.reach(admission.caller, admission.sandbox_id, self._port) as connection:
            self._visitor.note(admission.caller, 101)
            if not self._standing.done():
                self._standing.set_result(None)
            await self._made.wait()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._inwards(connection))
                    group.create_task(self._outwards(connection))
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None

    async def _inwards(self, connection: Connection) -> None:
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                await connection.write(piece)
                self._kept -= len(piece)
                if self._kept <= READ_AHEAD // 2:
                    self._chan.resume_reading()
            if self._ended:
                break
            self._came.clear()
            await self._came.wait()
        await connection.end()

    async def _outwards(self, connection: Connection) -> None:
        while data := await connection.read():
            await self._taken.wait()
            await self._visitor.line.clear()
            self._chan.write(data)
        with suppress(OSError):
            self._chan.write_eof()

    def _refuse(self, reason: str) -> None:
        if not self._standing.done():
            error = asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, reason)
            self._standing.set_exception(error)
            self._standing.exception()  # heard, also when nobody waits any more
