"""Passing bytes on in both directions: counted, held back when there are too many, ended after silence."""

from __future__ import annotations

import asyncio

from pandastack.host.egress.body import Body
from pandastack.host.egress.bucket import Bucket
from pandastack.host.egress.head import Change, Head, Refused, read_head
from pandastack.host.egress.ledger import Ledger, Tally
from pandastack.host.egress.mask import Mask, Masked
from pandastack.host.egress.streams import Source, Stream

SWITCHING = b"HTTP/1.1 101"


class Meter:
    """Counts what passes one connection, and puts off the end of its patience."""

    def __init__(
        self, bucket: Bucket, ledger: Ledger, tally: Tally, patience: asyncio.Timeout, idle: float
    ) -> None:
        self._bucket = bucket
        self._ledger = ledger
        self._tally = tally
        self._patience = patience
        self._idle = idle
        self._now = asyncio.get_running_loop().time

    async def out(self, size: int) -> None:
        """So many bytes were written for the guest, values included that were put in."""
        self._tally.bytes_out += size
        await self._passed(size)

    async def back(self, size: int) -> None:
        """So many bytes were written to the guest."""
        self._tally.bytes_in += size
        await self._passed(size)

    async def _passed(self, size: int) -> None:
        self._ledger.touch(self._tally)
        await self._bucket.take(size)
        if not self._patience.expired():
            self._patience.reschedule(self._now() + self._idle)


async def pass_all(source: Source, to: Stream, meter: Meter) -> None:
    """Everything that the guest sends, and its end."""
    while source.held or await source.more():
        data = source.take()
        await to.write(data)
        await meter.out(len(data))
    await to.end()


async def pass_back(
    stream: Stream, guest: Stream, meter: Meter, switched: asyncio.Future[bool], mask: Mask
) -> None:
    """Everything that the server sends, masked, and its end; `switched` learns whether it began by switching
    to another protocol.
    """
    beginning = b""
    masked = Masked(stream, mask)
    try:
        while data := await masked.read():
            await guest.write(data)
            await meter.back(len(data))
            if not switched.done():
                beginning += data[: len(SWITCHING)]
                if len(beginning) >= len(SWITCHING):
                    switched.set_result(beginning.startswith(SWITCHING))
    finally:
        if not switched.done():
            switched.set_result(False)
    await guest.end()


class Requests:
    """Requests of HTTP/1 to one host, each read before it is passed on. `change` is done to the values of
    their fields.
    """

    def __init__(self, host: str | None, change: Change | None, switched: asyncio.Future[bool]) -> None:
        self._host = host
        self._change = change
        self._switched = switched

    async def pass_on(self, source: Source, to: Stream, meter: Meter) -> None:
        """Until the guest ends. Refused for a request to another host, and for one that is malformed: the
        connection is closed then, since an answer may be on its way.
        """
        first = True
        while head := await _next_head(source):
            if head.host != self._host:
                raise Refused("Another request on this connection names another host.")
            if self._change and head.method.upper() == "TRACE":
                raise Refused("A host that a secret is bound to is not asked to repeat a request.")
            raw = source.take(len(head.raw))
            sent = head.with_values(self._change) if self._change else raw
            await to.write(sent)
            await meter.out(len(sent))
            await _pass_body(head, source, to, meter)
            if first and head.upgrade and await self._switched:
                await pass_all(source, to, meter)
                return
            first = False
        await to.end()


async def _next_head(source: Source) -> Head | None:
    while True:
        head = read_head(source.held) if source.held else None
        if head is not None:
            return head
        if not await source.more():
            if source.held:
                raise Refused("The connection ended within the head of a request.")
            return None


async def _pass_body(head: Head, source: Source, to: Stream, meter: Meter) -> None:
    body = Body(head)
    while not body.done:
        if not source.held and not await source.more():
            raise Refused("The connection ended within the body of a request.")
        part = source.take(body.take(source.held))
        await to.write(part)
        await meter.out(len(part))
