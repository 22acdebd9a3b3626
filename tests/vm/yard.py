"""Sandboxes on real machines, from one life of their server to the next, and what each must still hold."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from pandastack.cli.state import holder
from pandastack.host import procfs
from pandastack.testing.fixtures import processes_with
from pandastack.testing.real import CACHE
from tests.api.test_kills import ALL, server

MACHINES = {
    "PANDASTACK_CACHE_DIR": str(CACHE),
    "PANDASTACK_REHEARSE": "false",
    "PANDASTACK_READY_TEMPLATES": "base",
    "PANDASTACK_NETWORKS_READY": "2",
}
"""Settings with which machines are virtual ones."""

PIPES = "mkfifo /dev/shm/ask /dev/shm/say; echo {} > /root/token; sync"
KEEPER = 'while read -r word < /dev/shm/ask; do echo "$TOKEN $word" > /dev/shm/say; done'
ASK = "echo {} > /dev/shm/ask; cat /dev/shm/say /root/token"
"""A process has a word in its memory alone, and says it with whatever it is asked; a file has it too."""

SETTLE_SECONDS = 20.0
"""What nobody waits for is done soon."""


class Yard:
    """The sandboxes below one folder. `tokens` are those that were acknowledged and not given up."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state = home / "state"
        self.tokens: dict[str, str] = {}
        self._seen: set[str] = set()
        self._read = 0
        self.http: httpx2.AsyncClient

    @asynccontextmanager
    async def life(self, failpoints: str = "", *, leave: str = "keep") -> AsyncIterator[None]:
        """A server within the block, which may kill it."""
        async with server(self.home, failpoints, leave=leave, settings=MACHINES) as http:
            self.http = http
            yield

    def kill(self) -> None:
        """End the server, which has no say in it."""
        process = holder(self.state)
        assert process is not None
        os.kill(process, signal.SIGKILL)

    def kill_machine(self, sandbox_id: str) -> None:
        """End the process of a machine."""
        os.kill(self.process_of(sandbox_id), signal.SIGKILL)

    def kill_copies(self, sandbox_id: str) -> None:
        """End the copies of its process that others are to go on from."""
        copies = procfs.children(self.process_of(sandbox_id))
        assert copies
        for copy in copies:
            os.kill(copy, signal.SIGKILL)

    def process_of(self, sandbox_id: str) -> int:
        """The number of a machine's process."""
        record = msgspec.json.decode((self.state / "v" / sandbox_id / "vm.json").read_bytes())
        return int(record["report"]["pid"])

    def gateway(self) -> tuple[str, int]:
        """Where visitors of the server that runs come to."""
        told = re.findall(r"previews: http://([0-9.]+):([0-9]+)", self._log())
        return told[-1][0], int(told[-1][1])

    async def reached(self, point: str, seconds: float = 60.0) -> None:
        """Return when the log tells that a point was reached since the last verb was asked for."""
        async with asyncio.timeout(seconds):
            while f"point={point}" not in self._log()[self._read :]:
                await asyncio.sleep(0.02)

    def _log(self) -> str:
        return (self.home / "log").read_text()

    def ask(self, method: str, path: str, body: object = None) -> asyncio.Task[httpx2.Response]:
        """A request under way."""
        self._read = len(self._log())
        return asyncio.create_task(self.http.request(method, path, json=body, timeout=60))

    async def call(self, method: str, path: str, body: object = None, status: int = 200) -> dict[str, Any]:
        """The answer, which has this status."""
        answer = await self.ask(method, path, body)
        assert answer.status_code == status, answer.text
        return dict(answer.json()) if answer.content else {}

    async def say(self, sandbox_id: str, line: str) -> str:
        """What a line prints."""
        told = await self.call("POST", f"{ALL}/{sandbox_id}/exec", {"cmd": line, "timeout_seconds": 20})
        assert told["exit_code"] == 0, told
        return str(told["stdout"])

    async def make(self, token: str) -> str:
        """A sandbox with `token` in a file and in the memory of a process."""
        made = str((await self.call("POST", ALL, {"template": "base"}, 201))["id"])
        await self.say(made, PIPES.format(token))
        keeper = {"cmd": KEEPER, "env": {"TOKEN": token}}
        await self.call("POST", f"{ALL}/{made}/processes", keeper, 201)
        self.tokens[made] = token
        await self.look_into(made)
        return made

    async def look_into(self, sandbox_id: str, token: str | None = None) -> None:
        """Its file is there, and its process runs and has forgotten nothing."""
        token = token or self.tokens[sandbox_id]
        asked = os.urandom(4).hex()
        assert await self.say(sandbox_id, ASK.format(asked)) == f"{token} {asked}\n{token}\n"

    async def look_at_child(self, snapshot_id: str, token: str) -> None:
        """A sandbox made from a snapshot holds all of it."""
        made = (await self.call("POST", ALL, {"from_snapshot": snapshot_id}, 201))["id"]
        await self.look_into(made, token)
        await self.give_up(made)

    async def give_up(self, sandbox_id: str) -> None:
        """Delete it with its snapshots."""
        self.tokens.pop(sandbox_id, None)
        for snapshot in await self.snapshots(sandbox_id):
            await self.call("DELETE", f"/v1/snapshots/{snapshot['id']}", status=204)
        await self.call("DELETE", f"{ALL}/{sandbox_id}", status=204)

    async def snapshots(self, sandbox_id: str) -> list[dict[str, Any]]:
        found = (await self.call("GET", "/v1/snapshots"))["snapshots"]
        return [each for each in found if each["sandbox_id"] == sandbox_id]

    async def unclaimed(self) -> list[str]:
        """The sandboxes that nobody was told of, once they are up."""
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                rows = [row for row in (await self.http.get(ALL)).json() if row["id"] not in self.tokens]
                if all(row["status"] == "running" for row in rows):
                    return [row["id"] for row in rows]
                await asyncio.sleep(0.1)

    async def row(self, sandbox_id: str) -> dict[str, Any]:
        return await self.call("GET", f"{ALL}/{sandbox_id}")

    async def check(self) -> None:
        """What the server tells is what there is, soon: rows, machines, directories, books, all of them."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            try:
                return await self._check()
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)

    async def _check(self) -> None:
        rows = {row["id"]: row for row in (await self.http.get(ALL)).json()}
        assert rows.keys() == self.tokens.keys()
        self._seen |= rows.keys()
        assert {row["status"] for row in rows.values()} <= {"running", "hibernated", "failed"}
        assert all(row["cause"] for row in rows.values() if row["status"] == "failed")
        standing = {row["id"] for row in rows.values() if row["status"] == "running"}
        assert {home.name for home in (self.state / "v").iterdir()} == standing
        assert {each for each in self._seen if processes_with(f"pandastack-{each}")} == standing
        assert (await self.call("GET", "/v1/quotas"))["used"]["sandboxes"] == len(standing)
        named = {each["id"] for each in (await self.call("GET", "/v1/snapshots"))["snapshots"]}
        images = {row["snapshot_id"] for row in rows.values() if row["snapshot_id"]}
        assert {home.name for home in (self.state / "s").iterdir()} == named | images
