"""What differs between two points. Under this driver all have the files of this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import World
from tests.api.test_state import ALL, held, machines, post

pytestmark = pytest.mark.anyio


async def diff(world: World, a: dict[str, Any], b: dict[str, Any], **more: object) -> dict[str, Any]:
    answer = await world.http.post("/v1/diff", json={"a": a, "b": b, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_a_step_is_restored_to_be_looked_at_and_gone_again(world: World, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("x")
    box = (await world.create(checkpoints="exec"))["id"]
    await world.exec(box, "true")
    told = await diff(world, {"sandbox_id": box, "step": 0}, {"sandbox_id": box}, path=str(tmp_path / "in"))
    assert told["files"] == {"added": [], "removed": [], "changed": []} and not told["truncated"]
    assert list(machines(world)) == [box] and len(held(world)) == 2
    assert [each["id"] for each in (await world.http.get(ALL)).json()] == [box]
    step = (await world.http.get(f"{ALL}/{box}/timeline")).json()["steps"][1]["snapshot_id"]
    same = await diff(world, {"snapshot_id": step}, {"snapshot_id": step}, path=str(tmp_path / "in"))
    assert same["files"]["changed"] == [] and not same["truncated"]
    assert list(machines(world)) == [box]


async def test_what_is_looked_at_is_in_no_list(world: World, box: str, tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / str(number)).mkdir()
    taken = (await post(world, f"{box}/snapshots", status=201))["id"]
    asked = asyncio.create_task(diff(world, {"snapshot_id": taken}, {"sandbox_id": box}, path=str(tmp_path)))
    seen = set()
    while not asked.done():
        seen |= {each["id"] for each in (await world.http.get(ALL)).json()}
    await asked
    assert seen == {box}
    lineage = (await world.http.get(f"{ALL}/{box}/tree")).json()["nodes"]
    assert [node["id"] for node in lineage] == [box]


async def test_processes_and_ports_are_of_the_guest(world: World, box: str, tmp_path: Path) -> None:
    """Both look at this machine; what comes up between the two looks is not certain to be seen twice."""
    other = (await world.create())["id"]
    await post(world, f"{other}/processes", {"cmd": ["sleep", "987"]}, 201)
    told = await diff(world, {"sandbox_id": box}, {"sandbox_id": other}, path=str(tmp_path))
    assert not [each for each in told["processes"]["started"] if "sleep 987" in each["command"]]
    assert told["ports"] == {"opened": [], "closed": []}


async def test_points_that_cannot_be_are_refused(world: World, box: str, tmp_path: Path) -> None:
    here: dict[str, object] = {"sandbox_id": box}
    for point, status in (
        ({}, 400),
        ({"sandbox_id": box, "snapshot_id": "x"}, 400),
        ({"snapshot_id": "none"}, 404),
        ({"sandbox_id": "none"}, 404),
        ({"sandbox_id": box, "step": 3}, 404),
    ):
        for a, b in ((point, here), (here, point)):
            answer = await world.http.post("/v1/diff", json={"a": a, "b": b, "path": str(tmp_path)})
            assert answer.status_code == status, answer.text
    for path, status in (("relative", 400), (str(tmp_path / "missing"), 404)):
        answer = await world.http.post("/v1/diff", json={"a": here, "b": here, "path": path})
        assert answer.status_code == status, answer.text
    assert machines(world).keys() == {box}
