"""Random histories of all verbs against a model: what each sandbox is, where it comes from, what it holds."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import Struct

from pandastack.testing.fixtures import LeakCheck
from tests.api.conftest import World
from tests.api.test_cut_off import check_world
from tests.api.test_state import post

ALL = "/v1/sandboxes"
T = TypeVar("T")
MOST = 4
"""Sandboxes at a time."""
LONG = 400
"""Seconds behind which whoever may idle for 300 at most has done so."""
LEASHES: dict[str, dict[str, object]] = {
    "sleeps": {"persistent": True, "idle_timeout_seconds": 300},
    "stays": {"persistent": True},
    "dies": {"persistent": False},
}
"""What becomes of a sandbox that idles, and how that is asked for."""


TURNS = {f"sandbox.{turn}" for turn in ("paused", "resumed", "hibernated", "woken", "rolled_back")}
"""The events of changes of state."""


class Box(Struct):
    """A sandbox of the model; `files` is what it holds, once on its disk and once in its memory."""

    status: str
    leash: str
    parent: str | None
    files: dict[str, str]
    tree: str | None = None
    told: list[str] = []
    """Its changes of state so far, as its events tell them."""


class Kept(Struct):
    """A snapshot of the model."""

    source: str
    files: dict[str, str]


class Histories(RuleBasedStateMachine):
    """The verbs of one server, which is also started again. Subclasses say what it runs on."""

    holds_files = False
    """Whether its machines have disk and memory of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.runner.get_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="histories-"))
        self.leaks = LeakCheck(self.folder.name)
        self.world = self.open_world()
        self.boxes: dict[str, Box] = {}
        self.ended: dict[str, Box] = {}
        self.kept: dict[str, Kept] = {}
        self.do(self.world.start())

    @abstractmethod
    def open_world(self) -> World:
        """One that lives below the folder, not started yet."""

    def do(self, steps: Coroutine[Any, Any, T]) -> T:
        """Take some steps; between them nothing happens."""
        return self.runner.run(steps)

    def post(self, path: str, body: object = None, status: int = 200) -> dict[str, Any]:
        return self.do(post(self.world, path, body, status))

    def any_box(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(list(self.boxes)))

    def room(self) -> int:
        return MOST - len(self.boxes)

    def born(self, row: dict[str, Any], leash: str, parent: str | None, files: dict[str, str]) -> None:
        self.boxes[row["id"]] = Box("running", leash, parent, dict(files), row.get("tree_id"))

    def turned(self, name: str, status: str, event: str) -> None:
        """It is in a state now, and says so unless it was before."""
        box = self.boxes[name]
        if box.status != status:
            box.status = status
            box.told.append(f"sandbox.{event}")

    def used(self, name: str) -> None:
        """Any use of one that sleeps has woken it."""
        if self.boxes[name].status == "hibernated":
            self.turned(name, "running", "woken")

    # -- lives

    @precondition(lambda self: self.room() > 0)
    @rule(leash=st.sampled_from(sorted(LEASHES)))
    def create(self, leash: str) -> None:
        self.born(self.do(self.world.create(**LEASHES[leash])), leash, None, {})

    @precondition(lambda self: self.kept and self.room() > 0)
    @rule(data=st.data(), leash=st.sampled_from(sorted(LEASHES)))
    def create_from_snapshot(self, data: st.DataObject, leash: str) -> None:
        name = data.draw(st.sampled_from(list(self.kept)))
        row = self.do(self.world.create(from_snapshot=name, **LEASHES[leash]))
        assert (row["from_snapshot"], row["boot_mode"]) == (name, "snapshot")
        self.born(row, leash, self.kept[name].source, self.kept[name].files)

    @precondition(lambda self: self.boxes and self.room() > 0)
    @rule(data=st.data(), verb=st.sampled_from(["fork", "fork-tree"]), persistent=st.booleans())
    def fork(self, data: st.DataObject, verb: str, *, persistent: bool) -> None:
        box = self.any_box(data)
        count = data.draw(st.integers(1, self.room()))
        made = self.post(f"{box}/{verb}", {"count": count, "persistent": persistent}, 201)
        assert not made.get("errors") and len(made["children"]) == count
        for child in made["children"]:
            child_id = child if isinstance(child, str) else child["id"]
            row = self.do(self.row(child_id))
            self.born(row, "stays" if persistent else "dies", box, self.boxes[box].files)

    @precondition(lambda self: self.boxes)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        box = self.any_box(data)
        assert self.do(self.world.http.delete(f"{ALL}/{box}")).status_code == 204
        self.over(box)

    @precondition(lambda self: any(box.tree for box in self.boxes.values()))
    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        winner = data.draw(st.sampled_from([name for name, box in self.boxes.items() if box.tree]))
        tree = self.boxes[winner].tree
        losers = {name for name, box in self.boxes.items() if box.tree == tree and name != winner}
        promoted = self.post(f"{winner}/promote", {"cleanup_siblings": True})
        assert set(promoted["deleted"]) == losers and promoted["failures"] == {}
        self.boxes[winner].tree = None
        for loser in losers:
            self.over(loser)

    def over(self, box: str) -> None:
        self.ended[box] = self.boxes.pop(box)

    # -- states

    @precondition(lambda self: self.boxes)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        box = self.any_box(data)
        if self.boxes[box].status == "hibernated":
            self.post(f"{box}/pause", status=409)
        else:
            self.post(f"{box}/pause", status=204)
            self.turned(box, "paused", "paused")

    @precondition(lambda self: self.boxes)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self.go_on(self.any_box(data))

    def go_on(self, box: str) -> None:
        self.post(f"{box}/resume", status=204)
        self.used(box)
        self.turned(box, "running", "resumed")

    @precondition(lambda self: self.boxes)
    @rule(data=st.data())
    def hibernate(self, data: st.DataObject) -> None:
        self.put_to_sleep(self.any_box(data))

    def put_to_sleep(self, box: str) -> None:
        self.post(f"{box}/hibernate")
        self.turned(box, "hibernated", "hibernated")

    @rule()
    def time_passes(self) -> None:
        """Whoever may not idle for so long sleeps or ends, whether it ran or was paused."""
        self.world.time.passes(LONG)
        self.do(self.world.control.plane.reaper.reap())
        for name, box in list(self.boxes.items()):
            if box.status != "hibernated" and box.leash == "sleeps":
                self.turned(name, "hibernated", "hibernated")
            elif box.status != "hibernated" and box.leash == "dies":
                self.over(name)

    @precondition(lambda self: self.boxes)
    @rule(data=st.data())
    def wake(self, data: st.DataObject) -> None:
        box = self.any_box(data)
        if self.boxes[box].status == "paused":
            return
        self.post(f"{box}/wake")
        self.used(box)

    @rule()
    def start_again(self) -> None:
        self.do(self.world.stop())
        self.do(self.world.start())

    # -- snapshots

    @precondition(lambda self: self.boxes and len(self.kept) < MOST)
    @rule(data=st.data())
    def snapshot(self, data: st.DataObject) -> None:
        box = self.any_box(data)
        if self.boxes[box].status == "hibernated":
            self.post(f"{box}/snapshots", status=409)
        else:
            taken = self.post(f"{box}/snapshots", status=201)
            self.kept[taken["id"]] = Kept(box, dict(self.boxes[box].files))

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def delete_snapshot(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(list(self.kept)))
        assert self.do(self.world.http.delete(f"/v1/snapshots/{name}")).status_code == 204
        del self.kept[name]

    @precondition(lambda self: self.kept and self.boxes)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        box, name = self.any_box(data), data.draw(st.sampled_from(list(self.kept)))
        if self.kept[name].source in self.line_of(box):
            back = self.post(f"{box}/rollback", {"snapshot_id": name})
            assert (back["id"], back["status"]) == (box, "running")
            self.boxes[box].status, self.boxes[box].files = "running", dict(self.kept[name].files)
            self.boxes[box].told.append("sandbox.rolled_back")
        else:
            self.post(f"{box}/rollback", {"snapshot_id": name}, 409)

    def line_of(self, box: str) -> set[str]:
        """It and its ancestors, those too that are gone."""
        found, at = set(), box if box else None
        while at is not None:
            found.add(at)
            at = (self.boxes.get(at) or self.ended[at]).parent
        return found

    # -- contents

    @precondition(lambda self: self.boxes)
    @rule(data=st.data(), name=st.sampled_from("ab"), content=st.integers(0, 999))
    def write(self, data: st.DataObject, name: str, content: int) -> None:
        """By a command, which wakes one that sleeps and is refused by one that is paused."""
        box = self.any_box(data)
        if self.boxes[box].status == "paused":
            self.post(f"{box}/exec", {"cmd": "true"}, 409)
        else:
            self.put(box, name, str(content))

    def put(self, box: str, name: str, content: str) -> None:
        line = f"echo {content} | tee /root/{name} > /dev/shm/{name}" if self.holds_files else "true"
        assert self.post(f"{box}/exec", {"cmd": line})["exit_code"] == 0
        self.used(box)
        self.boxes[box].files[name] = content

    @precondition(lambda self: any(box.status != "paused" for box in self.boxes.values()))
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        awake = [name for name, box in self.boxes.items() if box.status != "paused"]
        self.look_into(data.draw(st.sampled_from(awake)))

    def look_into(self, box: str) -> None:
        """What it holds is what the model says, on the disk and in memory."""
        line = "cd /root && grep -H . *; cd /dev/shm && grep -H . *; true" if self.holds_files else "true"
        found = self.post(f"{box}/exec", {"cmd": line})
        self.used(box)
        expected = [f"{name}:{content}" for name, content in sorted(self.boxes[box].files.items())]
        assert found["stdout"].split() == (expected * 2 if self.holds_files else []), found

    # -- what is always true

    async def row(self, box: str) -> dict[str, Any]:
        return dict((await self.world.http.get(f"{ALL}/{box}")).json())

    @invariant()
    def the_world_is_the_model(self) -> None:
        """Rows, machines, snapshots and books agree with each other and with the model."""
        self.do(check_world(self.world))
        rows = {row["id"]: row for row in self.do(self.world.http.get(ALL)).json()}
        assert {name: row["status"] for name, row in rows.items()} == {
            name: box.status for name, box in self.boxes.items()
        }
        for name, box in self.boxes.items():
            row = rows[name]
            assert (row["parent_id"], row["tree_id"], row["cause"]) == (box.parent, box.tree, None)
            types = [event["type"] for event in self.do(self.world.events(name))]
            assert [kind for kind in types if kind in TURNS] == box.told
        listed = self.do(self.world.http.get("/v1/snapshots")).json()["snapshots"]
        assert {row["id"]: row["sandbox_id"] for row in listed} == {
            name: kept.source for name, kept in self.kept.items()
        }

    def teardown(self) -> None:
        try:
            self.finale()
        finally:
            self.do(self.world.host.end_all())
            self.do(self.world.stop())
            shutil.rmtree(self.folder)
            left = self.leaks.leaks()
            self.runner.close()
        assert left == []

    def finale(self) -> None:
        """Everybody still holds what it should."""
        for name in self.boxes:
            self.go_on(name)
            self.look_into(name)
