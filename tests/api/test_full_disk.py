"""A full disk: told as such, and nothing is lost or stuck by it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.process_driver import ProcessDriver
from tests.api.conftest import World, of_processes
from tests.api.test_life import pid_of, sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.root]


@pytest.fixture
async def small(leak_check: LeakCheck, tmp_path: Path, process_driver: ProcessDriver) -> AsyncIterator[World]:
    """A world on a file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    try:
        world = World(folder, of_processes(process_driver))
        await world.start()
        yield world
        await world.host.end_all()
        await world.stop()
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(file: Path) -> None:
    """Write until there is no room for a byte."""
    with file.open("wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)):
                pass
        except OSError:
            return


async def test_what_cannot_be_done_says_so_and_changes_nothing(small: World) -> None:
    box = (await small.create())["id"]
    fill(small.folder / "filler")
    made = await small.http.post("/v1/sandboxes", json={"template": "base"})
    paused = await small.http.post(f"/v1/sandboxes/{box}/pause")
    for answer in (made, paused):
        assert (answer.status_code, answer.json()["code"]) == (507, "capacity.disk_full")
        assert "retry-after" in answer.headers
    assert (await small.exec(box, "echo on"))["stdout"] == "on\n"
    (small.folder / "filler").unlink()
    assert [vm.id for vm in small.host.vms.reports()] == [box]
    assert (await small.http.post(f"/v1/sandboxes/{box}/pause")).status_code == 204


async def test_what_fills_the_disk_can_be_deleted(small: World) -> None:
    box = (await small.create())["id"]
    fill(small.folder / "host" / "v" / box / "filler")
    assert (await small.http.delete("/v1/sandboxes/unknown")).status_code == 404
    assert (await small.http.delete(f"/v1/sandboxes/{box}")).status_code == 204
    assert (await sandbox(small, box, "?deleted=1"))["cause"] == "deleted by its owner"


async def test_a_death_is_recorded_when_there_is_room_again(small: World) -> None:
    box = (await small.create())["id"]
    fill(small.folder / "filler")
    async with small.host.deaths() as deaths:
        os.kill(pid_of(small, box), signal.SIGKILL)
        await anext(deaths)
    (small.folder / "filler").unlink()
    async with asyncio.timeout(10):
        while (found := await sandbox(small, box))["status"] != "failed":
            await small.control.plane.adoption.settle()
            await asyncio.sleep(0.01)
    assert "SIGKILL" in found["cause"]


async def test_what_was_done_on_a_full_disk_is_in_the_audit_trail(small: World) -> None:
    box = (await small.create())["id"]
    fill(small.folder / "filler")
    assert (await small.exec(box, "echo on"))["stdout"] == "on\n"
    assert (await small.http.get("/v1/audit")).status_code == 507
    (small.folder / "filler").unlink()
    trail = (await small.http.get("/v1/audit")).json()["entries"]
    assert [each["path"] for each in trail if each["path"].endswith("/exec")] == [f"/v1/sandboxes/{box}/exec"]
