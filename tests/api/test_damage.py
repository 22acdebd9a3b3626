"""Snapshots that are damaged or gone: told, and gone on from as far as that can be."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pandastack.host import fsck
from pandastack.host.fsck import State
from pandastack.host.kept import Damage
from tests.api.conftest import World
from tests.api.test_life import pid_of, sandbox, until
from tests.api.test_state import held, post, types

pytestmark = pytest.mark.anyio

ALL = "/v1/sandboxes"
REASON = "s: memory: chunk 0 (bytes 0 to 7) is damaged."


def damage(world: World, snapshot_id: str) -> None:
    """As a scrub finds it."""
    folder = world.folder / "host" / "s" / snapshot_id
    world.host.vms.vault.note(folder, Damage(REASON, "memory", 0))


async def told(world: World, snapshot_id: str) -> dict[str, Any]:
    return dict((await world.http.get(f"/v1/snapshots/{snapshot_id}")).json())


async def test_what_is_damaged_is_told_and_its_disk_can_be_booted(world: World, box: str) -> None:
    good, bad = [(await post(world, f"{box}/snapshots", status=201))["id"] for _ in range(2)]
    await post(world, f"{box}/hibernate")  # what it sleeps in is nothing to make another one from
    damage(world, bad)
    assert (await told(world, bad))["damaged"] == REASON
    assert "damaged" not in await told(world, good)
    for path in ("/v1/snapshots", f"{ALL}/{box}/snapshots"):
        found = (await world.http.get(path)).json()["snapshots"]
        assert {each["id"]: each.get("damaged") for each in found} == {good: None, bad: REASON}
    refused = await world.http.post(ALL, json={"from_snapshot": bad})
    assert refused.json()["code"] == "snapshot.refused"
    assert refused.json()["details"] == {"file": "memory", "chunk": 0}
    assert f"The one before, {good} of " in refused.json()["error"]
    assert "Its disk alone can be booted: disk_only." in refused.json()["error"]
    made = await world.create(from_snapshot=bad, disk_only=True)
    assert (made["boot_mode"], made["from_snapshot"]) == ("cold", bad)
    assert (await world.exec(made["id"], "echo up"))["stdout"] == "up\n"
    assert (await world.events(made["id"]))[-1]["payload"]["boot_mode"] == "cold"


async def test_a_sleeper_boots_from_its_disk(world: World, box: str) -> None:
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    await post(world, f"{box}/hibernate")
    damage(world, (await sandbox(world, box))["snapshot_id"])
    refused = await world.http.post(f"{ALL}/{box}/wake")
    assert refused.json()["code"] == "snapshot.refused" and "disk_only" in refused.json()["error"]
    assert (await sandbox(world, box))["status"] == "hibernated"
    assert await post(world, f"{box}/wake", {"disk_only": True}) == {"status": "running"}
    assert (await sandbox(world, box))["boot_mode"] == "cold"
    assert await post(world, f"{box}/wake", {"disk_only": True}) == {"status": "running"}
    assert (await world.events(box))[-1]["payload"]["boot_mode"] == "cold"
    for disk_only, mode in ((False, "snapshot"), (True, "cold")):
        back = await post(world, f"{box}/rollback", {"snapshot_id": taken, "disk_only": disk_only})
        assert back["boot_mode"] == mode


async def test_only_what_has_a_state_boots_from_its_disk(world: World) -> None:
    refused = await world.http.post(ALL, json={"template": "base", "disk_only": True})
    assert refused.status_code == 400 and "from_snapshot" in refused.json()["error"]


def remove_damaged(state: Path) -> None:
    """As `pandastack fsck --delete-damaged` does, once each manifest has been damaged."""
    for manifest in state.glob("s/*/snapshot.json"):
        manifest.write_bytes(b"{}")
    found = fsck.check(state, lambda *_: None)
    fsck.remove(each for each in found if each.state is State.DAMAGED)


async def test_what_was_removed_meanwhile_is_known_from_the_start(world: World, box: str) -> None:
    dead = (await world.create())["id"]
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    await post(world, f"{box}/hibernate")
    await post(world, f"{dead}/hibernate")
    await post(world, f"{dead}/wake")
    os.kill(pid_of(world, dead), signal.SIGKILL)
    await until(world, dead, "failed")
    assert "roll it back to snapshot" in (await sandbox(world, dead))["cause"]
    await world.stop()
    remove_damaged(world.folder / "host")
    await world.start()
    assert held(world) == set() and (await world.http.get("/v1/snapshots")).json() == {"snapshots": []}
    assert (await world.http.get(f"/v1/snapshots/{taken}")).status_code == 404
    assert (await world.http.post(ALL, json={"from_snapshot": taken})).status_code == 404
    lost = await sandbox(world, box)
    assert lost["status"] == "failed" and "is gone from its host" in lost["cause"]
    assert lost["snapshot_id"] is None and (await types(world, box)).count("snapshot.lost") == 2
    again = await sandbox(world, dead)
    assert again["status"] == "failed" and again["cause"].endswith("is gone from its host.")
    for sandbox_id in (box, dead):
        for verb, body in (("wake", None), ("exec", {"cmd": "true"}), ("fork", None), ("snapshots", None)):
            refused = await world.http.post(f"{ALL}/{sandbox_id}/{verb}", json=body)
            assert refused.status_code == 409 and "is gone from its host" in refused.json()["error"]
        assert (await world.http.delete(f"{ALL}/{sandbox_id}")).status_code == 204
