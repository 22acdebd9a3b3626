"""States of real machines whose memory cannot be used: the disk is booted, through the API."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pandastack.host.scrub import Scrub
from pandastack.testing.fixtures import LeakCheck
from tests.api.conftest import World
from tests.api.test_life import sandbox
from tests.api.test_state import post
from tests.vm.test_histories import real_host

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300), pytest.mark.usefixtures("images")]

ALL = "/v1/sandboxes"
WRITE = "echo kept > /root/f && echo lost > /dev/shm/f && sync && (sleep 600 < /dev/null > /dev/null 2>&1 &)"
LOOK = "cat /root/f; ls /dev/shm; pgrep -x sleep; true"
ALL_THERE, DISK_THERE = "kept\nf\n", "kept\n"


@pytest.fixture
async def world(leak_check: LeakCheck, tmp_path: Path) -> AsyncIterator[World]:
    """A control plane over a host that runs virtual machines."""
    world = World(tmp_path, real_host)
    await world.start()
    yield world
    await world.host.end_all()
    await world.stop()


def flip(pages: Path, place: int) -> None:
    """Turn one bit of a file around."""
    with pages.open("r+b") as file:
        value = os.pread(file.fileno(), 1, place)[0]
        os.pwrite(file.fileno(), bytes([value ^ 4]), place)


async def damage(world: World, snapshot_id: str) -> None:
    """One bit of its memory is wrong, and the host has found that."""
    folder = world.folder / "host" / "s" / snapshot_id
    flip(folder / "pages", 5_000_000)
    os.utime(folder / "snapshot.json", (0, 0))
    await Scrub(world.host.vms.vault, time.time_ns, bytes_per_second=1 << 40).look_through()


async def looked(world: World, sandbox_id: str) -> str:
    """What is there: the file, what was in memory, and the process."""
    return str((await world.exec(sandbox_id, LOOK))["stdout"])


async def test_the_disk_of_a_damaged_snapshot_is_booted(world: World) -> None:
    box = (await world.create())["id"]
    await world.exec(box, f"{WRITE}; head -c 9000000 /dev/urandom > /run/x")
    good, bad = [(await post(world, f"{box}/snapshots", status=201))["id"] for _ in range(2)]
    await damage(world, bad)
    for snapshot_id in (good, bad):
        await world.host.vms.driver.release(snapshot_id)  # from its files, as after a restart
    refused = (await world.http.post(ALL, json={"from_snapshot": bad})).json()
    assert (refused["code"], refused["details"]) == ("snapshot.refused", {"file": "pages", "chunk": 1})
    assert f"The one before, {good} of " in refused["error"]
    assert "Its disk alone can be booted: disk_only." in refused["error"]
    told = (await world.http.get("/v1/snapshots")).json()["snapshots"]
    assert [("damaged" in each) for each in told] == [True, False]
    whole = await world.create(from_snapshot=good)
    there = await looked(world, whole["id"])
    assert there.startswith(ALL_THERE) and there.removeprefix(ALL_THERE).strip().isdigit()
    booted = await world.create(from_snapshot=bad, disk_only=True)
    assert (whole["boot_mode"], booted["boot_mode"]) == ("snapshot", "cold")
    assert await looked(world, booted["id"]) == DISK_THERE
    back = await post(world, f"{box}/rollback", {"snapshot_id": bad, "disk_only": True})
    assert (back["id"], back["boot_mode"], await looked(world, box)) == (box, "cold", DISK_THERE)


async def test_a_sleeper_whose_image_is_damaged_boots_from_its_disk(world: World) -> None:
    box = (await world.create())["id"]
    await world.exec(box, f"{WRITE}; head -c 9000000 /dev/urandom > /run/x")
    await post(world, f"{box}/hibernate")
    await damage(world, (await sandbox(world, box))["snapshot_id"])
    await world.stop()
    await world.start()
    refused = await world.http.post(f"{ALL}/{box}/exec", json={"cmd": "true"})
    assert refused.json()["code"] == "snapshot.refused" and "disk_only" in refused.json()["error"]
    await post(world, f"{box}/wake", {"disk_only": True})
    assert (await sandbox(world, box))["boot_mode"] == "cold"
    assert await looked(world, box) == DISK_THERE


async def test_states_of_a_machine_that_was_booted_are_kept_as_any(world: World) -> None:
    """Memory and disk of it, in snapshots, forks and hibernation, from a copy of it and from files."""
    box = (await world.create())["id"]
    await world.exec(box, "echo kept > /root/f && sync")
    first = (await post(world, f"{box}/snapshots", status=201))["id"]
    booted = (await world.create(from_snapshot=first, disk_only=True))["id"]
    await world.exec(
        booted, f"{WRITE}; dd if=/dev/urandom of=/run/x bs=1M count=9 && sha256sum /run/x > /root/sum"
    )
    kept = (await post(world, f"{booted}/snapshots", status=201))["id"]
    (forked,) = (await post(world, f"{booted}/fork-tree", {"count": 1}, status=201))["children"]
    for _ in range(2):
        await post(world, f"{booted}/hibernate")
        await world.host.vms.driver.release((await sandbox(world, booted))["snapshot_id"])
        await world.exec(booted, "sha256sum -c /root/sum && echo more >> /root/g && sync")
    again = await world.create(from_snapshot=kept)
    assert again["boot_mode"] == "snapshot"
    for each in (booted, forked["id"], again["id"]):
        there = await looked(world, each)
        assert there.startswith(ALL_THERE) and there.removeprefix(ALL_THERE).strip().isdigit()
        assert "OK" in (await world.exec(each, "sha256sum -c /root/sum"))["stdout"]
    assert (await world.exec(booted, "cat /root/g"))["stdout"] == "more\nmore\n"


async def test_a_memory_that_was_cut_off_is_not_booted_over(world: World) -> None:
    """The machine has one of its own then, and says why its states cannot be kept."""
    box = (await world.create())["id"]
    await world.exec(box, "echo kept > /root/f && sync")
    kept = (await post(world, f"{box}/snapshots", status=201))["id"]
    (base,) = (world.folder / "host" / "b").glob("*/memory")
    base.unlink()  # it is a link to what the cache has
    base.write_bytes(b"cut off")
    booted = (await world.create(from_snapshot=kept, disk_only=True))["id"]
    assert await looked(world, booted) == DISK_THERE.splitlines()[0] + "\n"
    refused = await world.http.post(f"{ALL}/{booted}/snapshots")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_supported")
