"""The dashboard as an ASGI application before the API's: what browsers are told, and errors as pages."""

from __future__ import annotations

from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pandastack.api.edge import OWN_ORIGIN
from pandastack.api.routes import routes
from pandastack.endpoint import HttpRefusal, Rules
from pandastack.errors import NotFound, PandastackError, Unauthorized
from pandastack.web.calls import SESSION, Web
from pandastack.web.entrance import FORM_BYTES, LOGIN, Entrance, see
from pandastack.web.pages import PAGES
from pandastack.web.terminals import SOCKETS

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
"""Pages load nothing from elsewhere and run no script at all. That of a terminal has a policy of its own."""

HEADERS = {
    OWN_ORIGIN: "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Of every answer. Pages are shown in no other page."""


class Dashboard:
    """Answers what is below /ui and leaves the rest to `api`. A browser that comes to / is sent to /ui."""

    def __init__(self, api: ASGIApp, web: Web) -> None:
        self._api = api
        self._web = web
        rules = Rules(Entrance(web.services.accounts, web.sessions), {"max_json_bytes": FORM_BYTES})
        self._pages = Router(
            routes((*PAGES, *SOCKETS), web, rules), redirect_slashes=False, default=_nothing_here
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and scope["path"].startswith("/ui/"):
            await self._pages(scope, receive, send)
            return
        if scope["type"] != "http" or not _is_for_people(scope):
            await self._api(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                _guard(MutableHeaders(scope=message))
            await send(message)

        try:
            await self._pages(scope, receive, told)
        except PandastackError as error:
            await self._refusal(Request(scope), error)(scope, receive, told)

    def _refusal(self, request: Request, error: PandastackError) -> Response:
        if isinstance(error, Unauthorized):
            query = f"?{request.url.query}" if request.url.query else ""
            wanted = quote(request.scope["path"] + query, safe="")
            return see(f"{LOGIN}?next={wanted}" if request.method == "GET" else LOGIN)
        caller = request.scope.get("pandastack.caller")
        form_key = self._web.sessions.form_key(request.cookies.get(SESSION, ""))
        values = {"caller": caller if caller and caller.workspace else None, "form_key": form_key}
        page = self._web.look.page("error.html", error.status, error=error, **values)
        page.headers.update(error.headers if isinstance(error, HttpRefusal) else {})
        return page


def _is_for_people(scope: Scope) -> bool:
    path: str = scope["path"]
    is_browser = "text/html" in Headers(scope=scope).get("accept", "")
    return path == "/ui" or path.startswith("/ui/") or (path == "/" and is_browser)


def _guard(headers: MutableHeaders) -> None:
    for name, value in HEADERS.items():
        headers[name] = value
    headers.setdefault("content-security-policy", POLICY)
    headers.setdefault("cache-control", "no-store")


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/":
        await see("/ui")(scope, receive, send)
        return
    raise NotFound("There is no such page.")
