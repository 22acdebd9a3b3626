"""A snapshot of a real machine, moved as a file to a server that has nothing of it but the key."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from pandastack import AsyncClient
from pandastack.api.server import serving
from pandastack.host import fsck
from pandastack.host.app import LocalHost, open_host
from pandastack.host.fsck import State
from pandastack.host.seals import KEY
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.real import CACHE, small_host
from tests.api.conftest import TOKEN, World
from tests.api.test_state import post
from tests.vm.conftest import quiet
from tests.vm.yard import ASK, KEEPER, PIPES

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300), pytest.mark.usefixtures("images")]

FILL = "head -c 5000000 /dev/urandom | tee /dev/shm/f > /root/f && sync"
SUMS = "sha256sum /dev/shm/f /root/f"


@asynccontextmanager
async def server(folder: Path, keys: Path) -> AsyncIterator[tuple[World, AsyncClient]]:
    """A server with real machines, which end with it, and a client of it."""

    def host(state: Path) -> AbstractAsyncContextManager[LocalHost]:
        config = small_host(state, archive_keys=keys)
        return open_host(config, quiet)

    world = World(folder, host)
    await world.start()
    try:
        async with serving(world.control, "127.0.0.1:0") as url, AsyncClient(url, TOKEN) as client:
            yield world, client
    finally:
        await world.host.end_all()
        await world.stop()


async def test_memory_processes_and_disk_come_along(leak_check: LeakCheck, tmp_path: Path) -> None:
    file, keys = tmp_path / "file", tmp_path / "keys"
    keys.mkdir()
    async with server(tmp_path / "old", keys) as (old, client):
        box = (await old.create())["id"]
        await old.exec(box, PIPES.format("word"))
        await post(old, f"{box}/processes", {"cmd": KEEPER, "env": {"TOKEN": "word"}}, 201)
        await old.exec(box, FILL)
        sums = (await old.exec(box, SUMS))["stdout"]
        taken = (await post(old, f"{box}/snapshots", status=201))["id"]
        told: list[int] = []
        await client.snapshots.export(taken, file, on_progress=told.append)
        await old.http.delete(f"/v1/sandboxes/{box}")
        await client.snapshots.delete(taken)
        await old.host.vms.look_after()
        bases = tmp_path / "old" / "host" / "b"
        assert not [*bases.iterdir()]
        back = await client.snapshots.import_(file)
        child = await old.create(from_snapshot=back["id"])
        assert (await old.exec(child["id"], SUMS))["stdout"] == sums
        [held] = bases.iterdir()
        assert (CACHE / "snapshots" / "base" / held.name).exists(), "the template is not written again"
    assert told[-1] == file.stat().st_size and told == sorted(told)
    shutil.copy(tmp_path / "old" / "host" / KEY, keys / "old")
    shutil.rmtree(tmp_path / "old")
    async with server(tmp_path / "new", keys) as (new, client):
        made = await client.snapshots.import_(file, name="moved")
        for _ in range(2):  # from the import, then from a state of what went on from it
            child = await new.create(from_snapshot=made["id"])
            assert (await new.exec(child["id"], ASK.format("x")))["stdout"] == "word x\nword\n"
            assert (await new.exec(child["id"], SUMS))["stdout"] == sums
            made = await client.snapshots.create(child["id"])
        assert (tmp_path / "new" / "host" / "b").exists()
    found = fsck.check(tmp_path / "new" / "host", lambda *_: None)
    assert [each.state for each in found] == [State.OK] * 4, found
