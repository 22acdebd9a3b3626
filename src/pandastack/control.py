"""The composition root of the control plane: configuration and host in, ASGI application out.

Everything that lasts is opened here and closed in reverse order; everything below is given what it needs.
"""

from __future__ import annotations

import asyncio
import fcntl
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib import metadata
from pathlib import Path

import uvicorn
from msgspec import Struct
from starlette.types import ASGIApp, Receive, Scope, Send

from pandastack.api.auth import Authenticator
from pandastack.api.calls import Services
from pandastack.api.edge import Edge
from pandastack.api.interim import InterimProtocol
from pandastack.api.routes import application
from pandastack.api.v1 import ENDPOINTS
from pandastack.config import ControlConfig, OnExit, split_address
from pandastack.endpoint import Rules
from pandastack.errors import Conflict, NoSpace, PandastackError
from pandastack.model.account import Caller, Limits
from pandastack.model.account import Scope as Rights
from pandastack.model.clock import Clock
from pandastack.model.host import Host
from pandastack.model.sandbox import ALIVE
from pandastack.services.accounts import Accounts
from pandastack.services.activity import Activity
from pandastack.services.adoption import Adoption
from pandastack.services.commands import Commands
from pandastack.services.events import Bell, Events
from pandastack.services.files import Files
from pandastack.services.ledger import Ledger
from pandastack.services.line import Line
from pandastack.services.placement import Placement
from pandastack.services.sandboxes import Sandboxes, Terms
from pandastack.services.templates import Templates
from pandastack.services.trail import Trail
from pandastack.services.vitals import Vitals
from pandastack.store import accounts, sandboxes
from pandastack.store.db import Database, open_database
from pandastack.telemetry import Metrics, logger
from pandastack.work.errands import Errand, run_errands
from pandastack.work.sweep import Purge, Reaper, Retention

log = logger("control")

SYSTEM_CLOCK = Clock(time.time, time.monotonic)
BEAT_SECONDS = 10.0
"""How often a client that waits is told that somebody still works; well below the read timeouts of clients."""


class Chance(Struct, frozen=True):
    """Where names and secrets come from."""

    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    new_request_id: Callable[[], str] = lambda: secrets.token_hex(8)
    new_secret: Callable[[], str] = lambda: f"pds_{secrets.token_hex(16)}"


class Control:
    """A running control plane: an ASGI application, and what its start had to say."""

    def __init__(self, app: ASGIApp, services: Services, errands: list[Errand], first_token: str | None) -> None:
        self._app = app
        self.services = services
        self.errands = errands
        self.first_token = first_token
        """The admin token that the first start on an empty database made; told nowhere else."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


@asynccontextmanager
async def open_control(
    config: ControlConfig,
    host: Host,
    *,
    clock: Clock = SYSTEM_CLOCK,
    chance: Chance = Chance(),  # noqa: B008  # frozen
    beat_seconds: float = BEAT_SECONDS,
    work: bool = True,
) -> AsyncIterator[Control]:
    """A control plane over `host`, whose running machines it has adopted before the block begins.

    At the end of the block the machines are left or destroyed as `config.on_exit` says. With `work=False` nothing
    happens by itself: a test runs the errands. Errors: Conflict when another server uses the state directory.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(_alone_in(config.state_dir))
        database = await stack.enter_async_context(open_database(config.state_dir / "control.db"))
        await database.write(lambda connection: accounts.recount(connection, config.workspace))
        plane = _Plane(config, host, database, clock, chance)
        first_token = await plane.accounts.bootstrap(config.workspace, config.bootstrap_token)
        stack.push_async_callback(plane.flush)
        deaths = await stack.enter_async_context(host.deaths())
        await plane.adoption.adopt()
        group = await stack.enter_async_context(_cancelled_at_end())
        group.create_task(_bury(deaths, plane.adoption), name="deaths")
        if work:
            group.create_task(run_errands(plane.errands()), name="errands")
        control = Control(plane.app(beat_seconds), plane.services(beat_seconds), plane.errands(), first_token)
        try:
            yield control
        finally:
            if config.on_exit is OnExit.DESTROY:
                await plane.destroy_all()
