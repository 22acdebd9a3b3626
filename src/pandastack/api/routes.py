"""From the table to an ASGI application."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import BaseRoute, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from pandastack.api.calls import Services
from pandastack.api.status import ABSENT
from pandastack.endpoint import ANY, WEBSOCKET, Endpoint, Resource, Rules, json_response
from pandastack.errors import NotFound, NotSupported


def application(endpoints: Iterable[Endpoint], services: Services, rules: Rules) -> ASGIApp:
    """Every endpoint at its path; what has none is answered in JSON too."""
    return Router(routes(endpoints, services, rules), redirect_slashes=False, default=_nothing_here)


def routes(endpoints: Iterable[Endpoint], app: object, rules: Rules) -> list[BaseRoute]:
    """A route for each path, whose handlers are given `app`."""
    paths: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    found: list[BaseRoute] = []
    for path, methods in paths.items():
        resource = Resource(app, methods, rules)
        found.append(Route(path, resource))
        if WEBSOCKET in methods or ANY in methods:
            found.append(WebSocketRoute(path, resource))
    return found


async def _nothing_here(scope: Connection, receive: Receive, send: Send) -> None:
    path: str = scope["path"]
    words = set(path.removeprefix("/v1/").split("/"))
    if missing := sorted(words.intersection(ABSENT)):
        error = NotSupported(f"{missing[0]} is not yet part of this server.")
        body = error.to_body() | {"request_id": scope.get("pandastack.request_id", "")}
        await json_response(body, NotFound.status)(scope, receive, send)
        return
    raise NotFound(f"There is nothing at {path}; /docs tells what there is.")
