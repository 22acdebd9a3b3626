"""A control plane in this process, over a real host whose machines are guest agents as plain processes."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from pandastack.api.server import serving
from pandastack.config import ControlConfig
from pandastack.control import Control, open_control
from pandastack.host.app import LocalHost, host_of
from pandastack.host.templates import BareShelf
from pandastack.host.vm import Sources
from pandastack.model.clock import Clock
from pandastack.store import accounts
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.process_driver import ProcessDriver
from tests.gateway.upstream import Reader, Upstream, Writer, serving_upstream

TOKEN = "pds_" + "0" * 32
FOREIGN = "pds_" + "f" * 32
BEAT_SECONDS = 0.2


class Time:
    """The real clock, which a test may set forward."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.clock = Clock(lambda: time.time() + self.ahead, lambda: time.monotonic() + self.ahead)

    def passes(self, seconds: float) -> None:
        self.ahead += seconds


Hosts = Callable[[Path], AbstractAsyncContextManager[LocalHost]]
"""Opens the host of a state directory."""


def of_processes(driver: ProcessDriver) -> Hosts:
    """Hosts whose machines are guest agents as plain processes."""
    sources = Sources(entropy=os.urandom, wall_ns=time.time_ns)
    return lambda state: host_of(driver, BareShelf(["code-interpreter", "base"], state), state, sources)


class World:
    """A host, and a control plane over it that can be stopped and started again."""

    def __init__(self, folder: Path, hosts: Hosts) -> None:
        self.folder = folder
        self.hosts = hosts
        self.time = Time()
        self.beat_seconds = BEAT_SECONDS
        self.settings: dict[str, Any] = {"bootstrap_token": TOKEN, "on_exit": "keep"}
        self._stack = AsyncExitStack()
        self.host: LocalHost
        self.control: Control
        self.http: httpx2.AsyncClient

    async def start(self, **settings: Any) -> None:  # noqa: ANN401  # the fields of ControlConfig, checked there
        """Start host and control plane with the state that the last ones left."""
        values = {"state_dir": str(self.folder / "control"), **self.settings, **settings}
        config = msgspec.convert(values, ControlConfig, dec_hook=lambda kind, value: kind(value))
        stack = self._stack = AsyncExitStack()
        self.host = await stack.enter_async_context(self.hosts(self.folder / "host"))
        opened = open_control(
            config, self.host, clock=self.time.clock, beat_seconds=self.beat_seconds, work=False
        )
        self.control = await stack.enter_async_context(opened)
        transport = httpx2.ASGITransport(app=self.control)
        self.http = await stack.enter_async_context(client(transport, "http://test"))

    async def stop(self) -> None:
        """Stop both; the machines run on if the settings say so."""
        await self._stack.aclose()

    async def create(self, **body: object) -> dict[str, Any]:
        """A running sandbox, as its answer."""
        answer = await self.http.post("/v1/sandboxes", json={"template": "base", **body})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def exec(self, sandbox_id: str, cmd: object, **body: object) -> dict[str, Any]:
        """The result of a command."""
        answer = await self.http.post(f"/v1/sandboxes/{sandbox_id}/exec", json={"cmd": cmd, **body})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def events(self, sandbox_id: str) -> list[dict[str, Any]]:
        answer = await self.http.get(f"/v1/sandboxes/{sandbox_id}/events")
        return list(answer.json()["events"])


def timeless(stream: bytes) -> bytes:
    """The records of a stream, as if everything had taken no time."""
    return re.sub(rb'"duration_ms":\d+', b'"duration_ms":0', stream)


def client(
    transport: httpx2.AsyncBaseTransport | None, base: str, token: str | None = TOKEN
) -> httpx2.AsyncClient:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx2.AsyncClient(transport=transport, base_url=base, headers=headers, timeout=30)


@pytest.fixture
async def idle_world(
    leak_check: LeakCheck, tmp_path: Path, process_driver: ProcessDriver
) -> AsyncIterator[World]:
    """A world that has not been started; whatever it runs at the end of the test is ended."""
    world = World(tmp_path, of_processes(process_driver))
    yield world
    await world.host.end_all()
    await world.stop()


@pytest.fixture
async def world(idle_world: World) -> World:
    """A running world."""
    await idle_world.start()
    return idle_world


@pytest.fixture
def http(world: World) -> httpx2.AsyncClient:
    """A client with the admin token, no socket between."""
    return world.http


@pytest.fixture
async def box(world: World) -> str:
    """The id of a running sandbox."""
    return str((await world.create())["id"])


@pytest.fixture
async def foreigner(world: World) -> httpx2.AsyncClient:
    """An administrator of another workspace on the same server."""
    plane = world.control.plane
    await plane.ground.database.write(partial(accounts.recount, workspace="other"))
    await plane.accounts.bootstrap("other", FOREIGN)
    return client(httpx2.ASGITransport(app=world.control), "http://test", FOREIGN)


@pytest.fixture
async def url(world: World) -> AsyncIterator[str]:
    """The same control plane behind its real HTTP server."""
    async with serving(world.control, "127.0.0.1:0") as url:
        yield url


@pytest.fixture
async def wire(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client through a socket."""
    async with client(None, url) as wire:
        yield wire


@pytest.fixture
async def upstream(leak_check: LeakCheck) -> AsyncIterator[Upstream]:
    """A service that every sandbox here finds on its loopback."""
    async with serving_upstream() as upstream:
        yield upstream


def below(box: str, port: int, rest: str = "") -> str:
    return f"/v1/sandboxes/{box}/proxy/{port}{rest}"


async def raw(url: str) -> tuple[Reader, Writer]:
    """A connection to the API's server: clients would tidy what they are told to send."""
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))
