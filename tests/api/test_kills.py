"""A server that is killed between any two steps, in a process of its own, and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from pandastack.cli.state import holder
from pandastack.failpoint import EXIT_STATUS, POINTS
from pandastack.testing.fixtures import LeakCheck
from tests.api.conftest import TOKEN, client

pytestmark = pytest.mark.anyio

PROGRAM = Path(sys.executable).with_name("pandastack")
ALL = "/v1/sandboxes"
ELSEWHERE = ("build.", "verify.", "backup.", "restore.")
"""How points begin that are not of sandboxes: builds are killed in `tests/vm/test_build_kills.py`."""
PROCESSES = {"PANDASTACK_DRIVER": "process", "PANDASTACK_INSECURE_NO_ISOLATION": "true"}
"""Settings with which machines are plain processes."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def server(
    home: Path, failpoints: str = "", *, leave: str = "keep", settings: Mapping[str, str] = PROCESSES
) -> AsyncIterator[httpx2.AsyncClient]:
    """A server on the state below `home`; one that was killed, or killed itself, is fine."""
    listen = f"127.0.0.1:{free_port()}"
    words = ["up", "--state", str(home / "state"), "--listen", listen, "--on-exit", leave]
    words += ["--gateway", "127.0.0.1:0", "--ssh", "127.0.0.1:0"]
    environment = {"HOME": str(home), "PATH": os.defpath, "PANDASTACK_BOOTSTRAP_TOKEN": TOKEN, **settings}
    environment |= {"PANDASTACK_FAILPOINTS": failpoints} if failpoints else {}
    with (home / "log").open("ab") as log:
        process = subprocess.Popen([PROGRAM, *words], env=environment, stdout=log, stderr=log)  # noqa: ASYNC220  # returns at once
    try:
        async with client(None, f"http://{listen}") as http:
            await ready(http, process)
            yield http
    finally:
        process.terminate()
        assert process.wait(30) in {0, EXIT_STATUS, -signal.SIGKILL}


async def ready(http: httpx2.AsyncClient, process: subprocess.Popen[bytes]) -> None:
    """Return when it answers, or has killed itself while it took up what the last one left."""
    async with asyncio.timeout(60):
        while process.poll() is None:
            try:
                if (await http.get("/healthz")).is_success:
                    return
            except httpx2.TransportError:
                await asyncio.sleep(0.02)


