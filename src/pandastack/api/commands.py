"""Commands and processes over HTTP; those over WebSockets are in `sockets`."""

from __future__ import annotations

import signal as signals
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager

from msgspec import Struct

from pandastack.api.calls import Api, Body
from pandastack.api.streams import READY, EventStream, Text, record
from pandastack.endpoint import Nothing, Reply
from pandastack.errors import InvalidRequest
from pandastack.model.command import ExecRequest, ExecResult, Started
from pandastack.model.guest import Channel, ProcessInfo
from pandastack.services.commands import Running

NAMES = {Channel.STDOUT: "stdout", Channel.STDERR: "stderr"}


class Signal(Struct, frozen=True, forbid_unknown_fields=True):
    """A signal by its number or its name, with or without SIG."""

    signal: int | str = "TERM"


async def run(call: Api[ExecRequest, Nothing]) -> ExecResult | Reply:
    sandbox_id = call.path["sandbox_id"]
    if call.body.background:
        return Reply(await call.app.commands.start(call.caller, sandbox_id, call.body), 201)
    return await call.app.commands.run(call.caller, sandbox_id, call.body)


async def stream(call: Api[ExecRequest, Nothing]) -> EventStream:
    if call.body.background:
        raise InvalidRequest(
            "A background command has no stream here: start it with exec, then attach to it."
        )
    return _event_stream(call, call.app.commands.open(call.caller, call.path["sandbox_id"], call.body))


async def start(call: Api[ExecRequest, Nothing]) -> Started:
    return await call.app.commands.start(call.caller, call.path["sandbox_id"], call.body)


async def processes(call: Api[None, Nothing]) -> list[ProcessInfo]:
    return await call.app.commands.processes(call.caller, call.path["sandbox_id"])


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
        yield record("exit", {"exit_code": ended.exit_code})


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
