"""Terminals in the browser: the pages around them, and the WebSocket of one.

Unlike the other pages these are use of a sandbox. A WebSocket comes with the browser's cookie whoever's page
opens it, so one is taken from a page of this origin alone; and it ends when its browser is logged out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct
from starlette.requests import HTTPConnection
from starlette.responses import Response

from pandastack.api import terminals as api
from pandastack.endpoint import WEBSOCKET, Endpoint, Nothing
from pandastack.errors import Forbidden, InvalidRequest, Unauthorized
from pandastack.model.account import Scope
from pandastack.model.sandbox import SandboxState
from pandastack.model.terminal import TerminalRequest
from pandastack.services.viewers import Viewer
from pandastack.web import entrance
from pandastack.web.calls import Page, page

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""The page of a terminal runs our scripts, and shows the styles that these make."""
LOGIN_SECONDS = 5.0
"""How often it is asked whether the browser of a terminal is still logged in."""


class Looking(Struct, frozen=True):
    """Whether the page is for somebody who only looks."""

    read_only: bool = False


async def terminals(call: Page[Nothing]) -> Response:
    services, sandbox_id = call.app.services, call.path["sandbox_id"]
    found = await services.sandboxes.get(call.caller, sandbox_id)
    runs = found.status is SandboxState.RUNNING
    seen = await services.terminals.seen(call.caller, sandbox_id) if runs else []
    return page(call, "terminals.html", sandbox=found, terminals=seen)


async def open_one(call: Page[Nothing]) -> Response:
    sandbox_id = call.path["sandbox_id"]
    given = await entrance.filled_in(call)
    request = _request(given.get("name", "").strip())
    made = await call.app.services.terminals.create(call.caller, sandbox_id, request)
    return entrance.see(f"/ui/sandboxes/{quote(sandbox_id, safe='')}/terminals/{made.name}")


async def terminal(call: Page[Looking]) -> Response:
    web = call.app
    found = await web.services.sandboxes.get(call.caller, call.path["sandbox_id"])
    name = _request(call.path["name"]).name
    nonce = web.sessions.nonce()
    answer = page(
        call, "terminal.html", sandbox=found, name=name, read_only=call.query.read_only, nonce=nonce
    )
    answer.headers["content-security-policy"] = POLICY.format(nonce=nonce)
    return answer


async def attach(call: Page[api.Sight]) -> None:
    """Serve a viewer as the API does, for as long as the browser is logged in. Errors: Forbidden."""
    if not is_own_page(call.connection):
        raise Forbidden("A terminal opens from its own page alone.")
    view = call.app.services.terminals.view(
        call.caller,
        call.path["sandbox_id"],
        call.path["name"],
        size=call.query.size,
        read_only=call.query.read_only,
    )
    await api.show(_while_logged_in(call, view), call.connection.scope, call.receive, call.send)


def is_own_page(connection: HTTPConnection) -> bool:
    """Whether a page of this origin asks: its host and port are those that it asks.

    Another port of this host, or a sibling in its domain, is another origin, though it is sent our cookie.
    """
    return urlsplit(connection.headers.get("origin", "")).netloc == connection.headers.get("host")


@asynccontextmanager
async def _while_logged_in(
    call: Page[api.Sight], view: AbstractAsyncContextManager[Viewer]
) -> AsyncIterator[Viewer]:
    """The view; Unauthorized within the block once the browser is logged out or its key is gone."""
    async with view as viewer:
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(_until_logged_out(call))
                yield viewer
                watch.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # alone, so that the view can tell why


async def _until_logged_out(call: Page[api.Sight]) -> None:
    web = call.app
    while True:
        if await entrance.credential_of(call.connection, web.services.accounts, web.sessions) is None:
            raise Unauthorized("You were logged out.")
        await asyncio.sleep(LOGIN_SECONDS)


def _request(name: str) -> TerminalRequest:
    """A request for a login shell of this name. Errors: InvalidRequest for what is no name."""
    try:
        return msgspec.convert({"name": name} if name else {}, TerminalRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(
            "The name of a terminal has 1 to 32 small letters, digits, - and _; it begins with no sign."
        ) from error


ALL = "/ui/sandboxes/{sandbox_id}/terminals"
ONE = f"{ALL}/{{name}}"

TERMINALS: tuple[Endpoint, ...] = (
    Endpoint("GET", ALL, terminals, "Terminals of a sandbox", scope=Scope.USE),
    Endpoint("POST", ALL, open_one, "Open a terminal", scope=Scope.USE, raw_body=True),
    Endpoint("GET", ONE, terminal, "A terminal", scope=Scope.USE, query=Looking),
)
"""Rows of the dashboard's table."""

SOCKETS: tuple[Endpoint, ...] = (
    Endpoint(WEBSOCKET, f"{ONE}/ws", attach, "What a terminal shows", scope=Scope.USE, query=api.Sight),
)
"""Its WebSockets."""
