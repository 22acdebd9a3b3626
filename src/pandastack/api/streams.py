"""Streams to a client: server-sent events, and what WebSockets share."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.types import Receive, Scope, Send

from pandastack.endpoint import attended
from pandastack.errors import PandastackError
from pandastack.model.guest import Channel, Output

READY = b": ready\n\n"
"""The first record of every stream: what is asked for exists and has begun, so the answer may start."""

ALIVE = b": still here\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def record(event: str, data: object) -> bytes:
    """One server-sent event, its data compact JSON on one line."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), msgspec.json.encode(data))


class EventStream:
    """An answer of server-sent events, made by `records`, which yields READY first.

    An error before READY is an ordinary error answer; a later one becomes the record `error`. A comment every
    `beat_seconds` keeps the line open. When the client leaves, `records` is closed.
    """

    def __init__(self, records: AsyncGenerator[bytes, None], beat_seconds: float) -> None:
        self._records = records
        self._beat_seconds = beat_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._records):
            first = await anext(self._records)
            await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS]})
            await _part(send, first)
            await attended(receive, self._pump(send), lambda: _part(send, ALIVE), self._beat_seconds)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        try:
            async for part in self._records:
                await _part(send, part)
        except PandastackError as error:
            await _part(send, record("error", error.to_body()))


async def _part(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


class Text:
    """Output as text, piece by piece: a character that is cut in two comes whole with its second half."""

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {channel: decoder("replace") for channel in Channel}

    def of(self, piece: Output) -> str:
        """The text that this piece completes; may be empty."""
        return self._decoders[piece.channel].decode(piece.data)

    def rest(self) -> list[tuple[Channel, str]]:
        """What was left incomplete at the end."""
        ends = [(channel, decoder.decode(b"", final=True)) for channel, decoder in self._decoders.items()]
        return [(channel, text) for channel, text in ends if text]
