"""Ways in by link to a host of one's own: who opens a link there is given a cookie, and goes on with that.

A link below our address shows pages that have no origin. A service that needs one (cookies, WebSockets,
workers) is opened by the same link's token at the name of its preview host, also where names alone let nobody
in. The cookie holds the token, is good for as long, for that host alone, and the service never sees it.
"""

from __future__ import annotations

import re

from aiohttp import web
from multidict import CIMultiDict

from pandastack.errors import Forbidden, NotFound, Unauthorized
from pandastack.gateway.hosts import Named
from pandastack.proxy.head import Head
from pandastack.services.ports import DEVTOOLS
from pandastack.services.previews import Previews, Visit

COOKIE = b"pandastack_visit"
COOKIES = frozenset({COOKIE})
SHOWN_MOST = 4
"""More cookies of this name than that are not looked at: another host of the domain may have set some."""

_ENTRY = re.compile(rb"/\.pandastack/enter/([A-Za-z0-9_.-]+)(/[^?]*)?(?:\?.*)?", re.DOTALL)


class Entries:
    """Lets in by token where names are not enough."""

    def __init__(self, previews: Previews, scheme: str) -> None:
        self._previews = previews
        self._scheme = scheme

    async def entered(self, head: Head, name: Named) -> web.Response | None:
        """The answer to who comes by a link; None for every other request. Errors: as `visit`."""
        found = _ENTRY.fullmatch(head.target)
        if found is None:
            return None
        if head.method not in ("GET", "HEAD"):
            raise NotFound("A link is opened, nothing else can be done with it.")
        token, path = found[1].decode(), found[2] or b"/"
        await self._visit(token, path, name)
        secure = "; Secure" if self._scheme == "https" else ""
        left = self._previews.seconds_left(token)
        headers = CIMultiDict(
            {
                "location": "/" + path.decode("latin-1").lstrip("/\\"),  # never `//host`, another one
                "set-cookie": f"{COOKIE.decode()}={token}; Path=/; Max-Age={left}; HttpOnly; SameSite=Lax"
                f"{secure}",
                "cache-control": "no-store",
                "referrer-policy": "no-referrer",
                "server": "pandastack",
            }
        )
        return web.Response(status=303, headers=headers)

    async def visit(self, head: Head, name: Named) -> Visit:
        """Who comes by the name of a preview host, or with the cookie of a link to it.

        Errors: NotFound where names let nobody in and no cookie does, Unauthorized for one that has expired,
        Forbidden for a request that another site makes with it.
        """
        tokens = _shown(head)
        if not tokens or name.port == DEVTOOLS:
            return await self._previews.by_name(name.sandbox_id, name.port)
        try:
            return await self._previews.by_name(name.sandbox_id, name.port)
        except NotFound:
            origin = head.value(b"origin")
            if origin and origin.lower() != self._scheme.encode() + b"://" + head.host.lower():
                raise Forbidden("Another site asks for this with your link.") from None
        return await self._by_any(tokens, head.target.partition(b"?")[0], name)

    async def _by_any(self, tokens: list[str], path: bytes, name: Named) -> Visit:
        for token in tokens[:-1]:
            try:
                return await self._visit(token, path, name)
            except (Unauthorized, Forbidden, NotFound):
                continue
        return await self._visit(tokens[-1], path, name)

    async def _visit(self, token: str, path: bytes, name: Named) -> Visit:
        visit = await self._previews.admit(token, path)
        if (visit.sandbox_id, visit.port) != (name.sandbox_id, name.port) or visit.port == DEVTOOLS:
            raise NotFound("The link is for another place.")
        return visit


def _shown(head: Head) -> list[str]:
    """The tokens of a request's cookies."""
    parts = [part.strip() for key, value in head.headers if key == b"cookie" for part in value.split(b";")]
    found = [part.partition(b"=") for part in parts]
    tokens = [value.decode("latin-1") for key, _, value in found if key.strip() == COOKIE]
    return tokens[:SHOWN_MOST]
