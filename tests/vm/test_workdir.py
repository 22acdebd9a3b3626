"""Where commands start on a real machine, and the environment that its template gives them."""

from __future__ import annotations

import pytest

from pandastack.host.app import LocalHost
from pandastack.model.guest import Command
from pandastack.model.host import VmSpec
from tests.vm.conftest import OpenHost

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(900)]


async def says(host: LocalHost, command: Command) -> str:
    async with host.guest("vm-1").run(command) as process:
        return b"".join([piece.data async for piece in process.output()]).decode().strip()


async def test_the_base_has_no_place_of_its_own(host: LocalHost) -> None:
    await host.start(VmSpec("vm-1", "base"))
    assert await says(host, Command(process_id="root", argv=("pwd",))) == "/root"
    assert await says(host, Command(process_id="user", argv=("pwd",), user="user")) == "/home/user"
    assert await says(host, Command(process_id="env", argv=("printenv", "LANG"))) == "C.UTF-8"


async def test_the_code_interpreter_has_a_workspace_also_after_a_restart(open_state: OpenHost) -> None:
    async with open_state() as host:
        await host.start(VmSpec("vm-1", "code-interpreter"))
        assert await says(host, Command(process_id="root", argv=("pwd",))) == "/workspace"
        assert await says(host, Command(process_id="env", argv=("printenv", "MPLBACKEND"))) == "Agg"
    async with open_state() as host:
        try:
            for command in (
                Command(process_id="user", argv=("pwd",), user="user"),
                Command(process_id="terminal", shell="pwd", terminal=(24, 80)),  # noqa: S604  # in the sandbox
                Command(process_id="background", argv=("pwd",), detached=True),
            ):
                assert await says(host, command) == "/workspace", command.process_id
            assert await says(host, Command(process_id="env2", argv=("printenv", "MPLBACKEND"))) == "Agg"
        finally:
            await host.end_all()
