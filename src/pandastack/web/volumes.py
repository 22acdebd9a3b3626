"""The page of volumes, and of their backups."""

from __future__ import annotations

from starlette.responses import Response

from pandastack.endpoint import Endpoint, Nothing
from pandastack.model.account import Scope
from pandastack.web.calls import Page, page

MOST = 200
"""So many rows of a table are shown."""


async def volumes(call: Page[Nothing]) -> Response:
    services, caller = call.app.services, call.caller
    found = await services.volumes.all(caller)
    backups = await services.backups.all(caller)
    return page(
        call,
        "volumes.html",
        volumes=found[:MOST],
        backups=backups[:MOST],
        hidden=max(0, len(found) - MOST) + max(0, len(backups) - MOST),
        quota=await services.volumes.quota(caller),
    )


VOLUMES: tuple[Endpoint, ...] = (
    Endpoint("GET", "/ui/volumes", volumes, "All volumes and their backups", scope=Scope.READ),
)
