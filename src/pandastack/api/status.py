"""The server about itself: health, version, metrics, capabilities."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from msgspec import Struct
from starlette.responses import Response

from pandastack.api.calls import Api
from pandastack.endpoint import Nothing, Reply
from pandastack.errors import PandastackError
from pandastack.model.sandbox import Isolation

ABSENT = (
    "functions", "schedules", "databases", "apps",
)  # fmt: skip
"""What the product knows and this server does not do yet."""


class Health(Struct, frozen=True):
    """`ok`, or what is wrong."""

    status: str
    checks: dict[str, str]


class Version(Struct, frozen=True):
    """Which program answers."""

    service: str
    semver: str
    commit: str
    build_time: str
    python: str
    os: str
    arch: str


class Capabilities(Struct, frozen=True):
    """What can be relied on here. `isolation` is what stands between a guest and the host, `degraded` what of
    it is missing on this machine.
    """

    version: str
    driver: str
    driver_version: str
    isolation: Isolation
    sizes: Mapping[str, int]
    absent: list[str]
    degraded: list[str] = []


async def health(call: Api[None, Nothing]) -> Reply:
    try:
        await call.app.sandboxes.count_by_state()
    except PandastackError as error:
        return Reply(Health("failing", {"database": error.message}), 503)
    return Reply(Health("ok", {"database": "ok"}), 200)


async def version(call: Api[None, Nothing]) -> Version:
    release = call.app.version
    return Version(
        "pandastack-api",
        release,
        "",
        "",
        platform.python_version(),
        platform.system().lower(),
        platform.machine(),
    )


async def metrics(call: Api[None, Nothing]) -> Response:
    for state, count in (await call.app.sandboxes.count_by_state()).items():
        call.app.metrics.sandboxes.labels(state).set(count)
    return Response(call.app.metrics.text(), media_type="text/plain; version=0.0.4")


async def capabilities(call: Api[None, Nothing]) -> Capabilities:
    report = call.app.placement.report
    return Capabilities(
        call.app.version,
        report.driver,
        report.driver_version,
        report.isolation,
        call.app.sizes,
        [*ABSENT],
        [f"degraded: {reason}" for reason in report.degraded],
    )
