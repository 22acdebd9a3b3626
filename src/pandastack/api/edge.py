"""The outermost layer: request ids, errors as bodies, CORS, the log line, the counters, the audit."""

from __future__ import annotations

import re
from collections.abc import Callable

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pandastack.endpoint import ClientGone, Endpoint, error_response
from pandastack.errors import InternalError, PandastackError
from pandastack.model.account import Caller
from pandastack.model.clock import Clock
from pandastack.services.trail import Trail
from pandastack.telemetry import Metrics, logger

log = logger("http")

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,64}")
CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
LINK = re.compile(r"(/v1/p/)[^/]+")
"""A path that begins with a preview link."""
CLIENT_GONE = 499
"""Status of the log line for an answer that nobody waited for."""

CORS = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": "x-request-id, idempotent-replayed, retry-after",
}
OWN_ORIGIN = "cross-origin-resource-policy"
"""The header of answers that are for pages of this origin alone: these are not opened to others."""

PREFLIGHT = CORS | {
    "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
    "access-control-allow-headers": (
        "content-type, x-api-key, authorization, idempotency-key, x-request-id, x-fcs-workspace, "
        "x-stub-user, "
        "x-pandastack-org, x-pandastack-user-id, x-pandastack-user-email, x-pandastack-auth-method"
    ),
    "access-control-max-age": "600",
}


class Edge:
    """An ASGI application around another one."""

    def __init__(
        self,
        inner: ASGIApp,
        *,
        metrics: Metrics,
        trail: Trail,
        clock: Clock,
        new_request_id: Callable[[], str],
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._metrics = metrics
        self._trail = trail
        self._new_request_id = new_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._inner(scope, receive, send)
            return
        visit = _Visit(scope, send, _request_id(scope) or self._new_request_id())
        began = self._clock.steady()
        with structlog.contextvars.bound_contextvars(request_id=visit.request_id):
            await self._answer(scope, receive, visit)
            self._tell(visit, self._clock.steady() - began)

    async def _answer(self, scope: Scope, receive: Receive, visit: _Visit) -> None:
        if scope.get("method") == "OPTIONS":
            await visit.send({"type": "http.response.start", "status": 204, "headers": []})
            await visit.send({"type": "http.response.body"})
            return
        try:
            await self._inner(scope, receive, visit.send)
        except (ClientGone, ClientDisconnect):
            visit.status = visit.status or CLIENT_GONE
        except PandastackError as error:
            await self._refuse(scope, receive, visit, error)
        except Exception:  # a bug of ours: the caller is given the number of the log line, not the traceback
            log.exception("request.crashed", method=visit.method, path=scope["path"])
            bug = InternalError(f"Something went wrong on our side; the log has it as {visit.request_id}.")
            await self._refuse(scope, receive, visit, bug)

    async def _refuse(self, scope: Scope, receive: Receive, visit: _Visit, error: PandastackError) -> None:
        if visit.status:
            raise AnswerBrokenError(error.message) from error
        visit.error = error.message
        await error_response(error, visit.request_id)(scope, receive, visit.send)

    def _tell(self, visit: _Visit, seconds: float) -> None:
        endpoint = visit.scope.get("pandastack.endpoint")
        route = endpoint.path if isinstance(endpoint, Endpoint) else "none"
        self._metrics.requests.labels(visit.method, route, str(visit.status)).inc()
        self._metrics.latency.labels(visit.method, route).observe(seconds)
        self._note(visit, endpoint)
        log.info(
            "request.answered",
            method=visit.method,
            path=_shown(visit.scope["path"]),
            status=visit.status,
            ms=round(seconds * 1000, 1),
            **({"error": visit.error} if visit.error else {}),
        )

    def _note(self, visit: _Visit, endpoint: object) -> None:
        caller = visit.scope.get("pandastack.caller")
        if visit.method not in CHANGES or not isinstance(caller, Caller) or not caller.workspace:
            return
        told = isinstance(endpoint, Endpoint) and endpoint.audited and visit.status < 400
        if not told:
            self._trail.note(caller, visit.status)


class AnswerBrokenError(Exception):
    """An answer failed after its first bytes: the connection is closed, so that nobody takes it for whole."""


class _Visit:
    """One request on its way out: the status that was sent, and the headers that every answer gets."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self.scope = scope
        self.request_id = request_id
        self.method: str = scope.get("method", "WEBSOCKET")
        self.status = 0
        self.error = ""
        self._send = send
        scope["pandastack.request_id"] = request_id

    async def send(self, message: Message) -> None:
        if message["type"] in {"http.response.start", "websocket.http.response.start"}:
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            if OWN_ORIGIN not in headers:
                headers.update(PREFLIGHT if self.method == "OPTIONS" else CORS)
            headers["x-request-id"] = self.request_id
        elif message["type"] == "websocket.accept":
            self.status = 101
        await self._send(message)


def _shown(path: str) -> str:
    """The path without what lets in whoever has it."""
    return LINK.sub(r"\1…", path)


def _request_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")[:64]
            return given if REQUEST_ID.fullmatch(given) else None
    return None