class Mortal:
    """A server that may be dead by now: what it does not answer is None."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self.died = False

    async def __call__(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """The answer; nothing of an error or of a dead one."""
        answer = await self._asked(self._http.request(method, path, json=body))
        return dict(answer.json()) if answer and answer.is_success and answer.content else {}

    async def moved(self, snapshot_id: str | None) -> None:
        """Export a snapshot and import it again."""
        file = await self._asked(self._http.get(f"/v1/snapshots/{snapshot_id}/archive"))
        if file is not None:
            await self._asked(self._http.post("/v1/snapshots/archive", content=file.content))

    async def _asked(self, asking: Awaitable[httpx2.Response]) -> httpx2.Response | None:
        try:
            return await asking
        except httpx2.TransportError:
            self.died = True
            return None


async def check_world(http: httpx2.AsyncClient, state: Path) -> None:
    """What the server tells is what lies in the directories of its host, and everything works."""
    rows = {row["id"]: row for row in (await http.get(ALL)).json()}
    assert {row["status"] for row in rows.values()} <= {"running", "paused", "hibernated"}
    standing = {row["id"] for row in rows.values() if row["status"] != "hibernated"}
    assert {home.name for home in (state / "v").iterdir()} == standing
    assert (await http.get("/v1/quotas")).json()["used"]["sandboxes"] == len(standing)
    named = {found["id"] for found in (await http.get("/v1/snapshots")).json()["snapshots"]}
    images = {row["snapshot_id"] for row in rows.values() if row["snapshot_id"]}
    assert {home.name for home in (state / "s").iterdir()} == named | images
    for sandbox_id in standing:
        assert (await http.post(f"{ALL}/{sandbox_id}/exec", json={"cmd": "true"})).status_code == 200


async def live(order: Mortal) -> None:
    """Every verb once, as far as the server lives."""
    body = {"template": "base"}
    box, asleep = [(await order("POST", ALL, body)).get("id") for _ in range(2)]
    taken = (await order("POST", f"{ALL}/{box}/snapshots")).get("id")
    await order.moved(taken)
    await order("POST", f"{ALL}/{box}/fork", {"count": 2})
    await order("POST", f"{ALL}/{box}/rollback", {"snapshot_id": taken})
    await order("POST", f"{ALL}/{asleep}/hibernate")
    await order("POST", f"{ALL}/{asleep}/wake")
    await order("POST", f"{ALL}/{asleep}/hibernate")
    await order("PUT", f"{ALL}/{asleep}/egress", {})
    await order("DELETE", f"/v1/snapshots/{taken}")
    await order("DELETE", f"{ALL}/{box}")


async def test_backups_are_gone_on_with_by_the_next_server(tmp_path: Path, leak_check: LeakCheck) -> None:
    """Also one that was not acknowledged yet. None is lost, none is told that cannot be restored."""
    for number, point in enumerate(point for point in POINTS if point.startswith("backup.")):
        async with server(tmp_path, f"{point}=exit") as http:
            order = Mortal(http)
            await order("POST", "/v1/volumes", {"name": "data"})
            begun = (await order("POST", "/v1/volumes/data/backups")).get("id")
            await deleted_until_dead(order, f"/v1/backups/{begun}")
        async with server(tmp_path) as http:
            states = await backups(http)
            assert set(states.values()) == {"ready"}
            assert len(states) == min(number + 1, 3), "the last one was deleted"
            for backup in states:
                wish = {"name": f"again-{number}-{backup}", "from_backup": backup}
                assert (await http.post("/v1/volumes", json=wish)).status_code == 201


async def test_a_restore_that_is_cut_off_leaves_a_whole_volume_or_nothing(
    tmp_path: Path, leak_check: LeakCheck
) -> None:
    """And what it was restored from is as it was: the next restore has all of it."""
    disks = tmp_path / "state" / "w"
    async with server(tmp_path) as http:
        made = (await http.post("/v1/volumes", json={"name": "data", "size_mb": 16})).json()
        original = disks / made["id"] / "disk"
        with original.open("r+b") as disk:
            disk.seek(8 << 20)
            disk.write(os.urandom(3 << 20))
        wish = {"name": "again", "from_backup": (await http.post("/v1/volumes/data/backups")).json()["id"]}
        assert set((await backups(http)).values()) == {"ready"}
    for point in (point for point in POINTS if point.startswith("restore.")):
        async with server(tmp_path, f"{point}=exit") as http:
            assert await volumes(http) == {"data": made["id"]}
            assert [home.name for home in disks.iterdir()] == [made["id"]]
            order = Mortal(http)
            assert await order("POST", "/v1/volumes", wish) == {} and order.died
    async with server(tmp_path) as http:
        there = await volumes(http)
        assert there.keys() == {"data", "again"}, "the last one had come to be, and was not answered"
        there["third"] = (await http.post("/v1/volumes", json={**wish, "name": "third"})).json()["id"]
        assert {one.name for one in disks.iterdir()} == set(there.values())
        for name in ("again", "third"):
            assert (disks / there[name] / "disk").read_bytes() == original.read_bytes()


async def volumes(http: httpx2.AsyncClient) -> dict[str, str]:
    """Their ids, by name."""
    return {each["name"]: each["id"] for each in (await http.get("/v1/volumes")).json()}


async def deleted_until_dead(order: Mortal, backup: str) -> None:
    """Delete a backup once it is ready, as far as the server lives, which is not long."""
    async with asyncio.timeout(120):
        while not order.died:
            if (await order("GET", backup)).get("status") == "ready":
                await order("DELETE", backup)
            await asyncio.sleep(0.05)


async def backups(http: httpx2.AsyncClient) -> dict[str, str]:
    """How each is when none is on its way any more."""
    async with asyncio.timeout(60):
        while True:
            states = {found["id"]: found["status"] for found in (await http.get("/v1/backups")).json()}
            if "saving" not in states.values():
                return states
            await asyncio.sleep(0.05)


async def test_a_fork_of_a_sleeper_that_is_killed_leaves_no_child_and_its_key_free(
    tmp_path: Path, leak_check: LeakCheck
) -> None:
    """What its children go on from is no crash's to take away: its parent sleeps in it."""
    keyed: dict[str, Any] = {"headers": {"idempotency-key": "k"}, "json": {"count": 2}}
    async with server(tmp_path, "fork.borne=exit") as http:
        box = (await http.post(ALL, json={"template": "base"})).json()["id"]
        await http.post(f"{ALL}/{box}/hibernate")
        with pytest.raises(httpx2.TransportError):
            await http.post(f"{ALL}/{box}/fork", **keyed)
    async with server(tmp_path, leave="destroy") as http:
        assert [row["id"] for row in (await http.get(ALL)).json()] == [box]
        await check_world(http, tmp_path / "state")
        made = await http.post(f"{ALL}/{box}/fork", **keyed)
        assert made.status_code == 201 and "idempotent-replayed" not in made.headers
        assert {row["id"] for row in (await http.get(ALL)).json()} == {box, *made.json()["children"]}
        assert (await http.post(f"{ALL}/{box}/wake")).status_code == 200


async def test_a_checkpoint_that_was_due_is_told_by_the_next_server(
    tmp_path: Path, leak_check: LeakCheck
) -> None:
    """It was due before the command was answered."""
    async with server(tmp_path, "snapshot.taken=sleep:600") as http:
        box = f"{ALL}/{(await http.post(ALL, json={'template': 'base'})).json()['id']}"
        for checkpoints in ("exec", "off"):  # step 0 is not taken, and nothing else begins
            changed = await http.patch(f"{box}/lifecycle", json={"checkpoints": checkpoints})
            assert changed.status_code == 200, changed.text
        os.kill(holder(tmp_path / "state") or 0, signal.SIGKILL)
    async with server(tmp_path, leave="destroy") as http:
        events = (await http.get(f"{box}/events")).json()["events"]
        told = [event["payload"] for event in events if event["type"] == "checkpoint.failed"]
        assert told == [{"command": "", "error": "the server ended before it was taken"}]
        timeline = (await http.get(f"{box}/timeline")).json()
        assert timeline == {"steps": [], "missing": [{"at": timeline["missing"][0]["at"], **told[0]}]}
        await check_world(http, tmp_path / "state")


async def test_kills_at_every_step_leave_nothing_half_done(tmp_path: Path, leak_check: LeakCheck) -> None:
    """One life after the other, each ended at another step, each beginning with what the last one left."""
    for point in (point for point in POINTS if not point.startswith(ELSEWHERE)):
        async with server(tmp_path, f"{point}=exit") as http:
            order = Mortal(http)
            await order("GET", "/healthz")
            if not order.died:
                await check_world(http, tmp_path / "state")
                await live(order)
            assert order.died, f"{point} was passed by"
    async with server(tmp_path, leave="destroy") as http:
        await check_world(http, tmp_path / "state")
        for row in (await http.get(ALL)).json():
            if row["status"] == "hibernated":
                assert (await http.post(f"{ALL}/{row['id']}/wake")).status_code == 200
