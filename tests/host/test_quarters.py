"""Where a machine lives: what it had is given back, whoever loses patience meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pandastack.errors import NoCapacity
from pandastack.host import jail
from pandastack.host.groups import Groups, Limits
from pandastack.host.jail import Child
from pandastack.host.means import Means
from pandastack.host.quarters import Quarters
from pandastack.host.users import Users

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]

LIMITS = Limits(cpus=1, memory_bytes=64 << 20)


@pytest.fixture
async def child(tmp_path: Path) -> AsyncIterator[Child]:
    process = jail.spawn(["/bin/sleep", "60"], log=tmp_path / "log", cwd=tmp_path, env={})
    yield process
    await process.end(0)
    process.close()


async def test_one_that_is_cancelled_while_it_is_limited_gives_back_what_it_had(
    child: Child, tmp_path: Path
) -> None:
    """The kernel takes its time: the list of the group is a pipe, which waits for a reader."""
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    means = Means(Users(tmp_path / "leases", 210_000, 210_000), Groups({"pids": tmp_path / "pids"}))
    group = tmp_path / "pids" / str(home.stat().st_ino)
    group.mkdir(parents=True)
    os.mkfifo(group / "cgroup.procs")
    quarters = Quarters(home, means.users.lease(home), LIMITS, means)
    quarters.join_groups(child)
    try:
        start = asyncio.ensure_future(quarters.joined())
        await asyncio.sleep(0.05)
        start.cancel()
        await asyncio.wait([start])
        assert start.cancelled()
        with pytest.raises(NoCapacity):
            means.users.lease(other)
        leaving = asyncio.ensure_future(quarters.leave())
        await asyncio.wait([leaving], timeout=0.05)
        assert not leaving.done(), "whoever is still put into a group keeps its user"
    finally:
        assert await asyncio.to_thread((group / "cgroup.procs").read_text) == str(child.pid)
    (group / "cgroup.procs").unlink()
    await asyncio.wait_for(leaving, 10)
    assert means.users.lease(other) == 210_000
    assert not group.exists()
