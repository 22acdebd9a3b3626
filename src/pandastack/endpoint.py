"""An endpoint is one value: method, path, scope, decoder, encoder and its words; and errors become bodies
here.

The table of endpoints is data: the server routes by it, the OpenAPI document is made from it, tests walk over
it. A handler is given a `Call` (who asks, path, query and body already decoded and checked) and returns a
value, a `Reply` or an ASGI response; it never sees JSON.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from pandastack.config import nearest
from pandastack.errors import InvalidRequest, PandastackError, TooLarge, Unauthorized
from pandastack.model.account import Caller, Scope

App = TypeVar("App")
Body = TypeVar("Body")
Query = TypeVar("Query")
T = TypeVar("T")

WEBSOCKET = "WEBSOCKET"
"""The method of endpoints that are WebSockets."""

ANY = "ANY"
"""The method of endpoints that take every one, and WebSockets."""

READ_AHEAD = 4
"""Pieces of a body (each some 64 KiB) that may wait for whoever takes them."""

INTERIM = "pandastack.interim"
"""The ASGI extension of our HTTP server that sends an interim response (100 Continue)."""


class ClientGone(Exception):  # no error: nobody is left to be told
    """The client left before its answer."""


class HttpRefusal(InvalidRequest):
    """A refusal in HTTP's own terms, with the headers that belong to it."""

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.headers = headers


class MethodNotAllowed(HttpRefusal):
    """The path exists and does not take this method."""

    code, status = "validation.method", 405


class RangeNotSatisfiable(HttpRefusal):
    """The asked part lies outside of the whole."""

    code, status = "validation.range", 416


class Nothing(Struct, frozen=True):
    """The query of an endpoint that takes none."""


@dataclass(frozen=True, slots=True)
class Call(Generic[App, Body, Query]):
    """One request, understood."""

    app: App
    caller: Caller
    path: Mapping[str, str]
    body: Body
    query: Query
    connection: HTTPConnection
    send: Send
    receive: Receive


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with a status or headers of its own."""

    value: Any
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call[Any, Any, Any]], Awaitable[Any]]
Authenticate = Callable[[HTTPConnection, Scope], Awaitable[Caller]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the table."""

    method: str
    path: str
    handler: Handler
    summary: str
    _: KW_ONLY
    tag: str = ""
    scope: Scope = Scope.USE
    body: Any = None
    """Type of the JSON body; None for none or a raw one."""
    query: type[Struct] = Nothing
    answer: Any = None
    """Type of the JSON answer; None for 204 or one of `media`."""
    status: int = 200
    media: str = "application/json"
    raw_body: bool = False
    """The body is bytes, and the handler reads them from the connection."""
    body_limit: str = "max_json_bytes"
    """Name of the setting that limits the body."""
    patient: bool = False
    """May take long: interim responses keep the client's patience, and a client that leaves cancels it."""
    subprotocol: str | None = None
    """That of a WebSocket to which a client may also bring its key as the subprotocol `bearer.KEY`."""
    audited: bool = False
    """Its change carries its own audit row; others that change something are noted by the edge."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What every endpoint of a server shares."""

    authenticate: Authenticate
    limits: Mapping[str, int]
    beat_seconds: float = 10.0


class Resource:
    """The ASGI application of one path: all of its methods."""

    def __init__(self, app: object, endpoints: Mapping[str, Endpoint], rules: Rules) -> None:
        self._app = app
        self._endpoints = dict(endpoints)
        if "GET" in endpoints:
            self._endpoints.setdefault("HEAD", endpoints["GET"])
        self._decoders = {
            method: msgspec.json.Decoder(endpoint.body)
            for method, endpoint in endpoints.items()
            if endpoint.body is not None
        }
        self._rules = rules

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        endpoint = self._endpoint(scope)
        scope["pandastack.endpoint"] = endpoint
        connection = Request(scope, receive) if scope["type"] == "http" else HTTPConnection(scope)
        caller = await self._rules.authenticate(connection, endpoint.scope)
        scope["pandastack.caller"] = caller
        call = Call(
            app=self._app,
            caller=caller,
            path=scope["path_params"],
            query=_query(endpoint, connection),
            body=await self._body(endpoint, connection),
            connection=connection,
            send=send,
            receive=receive,
        )
        if endpoint.patient:
            beat = interim(scope)
            await attended(receive, _serve(endpoint, call), beat, self._rules.beat_seconds)
        else:
            await _serve(endpoint, call)

    def _endpoint(self, scope: Connection) -> Endpoint:
        method = WEBSOCKET if scope["type"] == "websocket" else scope["method"]
        found = self._endpoints.get(method) or self._endpoints.get(ANY)
        if found is None and WEBSOCKET in self._endpoints:
            raise InvalidRequest("This path is a WebSocket: connect to it with an upgrade.")
        if found is None:
            allowed = ", ".join(sorted(self._endpoints))
            raise MethodNotAllowed(f"{method} is not for this path; it takes {allowed}.", {"allow": allowed})
        return found

    async def _body(self, endpoint: Endpoint, connection: HTTPConnection) -> object:
        decoder = self._decoders.get(endpoint.method)
        if decoder is None or not isinstance(connection, Request):
            return None
        data = await read_body(connection, self._rules.limits[endpoint.body_limit])
        return decode_body(data, endpoint.body, decoder)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Errors: TooLarge beyond `limit` bytes, ClientGone."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"The body has {declared} bytes; at most {limit} are taken here.")
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise TooLarge(f"The body is larger than the {limit} bytes that are taken here.")
            parts.append(part)
    except ClientDisconnect as error:
        raise ClientGone from error
    return b"".join(parts)


