"""The template `agent`: what a coding agent works with is there, and answers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from pandastack import AsyncClient
from pandastack.testing.server import Server, running_server

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(1200, func_only=True)]

SETTINGS = {
    "PANDASTACK_REHEARSE": "false",
    "PANDASTACK_NETWORKS_READY": "2",
    "PANDASTACK_READY_TEMPLATES": "agent",
}
TOOLS = "rg --version; fd --version; bat --version; tmux -V; git --version; jq --version"


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose first agent bakes the template where it is not baked."""
    with running_server(tmp_path_factory.mktemp("agent"), settings=SETTINGS, gateway=None) as server:
        yield server


async def test_agents_and_what_they_work_with(server: Server) -> None:
    """To tell its version opencode takes minutes where machines are emulated, so it is only there."""
    async with (
        AsyncClient(api_url=server.url, api_key=server.token) as client,
        await client.sandboxes.create("agent", ttl_seconds=3600) as box,
    ):
        for agent in ("claude", "codex"):
            said = await box.exec([agent, "--version"], 120, check=True)
            assert re.search(r"[0-9]+\.[0-9]+\.[0-9]+", said.stdout), (agent, said)
        await box.exec("test -x $(command -v opencode)", check=True)
        await box.exec(f"set -e; {TOOLS}", 60, check=True)
        assert (await box.exec("node --version", 60, check=True)).stdout.startswith("v24.")
        assert (await box.exec("npm --version", 60, check=True)).stdout.startswith("11.")
        await box.exec("echo needle > hay && test $(rg --files-with-matches needle) = hay", check=True)
        made = await box.exec(
            "uv venv --offline .venv && .venv/bin/python -c 'print(6 * 7)'", 120, check=True
        )
        assert made.stdout == "42\n"
