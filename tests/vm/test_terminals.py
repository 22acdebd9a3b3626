"""Terminals of real machines: they sleep and wake with them, are forked with them, and outlive the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pandastack.api.server import serving
from pandastack.testing.fixtures import LeakCheck
from tests.api.conftest import World
from tests.api.terminals import known, looking, opened
from tests.vm.test_histories import real_host

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300), pytest.mark.usefixtures("images")]


@pytest.fixture
async def world(leak_check: LeakCheck, tmp_path: Path) -> AsyncIterator[World]:
    """A world of real machines, which end with the test."""
    world = World(tmp_path, real_host)
    await world.start()
    yield world
    await world.host.end_all()
    await world.stop()


async def test_a_terminal_sleeps_wakes_and_outlives_the_server(world: World) -> None:
    box = (await world.create())["id"]
    await opened(world, box, cmd=None, rows=31, cols=97)
    async with serving(world.control, "127.0.0.1:0") as url:
        async with looking(url, box, "main") as eyes:
            await eyes.type("x=before; cd /srv; (sleep 1000; echo job) & echo rea''dy")
            await eyes.until(b"ready\r\n")
            answer = await world.http.post(f"/v1/sandboxes/{box}/hibernate")
            assert answer.status_code < 300, answer.text
            assert "hibernated" in await eyes.notice("error")  # who looked is told why it is over
        async with looking(url, box, "main") as eyes:  # which wakes it
            assert (await eyes.notice("attached"))["size"] == {"rows": 31, "cols": 97}
            await eyes.until(b"ready\r\n")
            await eyes.type("echo $x $PWD $(stty size); jobs | cat")
            await eyes.until(b"before /srv 31 97\r\n")
            await eyes.until(b"Running")
    await world.stop()
    await world.start()
    async with serving(world.control, "127.0.0.1:0") as url, looking(url, box, "main") as eyes:
        await eyes.until(b"before /srv 31 97\r\n")
        await eyes.type("exit 5")
        await eyes.type("exit 5")  # bash asks once, as there is a job
        assert await eyes.notice("exit") == 5
    ended = (await known(world, box))["main"]
    assert (ended["running"], ended["exit_code"], ended["command"]) == (False, 5, "login shell")


async def test_a_fork_has_the_terminal_too_and_goes_its_own_way(world: World) -> None:
    box = (await world.create())["id"]
    await opened(world, box, cmd=None)
    async with serving(world.control, "127.0.0.1:0") as url, looking(url, box, "main") as parent:
        await parent.type("x=both; echo rea''dy")
        await parent.until(b"ready\r\n")
        answer = await world.http.post(f"/v1/sandboxes/{box}/fork", json={"count": 1})
        assert answer.status_code == 201, answer.text
        child_id = answer.json()["children"][0]
        async with looking(url, child_id, "main") as child:
            await child.until(b"ready\r\n")
            await child.type("x=child; echo it is $x $((40+2))")
            await child.until(b"it is child 42\r\n")
            await parent.type("echo it is $x $((40+2))")
            await parent.until(b"it is both 42\r\n")
            await child.type("exit 3")
            assert await child.notice("exit") == 3
        assert (await known(world, box))["main"]["running"]
        assert not (await known(world, child_id))["main"]["running"]
        assert not any("error" in each for each in parent.notices)