def decode_body(data: bytes, kind: object, decoder: msgspec.json.Decoder[T]) -> T:
    """The typed body; no bytes at all are `{}`. Errors: InvalidRequest, naming the field and what fits."""
    try:
        return decoder.decode(data if data.strip() else b"{}")
    except msgspec.ValidationError as error:
        raise InvalidRequest(_explain(str(error), kind, "body")) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from error


def _query(endpoint: Endpoint, connection: HTTPConnection) -> object:
    if endpoint.query is Nothing:
        return Nothing()
    try:
        return msgspec.convert(dict(connection.query_params), endpoint.query, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_explain(str(error), endpoint.query, "query")) from error


def _explain(message: str, kind: object, place: str) -> str:
    """`Expected …, got … - at `$.field`` as a sentence that names the field, and the known ones."""
    problem, _, where = message.partition(" - at ")
    fields = where.strip("`").removeprefix("$").lstrip(".")
    known = list(getattr(kind, "__struct_encode_fields__", ()))
    if "unknown field `" in problem:
        name = problem.split("`")[1]
        inside = f" in `{fields}`" if fields else f"; known are: {', '.join(known)}"
        return f"The {place} has an unknown field `{name}`{nearest(name, known)}{inside}."
    if "missing required field" in problem:
        return f"The {place} lacks the field `{problem.split('`')[1]}`."
    subject = f"The {place}'s field `{fields}`" if fields else f"The {place}"
    return f"{subject} does not fit: {problem[:1].lower()}{problem[1:]}."


async def _serve(endpoint: Endpoint, call: Call[Any, Any, Any]) -> None:
    answer = await endpoint.handler(call)
    if call.connection.scope["type"] == "http":
        await _response(endpoint, answer)(call.connection.scope, call.receive, call.send)


def _response(endpoint: Endpoint, answer: object) -> ASGIApp:
    if isinstance(answer, Response) or callable(answer):
        return answer
    reply = answer if isinstance(answer, Reply) else Reply(answer, endpoint.status)
    if reply.value is None:
        return Response(status_code=reply.status, headers=reply.headers)
    return json_response(reply.value, reply.status, reply.headers)


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


WARM_UP = {
    "connection refused": "connection was refused",
    "no route to host": "no route to the host",
    "i/o timeout": "i/o deadline",
}
"""Words by which the SDK knows a machine that still warms up and waits for it; never said of what lasts."""


def error_response(error: PandastackError, request_id: str) -> Response:
    """The JSON body of an error, with the headers that belong to it."""
    body = error.to_body() | {"request_id": request_id}
    if not error.retryable:
        for words, others in WARM_UP.items():
            body["error"] = re.sub(words, others, body["error"], flags=re.IGNORECASE)
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["retry-after"] = f"{max(1, round(error.retry_after))}"
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, HttpRefusal):
        headers.update(error.headers)
    return json_response(body, error.status, headers)


Beat = Callable[[], Awaitable[None]]


def interim(scope: Connection) -> Beat | None:
    """How to tell this client that its answer is still to come; None where the server cannot."""
    extension = scope.get("extensions", {}).get(INTERIM)
    return None if extension is None else extension["send"]


async def attended(receive: Receive, work: Awaitable[T], beat: Beat | None, every: float) -> T:
    """The result of `work`, done while the client listens.

    Every `every` seconds `beat` tells the client that somebody still works. When the client leaves, `work` is
    cancelled and ended before ClientGone is raised. The request's body must have been read.
    """
    try:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_watch(receive, beat, every))
            result = await work
            watch.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return result


@asynccontextmanager
async def inflow(request: Request, every: float) -> AsyncIterator[AsyncIterator[bytes]]:
    """The request's body piece by piece, for a receiver that may take long, while the client listens.

    Some of it is read ahead, and behind its end the client is kept patient every `every` seconds. When it
    leaves, before or behind the end, the block is cancelled and ended before ClientGone is raised; only one
    whose body does not fit into the read-ahead is not seen leaving until the receiver goes on.
    """
    pieces: asyncio.Queue[bytes] = asyncio.Queue(READ_AHEAD)

    async def read() -> None:
        try:
            async for piece in request.stream():
                if piece:
                    await pieces.put(piece)
        except ClientDisconnect as error:
            raise ClientGone from error
        await pieces.put(b"")
        await _watch(request.receive, interim(request.scope), every)

    try:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read())
            yield _until_empty(pieces)
            reading.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _until_empty(pieces: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
    while piece := await pieces.get():
        yield piece


async def _watch(receive: Receive, beat: Beat | None, every: float) -> None:
    while True:
        try:
            async with asyncio.timeout(every):
                message: Message = await receive()
        except TimeoutError:
            if beat is not None:
                await beat()
            continue
        if message["type"] in {"http.disconnect", "websocket.disconnect"}:
            raise ClientGone
