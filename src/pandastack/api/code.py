"""Code contexts and cells over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing

from pandastack.api.calls import Api
from pandastack.api.streams import READY, EventStream, record
from pandastack.endpoint import Endpoint, Nothing
from pandastack.jupyter.places import LANGUAGES
from pandastack.model.account import Scope
from pandastack.model.code import (
    CellEnd,
    CellError,
    CellEvent,
    CellRequest,
    CellResult,
    CodeContext,
    ContextRequest,
    Missed,
    SnippetRequest,
    Text,
)
from pandastack.services.cells import RunningCell

SSE = "text/event-stream"


async def languages(call: Api[None, Nothing]) -> list[str]:
    return list(LANGUAGES)


async def create(call: Api[ContextRequest, Nothing]) -> CodeContext:
    return await call.app.kernels.create(call.caller, call.path["sandbox_id"], call.body)


async def listing(call: Api[None, Nothing]) -> list[CodeContext]:
    return await call.app.kernels.listing(call.caller, call.path["sandbox_id"])


async def snippet(call: Api[SnippetRequest, Nothing]) -> CellResult:
    return await call.app.kernels.snippet(call.caller, call.path["sandbox_id"], call.body)


async def run(call: Api[CellRequest, Nothing]) -> CellResult:
    return await call.app.kernels.run(
        call.caller, call.path["sandbox_id"], call.path["context_id"], call.body
    )


async def stream(call: Api[CellRequest, Nothing]) -> EventStream:
    opening = call.app.kernels.open(call.caller, call.path["sandbox_id"], call.path["context_id"], call.body)
    return EventStream(_records(opening), call.app.beat_seconds)


async def interrupt(call: Api[None, Nothing]) -> None:
    await call.app.kernels.interrupt(call.caller, call.path["sandbox_id"], call.path["context_id"])


async def restart(call: Api[None, Nothing]) -> CodeContext:
    return await call.app.kernels.restart(call.caller, call.path["sandbox_id"], call.path["context_id"])


async def delete(call: Api[None, Nothing]) -> None:
    await call.app.kernels.delete(call.caller, call.path["sandbox_id"], call.path["context_id"])


async def _records(opening: AbstractAsyncContextManager[RunningCell]) -> AsyncGenerator[bytes, None]:
    async with opening as running, aclosing(running.events()) as events:
        yield READY
        async for event in events:
            yield _record(event)


def _record(event: CellEvent) -> bytes:
    if isinstance(event, Text):
        return record(event.channel, {"chunk": event.text})
    if isinstance(event, CellError):
        return record("error", {"error": event.formatted(), "error_detail": event})
    if isinstance(event, CellEnd):
        return record("end", event)
    if isinstance(event, Missed):
        return record("missed", event)
    return record("update" if event.update else "result", event)


ONE = "/v1/sandboxes/{sandbox_id}/repl"
CONTEXT = f"{ONE}/sessions/{{context_id}}"

CODE: tuple[Endpoint, ...] = (
    Endpoint(
        "GET", "/v1/repl/languages", languages, "Languages of contexts", scope=Scope.READ, answer=list[str]
    ),
    Endpoint(
        "POST",
        ONE,
        snippet,
        "Run a cell in a context of its own",
        body=SnippetRequest,
        answer=CellResult,
        patient=True,
    ),
    Endpoint(
        "POST",
        f"{ONE}/sessions",
        create,
        "Make a code context",
        body=ContextRequest,
        answer=CodeContext,
        status=201,
        patient=True,
    ),
    Endpoint(
        "GET",
        f"{ONE}/sessions",
        listing,
        "List code contexts",
        scope=Scope.READ,
        answer=list[CodeContext],
    ),
    Endpoint("DELETE", CONTEXT, delete, "End a code context", status=204),
    Endpoint(
        "POST",
        f"{CONTEXT}/run",
        run,
        "Run a cell and wait for it",
        body=CellRequest,
        answer=CellResult,
        patient=True,
    ),
    Endpoint(
        "POST",
        f"{CONTEXT}/run/stream",
        stream,
        "Run a cell and stream what it shows",
        body=CellRequest,
        media=SSE,
    ),
    Endpoint("POST", f"{CONTEXT}/interrupt", interrupt, "Stop the cell that runs", status=204),
    Endpoint(
        "POST",
        f"{CONTEXT}/restart",
        restart,
        "Give a context a new kernel",
        answer=CodeContext,
        patient=True,
    ),
)
