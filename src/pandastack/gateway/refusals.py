"""Errors as answers to visitors."""

from __future__ import annotations

from aiohttp import web

from pandastack.endpoint import error_response
from pandastack.errors import NotFound, PandastackError, RequestRefused

KEPT = frozenset({502, 503, 507})
"""Statuses behind which the connection may go on: the request was understood."""


class TooSlow(RequestRefused):
    """The request's body did not come in time."""

    code, status = "request.too_slow", 408


class Misdirected(NotFound):
    """The host name stands for nothing here."""

    code, status = "preview.no_such_host", 421


def refusal(error: PandastackError) -> web.Response:
    """The answer that tells an error; who was not understood has to connect anew."""
    answer = error_response(error, "")
    headers = {
        "content-type": "application/json",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "server": "pandastack",
    }
    if retry := answer.headers.get("retry-after"):
        headers["retry-after"] = retry
    told = web.Response(status=error.status, body=bytes(answer.body), headers=headers)
    if error.status not in KEPT:
        told.force_close()
    return told
