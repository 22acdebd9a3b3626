"""Commands and processes over HTTP; those over WebSockets are in `sockets`."""

from __future__ import annotations

import signal as signals
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Annotated, cast

from msgspec import Meta, Struct
from starlette.requests import Request

from pandastack.api.calls import Api, Body
from pandastack.api.streams import READY, EventStream, Text, record
from pandastack.endpoint import Nothing, Reply, inflow
from pandastack.errors import InvalidRequest
from pandastack.model.command import CommandRequest, ExecRequest, ExecResult, Started, StartRequest
from pandastack.model.guest import Channel, ProcessInfo
from pandastack.services.activity import Use
from pandastack.services.commands import Running

NAMES = {Channel.STDOUT: "stdout", Channel.STDERR: "stderr"}


class Signal(Struct, frozen=True, forbid_unknown_fields=True):
    """A signal by its number or its name, with or without SIG."""

    signal: int | str = "TERM"


class Wait(Struct, frozen=True):
    """How long to wait for the end of a process, in seconds."""

    wait_seconds: Annotated[float, Meta(ge=0, le=30)] = 0.0


class Feed(Struct, frozen=True):
    """Whether the stdin of the process ends behind the body."""

    eof: bool = False


async def run(call: Api[ExecRequest, Nothing]) -> ExecResult | Reply:
    sandbox_id = call.path["sandbox_id"]
    if call.body.background:
        return Reply(await call.app.commands.start(call.caller, sandbox_id, _left_alone(call.body)), 201)
    return await call.app.commands.run(call.caller, sandbox_id, call.body)


async def stream(call: Api[ExecRequest, Nothing]) -> EventStream:
    if call.body.background:
        raise InvalidRequest(
            "A background command has no stream here: start it with exec, then attach to it."
        )
    opening = call.app.commands.open(call.caller, call.path["sandbox_id"], call.body, Use.STREAM)
    return _event_stream(call, opening)


async def start(call: Api[StartRequest, Nothing]) -> Started:
    return await call.app.commands.start(call.caller, call.path["sandbox_id"], call.body)


async def processes(call: Api[None, Nothing]) -> list[ProcessInfo]:
    return await call.app.commands.processes(call.caller, call.path["sandbox_id"])


async def process(call: Api[None, Wait]) -> ProcessInfo:
    """With `wait_seconds` the answer comes as soon as it has ended, at the latest after so many seconds."""
    return await call.app.commands.process(
        call.caller,
        call.path["sandbox_id"],
        call.path["process_id"],
        wait_seconds=call.query.wait_seconds,
    )


async def feed(call: Api[None, Feed]) -> None:
    """The answer comes when the process's pipe has taken the whole body; with `eof` its stdin ends then."""
    request = cast(Request, call.connection)  # POST is no WebSocket
    async with inflow(request, call.app.beat_seconds) as pieces:
        await call.app.commands.feed(
            call.caller, call.path["sandbox_id"], call.path["process_id"], pieces, last=call.query.eof
        )


async def attach(call: Api[None, Nothing]) -> EventStream:
    attached = call.app.commands.attach(call.caller, call.path["sandbox_id"], call.path["process_id"])
    return _event_stream(call, attached)


async def send_signal(call: Api[Signal, Nothing]) -> None:
    await call.app.commands.signal(
        call.caller, call.path["sandbox_id"], call.path["process_id"], _number(call.body.signal)
    )


async def kill(call: Api[None, Nothing]) -> None:
    await call.app.commands.signal(
        call.caller, call.path["sandbox_id"], call.path["process_id"], signals.SIGKILL
    )


def _event_stream(call: Api[Body, Nothing], running: AbstractAsyncContextManager[Running]) -> EventStream:
    return EventStream(_records(running), call.app.beat_seconds)


async def _records(opening: AbstractAsyncContextManager[Running]) -> AsyncGenerator[bytes, None]:
    async with opening as running:
        yield READY
        text = Text()
        async for piece in running.process.output():
            if chunk := text.of(piece):
                yield record(NAMES[piece.channel], {"chunk": chunk})
        for channel, chunk in text.rest():
            yield record(NAMES[channel], {"chunk": chunk})
        ended = await running.ended()
        yield record("exit", {"exit_code": ended.exit_code, "duration_ms": round(ended.duration_us / 1000)})


def _left_alone(request: ExecRequest) -> StartRequest:
    """A command of `exec` that runs in the background."""
    if request.stdin is not None or request.stdin_base64 is not None:
        raise InvalidRequest(
            "A background command is given no stdin here: start it at processes with stdin true, then write."
        )
    names = CommandRequest.__struct_fields__
    return StartRequest(**{name: getattr(request, name) for name in names})


def _number(signal: int | str) -> int:
    if isinstance(signal, int):
        if 0 < signal < signals.NSIG:
            return signal
        raise InvalidRequest(f"signal is 1 to {signals.NSIG - 1}, or a name; got {signal}.")
    name = signal.upper()
    try:
        return signals.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError:
        raise InvalidRequest(f"There is no signal {signal!r}; examples: TERM, INT, KILL, HUP.") from None
