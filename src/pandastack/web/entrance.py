"""In and out: a key is shown once, and from then on a cookie says who it is.

Forms carry a key of their browser, so that no other page can log anybody in or out.
"""

from __future__ import annotations

import hmac
import re
from urllib.parse import parse_qsl

from msgspec import Struct
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response

from pandastack.api.auth import ANYONE, caller_of
from pandastack.endpoint import Nothing, read_body
from pandastack.errors import Forbidden, InvalidRequest, Unauthorized
from pandastack.model.account import Caller, Scope
from pandastack.services.accounts import Accounts
from pandastack.store.accounts import Credential
from pandastack.web.calls import SESSION, Page
from pandastack.web.sessions import SESSION_SECONDS, Sessions

LOGIN = "/ui/login"
FIRST_PAGE = "/ui/sandboxes"
FORM = "pandastack_form"
"""The cookie of a browser that has been shown the form."""

FORM_BYTES = 16 << 10
LOCAL = re.compile(r"/ui/[A-Za-z0-9/_-]*(\?[A-Za-z0-9=&_-]*)?")


class Next(Struct, frozen=True):
    """Where to go on behind the login."""

    next: str = ""


class Entrance:
    """Turns the cookie of a browser into a caller. The key behind it is asked for each time."""

    def __init__(self, accounts: Accounts, sessions: Sessions) -> None:
        self._accounts = accounts
        self._sessions = sessions

    async def __call__(self, connection: HTTPConnection, needed: Scope) -> Caller:
        """The caller, who may do what `needed` says. Errors: Unauthorized, Forbidden."""
        if needed is Scope.PUBLIC:
            return ANYONE
        credential = await credential_of(connection, self._accounts, self._sessions)
        if credential is None:
            raise Unauthorized("Log in to see this page.")
        return caller_of(credential, connection, needed)


async def credential_of(
    connection: HTTPConnection, accounts: Accounts, sessions: Sessions
) -> Credential | None:
    """What the key of this browser's session stands for now; None without one."""
    digest = sessions.digest_of(connection.cookies.get(SESSION, ""))
    return None if digest is None else await accounts.standing(digest)


async def show_login(call: Page[Next]) -> Response:
    web = call.app
    if await credential_of(call.connection, web.services.accounts, web.sessions) is not None:
        return see(local(call.query.next))
    return _form(call, call.query.next)


async def log_in(call: Page[Nothing]) -> Response:
    web, given = call.app, await _given(call)
    browser = call.connection.cookies.get(FORM, "")
    if not _is_from(web.sessions, browser, given):
        return _form(call, given.get("next", ""), 403, "This form was out of date. Try once more.")
    credential = await web.services.accounts.credential(given.get("key", "").strip())
    if credential is None:
        return _form(call, given.get("next", ""), 401, "This key is unknown, revoked or expired.")
    answer = see(local(given.get("next", "")))
    name = web.sessions.begin(credential.digest)
    _set(call, answer, SESSION, name, round(SESSION_SECONDS))
    _set(call, answer, FORM, "", 0)
    return answer


async def log_out(call: Page[Nothing]) -> Response:
    sessions = call.app.sessions
    await filled_in(call)
    sessions.end(call.connection.cookies[SESSION])
    answer = see(LOGIN)
    _set(call, answer, SESSION, "", 0)
    return answer


async def filled_in(call: Page[Nothing]) -> dict[str, str]:
    """The fields of a form that somebody who is logged in has sent. Errors: Forbidden for another's form."""
    given = await _given(call)
    if not _is_from(call.app.sessions, call.connection.cookies[SESSION], given):
        raise Forbidden("This form was out of date, and nothing was done. Go back and try once more.")
    return given


def local(path: str) -> str:
    """The path if it is one of these pages, else the first of them."""
    return path if LOCAL.fullmatch(path) else FIRST_PAGE


def see(path: str) -> Response:
    """Go there, and GET it."""
    return RedirectResponse(path, 303)


def _form(call: Page[Next] | Page[Nothing], wanted: str, status: int = 200, problem: str = "") -> Response:
    sessions = call.app.sessions
    browser = call.connection.cookies.get(FORM) or sessions.visit()
    values = {"next": local(wanted), "form_key": sessions.form_key(browser), "problem": problem}
    answer = call.app.look.page("login.html", status, **values)
    _set(call, answer, FORM, browser, round(SESSION_SECONDS))
    return answer


async def _given(call: Page[Nothing]) -> dict[str, str]:
    """The fields of the form that was sent. Errors: InvalidRequest, TooLarge."""
    request = call.connection
    if not isinstance(request, Request) or "urlencoded" not in request.headers.get("content-type", ""):
        raise InvalidRequest("This is not the form of the page.")
    body = await read_body(request, FORM_BYTES)
    return dict(parse_qsl(body.decode("utf-8", "replace")))


def _is_from(sessions: Sessions, browser: str, given: dict[str, str]) -> bool:
    """Whether the form was made for the browser that sends it."""
    key = given.get("form_key", "").encode()
    return bool(browser) and hmac.compare_digest(key, sessions.form_key(browser).encode())


def _set(call: Page[Next] | Page[Nothing], answer: Response, name: str, value: str, seconds: int) -> None:
    secure = call.connection.url.scheme == "https"
    path = "/ui" if name == SESSION else LOGIN
    answer.set_cookie(name, value, seconds, path=path, secure=secure, httponly=True, samesite="strict")
