"""Snapshots as files over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import cast

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pandastack.api.calls import Api
from pandastack.api.keys import created, key_of
from pandastack.endpoint import ClientGone, Nothing, Reply, attended, inflow, interim
from pandastack.errors import ArchiveRefused
from pandastack.model.snapshot import Comment, Label, SnapshotRequest

OCTETS = "application/octet-stream"
STALL_SECONDS = 60.0
"""So long may nothing of a file come, or be taken, before it counts as given up."""


class Labels(Struct, frozen=True):
    """What people call the snapshot here, and what is noted beside it."""

    name: Label = ""
    comment: Comment = ""


async def export(call: Api[None, Nothing]) -> Response | Export:
    if call.connection.scope["method"] == "HEAD":
        await call.app.snapshots.get(call.caller, call.path["snapshot_id"])
        return Response(media_type=OCTETS)
    return Export(call)


async def take_in(call: Api[None, Labels]) -> Reply:
    request, labels = cast(Request, call.connection), call.query  # POST is no WebSocket
    label = SnapshotRequest(labels.name, labels.comment)
    async with inflow(request, call.app.beat_seconds) as pieces:
        transfers, key = call.app.transfers, key_of(call)
        made = await transfers.take_in(call.caller, label, _lively(pieces), key)
        return created(made, made.value)


class Export:
    """The file as an answer, which begins when all of the snapshot has been read once and is sound."""

    def __init__(self, call: Api[None, Nothing]) -> None:
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = self._call
        async with AsyncExitStack() as stack:
            exported = call.app.transfers.exported(call.caller, call.path["snapshot_id"])
            opening = stack.enter_async_context(exported)
            content = await attended(receive, opening, interim(scope), call.app.beat_seconds)
            headers = [(b"content-type", OCTETS.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await attended(receive, _sent(content, send), None, STALL_SECONDS)


async def _sent(content: AsyncIterator[bytes], send: Send) -> None:
    async for piece in content:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError as error:
            raise ClientGone from error
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _lively(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, unless it stalls."""
    while True:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                piece = await anext(pieces, None)
        except TimeoutError as error:
            raise ArchiveRefused(f"Nothing of the file has come for {STALL_SECONDS:g} s.") from error
        if piece is None:
            return
        yield piece
