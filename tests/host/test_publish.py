"""Files that appear whole or not at all, and the locks around their making."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pandastack.host.publish import leftovers, locked, new_directory, point, sweep, workspace, write_whole

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_it_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "made" / "digest"
    with new_directory(target) as draft:
        (draft / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert names(tmp_path / "made") == ["digest"]


def test_an_interrupted_folder_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "made" / "digest"

    def make() -> None:
        with new_directory(target) as draft, workspace(target.parent) as work:
            (draft / "file").write_text("x")
            (work / "scratch").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make()
    assert names(tmp_path / "made") == []


def test_the_first_of_two_equal_folders_stays(tmp_path: Path) -> None:
    target = tmp_path / "digest"
    with new_directory(target) as late:
        (late / "file").write_text("late")
        with new_directory(target) as early:
            (early / "file").write_text("early")
    assert (target / "file").read_text() == "early"
    assert names(tmp_path) == ["digest"]


@pytest.mark.parametrize(
    "write", [lambda path: write_whole(path, b"two"), lambda path: point(path, path.parent)]
)
def test_a_file_is_replaced_in_one_step(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    write(path)
    assert names(tmp_path) == ["file"]
    assert path.is_symlink() or path.read_bytes() == b"two"


def test_what_a_killed_builder_left_is_found_and_removed(tmp_path: Path) -> None:
    finished = tmp_path / "digest"
    finished.mkdir()
    pid = os.fork()
    if pid == 0:
        with new_directory(tmp_path / "other") as draft, workspace(tmp_path):
            (draft / "file").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert len(leftovers(tmp_path)) == 2
    assert not (tmp_path / "other").exists()
    sweep(tmp_path)
    assert names(tmp_path) == ["digest"]


async def test_two_builders_take_turns(tmp_path: Path) -> None:
    inside = 0

    async def build() -> None:
        nonlocal inside
        async with locked(tmp_path / "locks" / "image"):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.01)
            inside -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(build())


async def test_a_lock_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = (
        "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); time.sleep(99)"
    )
    path.touch()
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout is not None
    await holder.stdout.readline()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5), locked(path):
            pass
    holder.kill()
    await holder.wait()
    async with asyncio.timeout(5), locked(path):
        pass
