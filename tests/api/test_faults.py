"""Faults that are injected from outside: what the caller is told, and what is left."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pandastack.api.v1 import ENDPOINTS
from pandastack.model.host import VmState
from pandastack.testing.fixtures import descriptors, eventually
from tests.api.conftest import TOKEN, World
from tests.api.test_life import pid_of

pytestmark = pytest.mark.anyio


@contextmanager
def few_descriptors() -> Iterator[None]:
    """No number above those that are in use now."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_a_host_that_has_no_room_says_when_to_come_again(world: World) -> None:
    made, answer = -1, None
    with few_descriptors():
        while answer is None or answer.status_code == 201:
            answer = await world.http.post("/v1/sandboxes", json={"template": "base"})
            made += 1
    assert (answer.status_code, answer.json()["code"]) == (503, "capacity.unavailable")
    assert "retry-after" in answer.headers
    await world.create()
    assert len(world.host.vms.reports()) == made + 1


async def test_a_client_that_leaves_a_download_uses_its_sandbox_no_longer(
    world: World, url: str, box: str, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 30)
    head = f"GET /v1/sandboxes/{box}/fs?path={large} HTTP/1.1\r\nhost: x\r\nx-api-key: {TOKEN}\r\n\r\n"
    with socket.create_connection((str(urlsplit(url).hostname), urlsplit(url).port or 0)) as line:
        await asyncio.to_thread(line.sendall, head.encode())
        assert await asyncio.to_thread(line.recv, 65536)
        world.time.passes(301)
        assert world.control.plane.activity.overdue() == []

    def is_idle() -> bool:
        world.time.passes(301)
        return bool(world.control.plane.activity.overdue())

    await eventually(is_idle)


async def test_a_guest_that_never_answers_holds_nobody_else_up(world: World, box: str) -> None:
    other = (await world.create())["id"]
    os.kill(pid_of(world, box), signal.SIGSTOP)
    asked = asyncio.ensure_future(world.http.post(f"/v1/sandboxes/{box}/exec", json={"cmd": "true"}))
    assert (await world.exec(other, "echo here"))["stdout"] == "here\n"
    metrics = (await world.http.get(f"/v1/sandboxes/{box}/metrics")).json()
    assert metrics["pid"] == pid_of(world, box) and metrics["guest"] is None
    assert (await world.http.delete(f"/v1/sandboxes/{box}")).status_code == 204
    answer = await asked
    assert answer.status_code == 409 and "was ended meanwhile" in answer.json()["error"]


async def test_a_key_outlives_a_restart(idle_world: World) -> None:
    headers = {"idempotency-key": "k1"}
    await idle_world.start()
    first = await idle_world.http.post("/v1/sandboxes", json={"template": "base"}, headers=headers)
    await idle_world.stop()
    await idle_world.start()
    again = await idle_world.http.post("/v1/sandboxes", json={"template": "base"}, headers=headers)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json()["id"] == first.json()["id"]
    assert len(idle_world.host.vms.reports()) == 1


async def test_no_get_changes_the_state(world: World, box: str) -> None:
    await world.http.post(f"/v1/sandboxes/{box}/pause")
    for endpoint in ENDPOINTS:
        if endpoint.method == "GET" and "{sandbox_id}" in endpoint.path:
            path = endpoint.path.format(sandbox_id=box, process_id="none", name="none")
            await world.http.get(path, params={"path": "/etc/hostname"})
    assert (await world.http.get(f"/v1/sandboxes/{box}")).json()["status"] == "paused"
    assert world.host.vms.reports()[0].state is VmState.PAUSED
