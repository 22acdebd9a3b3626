"""Child processes: started once, held by a pidfd, always reaped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from pandastack.errors import MachineError
from pandastack.host import jail, procfs
from pandastack.host.jail import Child
from pandastack.testing.fixtures import descriptors, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]

ENV = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both event loops that the server may run on."""
    return "asyncio", {"use_uvloop": request.param}


def start(tmp_path: Path, script: str, *, pass_fds: tuple[int, ...] = (), limit: int | None = None) -> Child:
    return jail.spawn(
        ["/bin/sh", "-c", script],
        log=tmp_path / "log",
        cwd=tmp_path,
        env=ENV,
        pass_fds=pass_fds,
        file_size_limit=limit,
    )


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9), ("kill -TERM $$", -15)]
)
async def test_wait_tells_how_it_ended(tmp_path: Path, script: str, status: int) -> None:
    child = start(tmp_path, script)
    assert await asyncio.wait_for(child.wait(), 5) == status
    assert await child.wait() == status
    assert not child.alive()
    child.close()
    assert procfs.start_ticks(child.pid) is None, "no zombie is left"


async def test_everyone_who_waits_is_told_and_a_cancelled_one_disturbs_nobody(tmp_path: Path) -> None:
    child = start(tmp_path, "sleep 0.2; exit 3")
    async with asyncio.TaskGroup() as group:
        impatient = group.create_task(child.wait())
        patient = [group.create_task(child.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        impatient.cancel()
    assert [task.result() for task in patient] == [3, 3, 3]
    child.close()


async def test_it_has_its_own_session_and_an_appended_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    child = start(tmp_path, "echo $$ $(ps -o sid= -p $$); echo $PWD >&2")
    assert await asyncio.wait_for(child.wait(), 5) == 0
    child.close()
    before, ids, cwd = (tmp_path / "log").read_text().splitlines()
    assert before == "before"
    assert ids.split() == [str(child.pid)] * 2
    assert cwd == str(tmp_path)


async def test_it_inherits_what_it_was_passed_and_nothing_else(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as passed, socket.socket(socket.AF_UNIX) as kept:
        os.set_inheritable(kept.fileno(), True)
        child = start(tmp_path, "cd /proc/self/fd; echo *", pass_fds=(passed.fileno(),))
        assert await asyncio.wait_for(child.wait(), 5) == 0
        child.close()
        numbers = {int(n) for n in (tmp_path / "log").read_text().split()}
        assert passed.fileno() in numbers
        assert kept.fileno() not in numbers
        assert {0, 1, 2} <= numbers


async def test_no_file_may_pass_the_limit_and_there_is_no_core(tmp_path: Path) -> None:
    child = start(tmp_path, "sleep 0.1; ulimit -c; head -c 100000 /dev/zero > big; echo over", limit=4096)
    await asyncio.wait_for(child.wait(), 5)
    child.close()
    assert (tmp_path / "big").stat().st_size == 4096
    assert (tmp_path / "log").read_text().splitlines()[0] == "0"


async def test_end_asks_first_and_kills_then(tmp_path: Path) -> None:
    polite = start(tmp_path, "trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done")
    deaf = start(tmp_path, "trap '' TERM; echo up; while :; do sleep 0.01; done")
    await eventually(lambda: (tmp_path / "log").read_text().count("up") == 2)
    assert await polite.end(5) == 5
    assert await deaf.end(0.05) == -signal.SIGKILL
    assert await deaf.end(5) == -signal.SIGKILL, "twice is fine"
    polite.close()
    deaf.close()


async def test_a_stopped_one_can_be_ended(tmp_path: Path) -> None:
    child = start(tmp_path, "sleep 60")
    child.signal(signal.SIGSTOP)
    assert await asyncio.wait_for(child.end(5), 5) == -signal.SIGTERM
    child.close()


async def test_a_forgotten_one_is_found_by_pid_and_start_time(tmp_path: Path) -> None:
    forgotten = start(tmp_path, "sleep 60")
    forgotten.close()
    assert not forgotten.alive()
    assert jail.adopt(forgotten.pid, forgotten.started + 1) is None, "the same pid, another process"
    found = jail.adopt(forgotten.pid, forgotten.started)
    assert found is not None
    assert found.alive()
    assert await found.end(0) == -signal.SIGKILL
    found.close()
    assert jail.adopt(forgotten.pid, forgotten.started) is None


async def test_the_child_of_another_is_waited_for_without_its_status(tmp_path: Path) -> None:
    parent = start(tmp_path, "sleep 60 & echo $!; wait")
    await eventually(lambda: (tmp_path / "log").read_text().endswith("\n"))
    pid = int((tmp_path / "log").read_text())
    grandchild = jail.adopt(pid, procfs.start_ticks(pid) or 0)
    assert grandchild is not None
    assert procfs.children(parent.pid) == {pid}
    assert await grandchild.end(0) == jail.NOT_OURS
    assert await asyncio.wait_for(parent.wait(), 5) == 0
    grandchild.close()
    parent.close()


async def test_what_cannot_be_started_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    open_before = len(descriptors())
    with pytest.raises(MachineError, match=r"/no/such/vmm cannot be started: No such file"):
        jail.spawn(["/no/such/vmm"], log=tmp_path / "log", cwd=tmp_path, env={})
    assert len(descriptors()) == open_before


async def test_closing_cancels_who_waits_and_gives_the_descriptor_back(tmp_path: Path) -> None:
    open_before = len(descriptors())
    child = start(tmp_path, "sleep 60")
    again = jail.adopt(child.pid, child.started)
    assert again is not None
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(child.wait())
        await asyncio.sleep(0)
        child.close()
        child.close()
    assert waiting.cancelled()
    await again.end(0)
    again.close()
    assert len(descriptors()) == open_before


async def test_stats_of_a_living_and_of_an_ended_one(tmp_path: Path) -> None:
    script = (
        "import time; b = bytearray(8 << 20)\n"
        "while time.process_time() < 0.1: pass\n"
        "print('up', flush=True); time.sleep(60)"
    )
    child = jail.spawn(
        [sys.executable, "-c", script],
        log=tmp_path / "log",
        cwd=tmp_path,
        env=ENV,
    )
    await eventually(lambda: (tmp_path / "log").read_text() != "")
    stats = procfs.stats(child.pid)
    assert stats.private_dirty_bytes >= 8 << 20
    assert stats.vsz_bytes > stats.rss_bytes >= 8 << 20
    assert stats.threads == 1
    assert 0.05 < stats.cpu_seconds < 10
    assert 0 <= stats.uptime_seconds < 10
    await child.end(0)
    child.close()
    with pytest.raises(MachineError, match="has ended"):
        procfs.stats(child.pid)
