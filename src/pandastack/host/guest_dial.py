"""Connections to services in the guest, made by its agent: they need no network between host and guest."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from pandastack.errors import GuestUnreachable, InvalidRequest, PandastackError, PortClosed, RateLimited
from pandastack.host import operations, refusals
from pandastack.host.fields import Fields, Shape, Tag, decode_fields, encode_fields
from pandastack.host.frames import Data, FrameType, malformed
from pandastack.host.operations import CloseMode, Op
from pandastack.host.questions import Questions
from pandastack.host.stream import Stream
from pandastack.model.guest import Channel, Connection, Port

PORTS = range(1, 65_536)

_OPENED = Shape()
_CLOSED = {
    errno.ECONNREFUSED: "nothing listens there",
    errno.ETIMEDOUT: "it took no connection in time",
    errno.ECONNRESET: "it broke the connection off",
}


class GuestConnection:
    """A connection that stands."""

    def __init__(self, stream: Stream, port: int) -> None:
        self._stream = stream
        self._port = port
        self._heard = False
        self._ended = False

    async def read(self) -> bytes:
        """The next bytes; none at the end."""
        while not self._heard:
            item = await self._stream.receive()
            if isinstance(item, Data):
                return item.content
            if item.type is FrameType.DONE:
                self._heard = True
                _check_done(decode_fields(item.payload, operations.DONE), self._port)
            elif item.type is FrameType.EOF:
                self._heard = True
            else:
                raise malformed(f"{item.type.name} for DIAL")
        return b""

    async def write(self, data: bytes) -> None:
        """Send bytes as fast as the service takes them."""
        if not self._ended:
            await self._stream.write(data)

    async def end(self) -> None:
        """Send no more."""
        if not self._ended:
            self._ended = True
            self._stream.send(FrameType.EOF, bytes((Channel.STDIN,)))


class Dialling(Questions):
    """The verbs on ports."""

    @asynccontextmanager
    async def dial(self, port: int) -> AsyncIterator[Connection]:
        """A connection to a service of the guest."""
        if port not in PORTS:
            raise InvalidRequest(f"a port is 1 to {PORTS[-1]}, not {port}")
        request = encode_fields([(Tag.PORT, port)])
        with self._link.open(Op.DIAL, request, on_leave=CloseMode.KILL) as stream:
            frame = await stream.answer(self._deadlines.answer)
            if not isinstance(frame, Data) and frame.type is FrameType.DONE:
                self.ended(frame, operations.DONE, partial(_refusal, port))
                raise malformed("DONE for DIAL without OPENED")
            self.opened(frame, _OPENED)
            yield GuestConnection(stream, port)

    async def ports(self) -> tuple[Port, ...]:
        """The TCP ports that are listened on, in order."""
        found = await self._items(Op.PORTS, b"", operations.PORT, _port, _silence)
        return tuple(sorted((port for port in found if port.number in PORTS), key=lambda port: port.number))


def _port(item: Fields) -> Port:
    return Port(item.number(Tag.PORT), bool(item.number(Tag.LOOPBACK)))


def _check_done(done: Fields, port: int) -> None:
    if done.number(Tag.ERRNO):
        raise _refusal(port, done)


def _refusal(port: int, done: Fields) -> PandastackError:
    number = done.number(Tag.ERRNO)
    if number == errno.EAGAIN:
        return RateLimited("the sandbox has as many connections as it can")
    if number == errno.ESHUTDOWN:
        return GuestUnreachable("the sandbox takes no connection while its state is being saved")
    reason = _CLOSED.get(number) or refusals.message_of(done) or errno.errorcode.get(number, str(number))
    return PortClosed(f"port {port} of the sandbox: {reason}")


def _silence(done: Fields) -> PandastackError:
    return GuestUnreachable(f"the guest cannot tell its ports: {refusals.message_of(done)}")
