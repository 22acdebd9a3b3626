"""Browsers of sandboxes: links to them, and connections to where they take orders (DevTools)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pandastack.errors import BrowserDown, PortClosed
from pandastack.model.account import Caller
from pandastack.model.guest import Connection
from pandastack.services.ports import DEVTOOLS, Ports
from pandastack.services.previews import TTL_DEFAULT, Preview, PreviewRequest, Previews


class Browsers:
    """The verbs on browsers. Errors of all: those of Ports.reach, where PortClosed is BrowserDown."""

    def __init__(self, ports: Ports, previews: Previews) -> None:
        self._ports = ports
        self._previews = previews

    async def link(self, caller: Caller, sandbox_id: str, ttl_seconds: int = TTL_DEFAULT) -> Preview:
        """A link by which whoever has it controls the browser, until it expires. Errors: those of a mint."""
        return await self._previews.mint(caller, sandbox_id, PreviewRequest(DEVTOOLS, ttl_seconds))

    @asynccontextmanager
    async def reach(self, caller: Caller, sandbox_id: str) -> AsyncIterator[Connection]:
        """A connection to the browser while the block lasts; a sandbox that sleeps is woken first."""
        try:
            async with self._ports.reach(caller, sandbox_id, DEVTOOLS) as connection:
                yield connection
        except PortClosed as error:
            raise BrowserDown(
                f"The browser of sandbox {sandbox_id} does not answer; one that has ended is started again "
                f"within some seconds, and only sandboxes of the template `browser` have one. {error.message}"
            ) from error
