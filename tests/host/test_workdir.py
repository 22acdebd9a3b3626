"""Where commands start that name no directory, and what environment a template gives them."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pandastack.errors import FileMissing, InvalidRequest
from pandastack.host.app import LocalHost, host_of
from pandastack.host.templates import BareShelf
from pandastack.host.vm import Sources
from pandastack.model.guest import Command
from pandastack.model.host import VmSpec
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.process_driver import ProcessDriver

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]

SOURCES = Sources(entropy=os.urandom, wall_ns=time.time_ns)


def opened(driver: ProcessDriver, state: Path, workdir: str) -> AbstractAsyncContextManager[LocalHost]:
    shelf = BareShelf(["base"], state, env={"PLANET": "earth", "MOON": "luna"}, workdir=workdir)
    return host_of(driver, shelf, state, SOURCES)


@asynccontextmanager
async def host_in(driver: ProcessDriver, state: Path, workdir: str) -> AsyncIterator[LocalHost]:
    """A host with one machine, which ends with the block."""
    async with opened(driver, state, workdir) as host:
        await host.start(VmSpec("vm-1", "base", env={"MOON": "io"}))
        try:
            yield host
        finally:
            await host.end_all()


def line(process_id: str, text: str, **settings: Any) -> Command:  # noqa: ANN401  # Command's own
    """A line for the shell."""
    return Command(process_id=process_id, shell=text, **settings)


async def says(host: LocalHost, command: Command) -> str:
    async with host.guest("vm-1").run(command) as process:
        return b"".join([piece.data async for piece in process.output()]).decode().strip()


async def test_commands_terminals_and_background_start_there(
    process_driver: ProcessDriver, leak_check: LeakCheck, tmp_path: Path
) -> None:
    workdir = tmp_path / "workspace"
    workdir.mkdir()
    async with host_in(process_driver, tmp_path / "state", str(workdir)) as host:
        for command in (
            Command(process_id="direct", argv=("pwd",)),
            line("shell", 'echo "$PWD"; exit'),
            line("terminal", "pwd", terminal=(24, 200)),
            line("background", "pwd; true", detached=True),
        ):
            assert await says(host, command) == str(workdir), command.process_id
        assert await says(host, Command(process_id="named", argv=("pwd",), cwd="/usr")) == "/usr"
        with pytest.raises(InvalidRequest, match="must be absolute"):
            await says(host, Command(process_id="relative", argv=("pwd",), cwd="usr"))
        with pytest.raises(FileMissing, match="working directory"):
            await says(host, Command(process_id="missing", argv=("pwd",), cwd="/no/such"))


async def test_the_template_environment_lies_under_the_sandbox_own(
    process_driver: ProcessDriver, tmp_path: Path
) -> None:
    async with host_in(process_driver, tmp_path / "state", "/") as host:
        assert await says(host, line("a", 'echo "$PLANET $MOON"')) == "earth io"


async def test_a_user_who_may_not_enter_it_starts_at_home(
    process_driver: ProcessDriver, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    async with host_in(process_driver, tmp_path / "state", str(closed)) as host:
        assert await says(host, Command(process_id="a", argv=("pwd",))) == str(closed)
        at_home = await says(host, Command(process_id="b", argv=("pwd",), user="nobody"))
        assert at_home not in ("", str(closed))
        closed.rmdir()
        assert await says(host, Command(process_id="c", argv=("pwd",))) not in ("", str(closed))
        said = await says(host, Command(process_id="d", argv=("no-such-program",)))
        assert said == "no-such-program: No such file or directory"


async def test_an_adopted_machine_keeps_the_directory_of_its_start(
    process_driver: ProcessDriver, tmp_path: Path
) -> None:
    async with opened(process_driver, tmp_path / "state", "/usr") as host:
        await host.start(VmSpec("vm-1", "base"))
    async with opened(process_driver, tmp_path / "state", "/var") as host:
        try:
            assert await says(host, Command(process_id="a", argv=("pwd",))) == "/usr"
        finally:
            await host.end_all()
