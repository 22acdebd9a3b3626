"""Templates and their builds in the browser: what there is, what a build says as it goes, and the forms that
point a name elsewhere, delete, verify and cancel.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast
from urllib.parse import quote

from msgspec import Struct
from starlette.responses import Response

from pandastack.endpoint import Endpoint, Nothing
from pandastack.errors import InvalidRequest
from pandastack.model.account import Scope
from pandastack.model.build import ENDED, VerifyWish
from pandastack.model.image import Template
from pandastack.store.templates import NEWEST
from pandastack.web import entrance
from pandastack.web.calls import Page, page

BUILDS_SHOWN = 30
LINES_SHOWN = 500
"""Of what a build has said the last ones are shown."""
REFRESH_SECONDS = 2
"""A page of a build that goes on is loaded again so often: pages run no script."""

ALL, BUILD = "/ui/templates", "/ui/templates/builds/{build_id}"


class Shown(Struct, frozen=True):
    """A template of the workspace's own, with all of its versions."""

    name: str
    versions: list[Template]


async def templates(call: Page[Nothing]) -> Response:
    services, caller = call.app.services, call.caller
    found = await services.templates.all(caller)
    own = [
        Shown(each.name, await services.templates.versions(caller, each.name))
        for each in found
        if not each.is_global
    ]
    builds = (await services.builds.all(caller))[:BUILDS_SHOWN]
    common = [each for each in found if each.is_global]
    return page(call, "builds.html", own=own, common=common, builds=builds, newest=NEWEST)


async def build(call: Page[Nothing]) -> Response:
    services, build_id = call.app.services, call.path["build_id"]
    lines: list[str] = []
    said = services.builds.lines(call.caller, build_id, follow=False)
    async with aclosing(cast("AsyncGenerator[str, None]", said)) as telling:
        async for line in telling:
            lines.append(line)
    found = await services.builds.get(call.caller, build_id)
    return page(
        call,
        "build.html",
        build=found,
        lines=lines[-LINES_SHOWN:],
        earlier=max(0, len(lines) - LINES_SHOWN),
        goes_on=found.status not in ENDED,
        seconds=REFRESH_SECONDS,
    )


async def cancel(call: Page[Nothing]) -> Response:
    await entrance.filled_in(call)
    build_id = call.path["build_id"]
    await call.app.services.builds.cancel(call.caller, build_id)
    return entrance.see(f"{ALL}/builds/{quote(build_id, safe='')}")


async def point(call: Page[Nothing]) -> Response:
    version = (await entrance.filled_in(call)).get("version", "")
    if not version.isdecimal():
        raise InvalidRequest(f"A version is a number; got {version!r}.")
    await call.app.services.templates.point(call.caller, call.path["name"], NEWEST, int(version))
    return entrance.see(ALL)


async def delete(call: Page[Nothing]) -> Response:
    await entrance.filled_in(call)
    await call.app.services.templates.delete(call.caller, call.path["name"])
    return entrance.see(ALL)


async def verify(call: Page[Nothing]) -> Response:
    await entrance.filled_in(call)
    services = call.app.services
    found = await services.templates.kept(call.caller, call.path["name"])
    begun = await services.builds.verify(call.caller, found, VerifyWish())
    return entrance.see(f"{ALL}/builds/{quote(begun.id, safe='')}")


USE, READ = Scope.USE, Scope.READ
BUILDS: tuple[Endpoint, ...] = (
    Endpoint("GET", ALL, templates, "Templates and builds", scope=READ),
    Endpoint("GET", BUILD, build, "A build", scope=READ),
    Endpoint("POST", f"{BUILD}/cancel", cancel, "End a build", scope=USE, raw_body=True),
    Endpoint("POST", f"{ALL}/{{name}}/latest", point, "Have a name be a version", scope=USE, raw_body=True),
    Endpoint("POST", f"{ALL}/{{name}}/delete", delete, "Delete a version", scope=USE, raw_body=True),
    Endpoint("POST", f"{ALL}/{{name}}/verify", verify, "Build a version again", scope=USE, raw_body=True),
)
"""Rows of the dashboard's table."""
