"""What the pages are given: the services of the API, sessions, and the look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from starlette.responses import Response

from pandastack.api.calls import Services
from pandastack.endpoint import Call
from pandastack.web.look import Look
from pandastack.web.sessions import Sessions

SESSION = "pandastack_session"
"""The cookie of a browser that is logged in."""

Query = TypeVar("Query")


@dataclass(frozen=True, slots=True)
class Web:
    """All that a page is made of."""

    services: Services
    sessions: Sessions
    look: Look


Page = Call[Web, None, Query]


def page(call: Page[Query], template: str, status: int = 200, **values: object) -> Response:
    """A page for somebody who is logged in."""
    web = call.app
    form_key = web.sessions.form_key(call.connection.cookies.get(SESSION, ""))
    return web.look.page(template, status, caller=call.caller, form_key=form_key, **values)
