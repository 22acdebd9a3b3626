"""Logs, events, boot figures and the audit over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.responses import Response

from pandastack.api.calls import Api
from pandastack.api.streams import READY, EventStream, record
from pandastack.errors import Conflict, InvalidRequest, SandboxNotFound
from pandastack.model.account import AuditEntry
from pandastack.model.sandbox import Event
from pandastack.services.vitals import BootStats

LAST_EVENT = "sandbox.deleted"
LOG_BYTES = 1 << 20
FOLLOWED_BYTES = 4096
"""So much of the past a followed log begins with."""


class LogStream(StrEnum):
    """A console is one stream; all three ask for it."""

    BOTH = "both"
    STDOUT = "stdout"
    STDERR = "stderr"


class WhichLog(Struct, frozen=True):
    """`follow` streams what comes; `tail` is a number of lines."""

    follow: bool = False
    stream: LogStream = LogStream.BOTH
    tail: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None


class WhichEvents(Struct, frozen=True):
    """The last `tail`; `follow` streams what comes."""

    tail: Annotated[int, Meta(ge=0, le=1000)] = 50
    follow: bool = False


class WhichBoots(Struct, frozen=True):
    """So many of the newest boots one by one."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 50


class WhichAudit(Struct, frozen=True):
    """Entries since a time (RFC 3339 or seconds since 1970; a day ago when left out)."""

    since: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 200


class EventList(Struct, frozen=True):
    """Events, oldest first."""

    events: list[Event]


class AuditList(Struct, frozen=True):
    """Entries, newest first."""

    entries: list[AuditEntry]
    since: datetime


async def logs(call: Api[None, WhichLog]) -> Response | EventStream:
    if call.query.follow:
        return EventStream(_log_records(call), call.app.beat_seconds)
    data = await call.app.vitals.console(call.caller, call.path["sandbox_id"], LOG_BYTES)
    return Response(_last_lines(data, call.query.tail), media_type="text/plain")


async def events(call: Api[None, WhichEvents]) -> EventList | EventStream:
    if call.query.follow:
        return EventStream(_event_records(call), call.app.beat_seconds)
    tail = await call.app.events.tail(call.caller, call.path["sandbox_id"], call.query.tail)
    return EventList(tail)


async def boots(call: Api[None, WhichBoots]) -> BootStats:
    return await call.app.vitals.boots(call.caller, call.query.limit)


async def audit(call: Api[None, WhichAudit]) -> AuditList:
    start, entries = await call.app.trail.since(call.caller, _moment(call.query.since), call.query.limit)
    return AuditList(entries, start)


async def _log_records(call: Api[None, WhichLog]) -> AsyncGenerator[bytes, None]:
    sandbox_id = call.path["sandbox_id"]
    await call.app.sandboxes.host_for(call.caller, sandbox_id)
    yield READY
    yield record("open", {"path": "console.log"})
    rest = b""
    try:
        async for data in call.app.vitals.follow_console(call.caller, sandbox_id, FOLLOWED_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield record("line", {"line": line.decode("utf-8", "replace") + "\n"})
    except (SandboxNotFound, Conflict):
        return  # it has ended, and its log with it


async def _event_records(call: Api[None, WhichEvents]) -> AsyncGenerator[bytes, None]:
    sandbox_id, tail = call.path["sandbox_id"], call.query.tail
    await call.app.sandboxes.get(call.caller, sandbox_id, deleted=True)
    yield READY
    async for event in call.app.events.follow(call.caller, sandbox_id, tail):
        yield record("event", event)
        if event.type == LAST_EVENT:
            return


def _last_lines(data: bytes, count: int | None) -> bytes:
    if count is None:
        return data
    lines = data.splitlines(keepends=True)
    return b"".join(lines[len(lines) - count :] if count < len(lines) else lines)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        pass
    try:
        moment = msgspec.convert(text.replace(" ", "+"), datetime)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"since is an RFC 3339 time or seconds since 1970; got {text!r}.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
