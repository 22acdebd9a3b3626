"""Programs of the distribution: their output, their failures, and that none outlives its call."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from pandastack.errors import BuildFailed, NoSpace
from pandastack.host.publish import full_disk_said
from pandastack.host.tool import run_tool
from pandastack.testing.fixtures import LeakCheck, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]


async def test_a_program_is_run_with_its_settings(tmp_path: Path) -> None:
    lines: list[str] = []
    said = await run_tool(
        ["sh", "-c", "echo $COLOUR in $(pwd); echo first >&2; echo second >&2"],
        timeout=10,
        settings={"COLOUR": "red"},
        cwd=tmp_path,
        on_line=lines.append,
    )
    assert said == f"red in {tmp_path}\n"
    assert lines == ["first", "second"]


async def test_a_failure_ends_with_what_the_program_said() -> None:
    with pytest.raises(BuildFailed, match="exit code 3:\nno such luck"):
        await run_tool(["sh", "-c", "echo no such luck >&2; exit 3"], timeout=10)


async def test_a_program_that_is_not_installed() -> None:
    with pytest.raises(BuildFailed, match="no-such-program is not installed"):
        await run_tool(["no-such-program"], timeout=10)


async def test_a_full_disk_is_said_to_be_full() -> None:
    with pytest.raises(NoSpace, match="Free some space"):
        await run_tool(["sh", "-c", "head -c 1 /dev/zero > /dev/full"], timeout=10)
    with pytest.raises(NoSpace, match="Free some space"), full_disk_said():
        Path("/dev/full").write_bytes(b"x")


async def test_a_deadline_ends_the_program_and_its_children(leak_check: LeakCheck) -> None:
    script = f"sleep 1000 & exec python3 -c 'import time; time.sleep(1000)' {leak_check.tag}"
    with pytest.raises(BuildFailed, match="did not finish"):
        await run_tool(["sh", "-c", script], timeout=0.5)
    assert not leak_check.processes()


async def test_cancellation_ends_the_program(leak_check: LeakCheck) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            run_tool([sys.executable, "-c", "import time; time.sleep(1000)", leak_check.tag], timeout=1000)
        )
        await eventually(lambda: len(leak_check.processes()) == 1)
        task.cancel()
    assert not leak_check.processes()
