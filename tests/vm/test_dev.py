"""The template `dev` and `pandastack dev`: a machine, its editor through the gateway, its home, its sleep."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import msgspec
import pytest
from websockets.asyncio.client import connect

from pandastack import AsyncClient, AsyncSandbox
from pandastack.testing.server import PROGRAM as OURS
from pandastack.testing.server import Server, running_server
from tests.vm.browsing import driven, leading_here

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(1200, func_only=True)]

SETTINGS = {
    "PANDASTACK_REHEARSE": "false",
    "PANDASTACK_NETWORKS_READY": "2",
    "PANDASTACK_READY_TEMPLATES": "dev",
}
EDITOR = "pgrep --uid dev --oldest --full ^node./usr/local/bin/code-server"
DOTFILES = """
mkdir source && cd source && git init --quiet
printf 'alias ll="ls -l"\n' > .bash_aliases
git add . && git -c user.name=dev -c user.email=dev@example.com commit --quiet --message first
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a gateway, whose first machine bakes the template where it is not baked."""
    with running_server(tmp_path_factory.mktemp("dev"), settings=SETTINGS) as server:
        yield server


def gateway_of(server: Server) -> int:
    """The port where the server's previews are."""
    return int(re.findall(r"previews: http://127\.0\.0\.1:([0-9]+)", server.log.read_text())[-1])


async def dev(server: Server, *words: str, code: int = 0) -> str:
    """What `pandastack dev …` prints; standard error when another exit code than 0 is expected."""
    process = await asyncio.create_subprocess_exec(
        *(str(OURS), "--json", "--api", server.url, "--token", server.token, "dev", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PANDASTACK_PREVIEW_HOST": f"localhost:{gateway_of(server)}"},
    )
    said, complained = await process.communicate()
    assert process.returncode == code, complained.decode()
    return (complained if code else said).decode()


async def up(server: Server, *words: str) -> dict[str, str]:
    told: dict[str, str] = msgspec.json.decode(await dev(server, "up", "me", *words))
    return told


class Visitor:
    """A browser that has opened the editor's link."""

    def __init__(self, link: str) -> None:
        found = re.fullmatch(r"http://(13337-[0-9a-f-]+\.localhost:([0-9]+))(/\.pandastack/enter/.+)", link)
        assert found is not None
        self.host, self.port, self.entry = found[1], int(found[2]), found[3]
        self.cookie = ""

    async def get(self, path: str) -> httpx2.Response:
        headers = {"host": self.host} | ({"cookie": self.cookie} if self.cookie else {})
        async with httpx2.AsyncClient(trust_env=False, timeout=120) as http:
            return await http.get(f"http://127.0.0.1:{self.port}{path}", headers=headers)

    async def enter(self) -> None:
        answer = await self.get(self.entry)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        self.cookie = answer.headers["set-cookie"].partition(";")[0]

    async def speaks(self) -> bool:
        """Whether the editor's own protocol, a WebSocket, is answered."""
        query = f"reconnectionToken={uuid4()}&reconnection=false&skipWebSocketFrames=false"
        headers = {"cookie": self.cookie, "origin": f"http://{self.host}"}
        where = {"host": "127.0.0.1", "port": self.port, "proxy": None, "open_timeout": 60}
        more: dict[str, Any] = {**where, "additional_headers": headers}
        async with connect(f"ws://{self.host}/stable?{query}", **more) as socket:
            return not socket.close_code


async def said(machine: AsyncSandbox, line: str) -> str:
    return (await machine.exec(line, 60, check=True)).stdout.strip()


async def test_a_machine_with_an_editor_that_sleeps_and_wakes(server: Server) -> None:
    assert "dev up me" in await dev(server, "status", "me", code=1)
    made = await up(server, "--home-size", "256")
    visitor = Visitor(made["editor_url"])
    assert (await visitor.get("/")).status_code == 404  # the name alone lets nobody in
    await visitor.enter()
    page = await visitor.get("/?folder=/home/dev")
    assert page.status_code == 200
    assert "workbench" in page.text
    assert await visitor.speaks()
    async with AsyncClient(api_url=server.url, api_key=server.token) as client:
        await check_in_a_browser(client, made["editor_url"])
        machine = await client.dev.get("me")
        assert await said(machine, "whoami; pwd; sudo id -u; stat -c %U:%a .") == "dev\n/home/dev\n0\ndev:750"
        assert (await said(machine, "node --version")).startswith("v24.")
        await said(machine, "git --version && gcc --version && npm --version && python3 -m venv --help")
        await said(machine, "tmux new-session -d -s work && tmux send-keys -t work 'kept=panda' Enter")
        editor = await said(machine, EDITOR)
        await dev(server, "down", "me")
        assert msgspec.json.decode(await dev(server, "status", "me"))["status"] == "hibernated"
        assert (await visitor.get("/healthz")).status_code == 200  # who comes wakes it
        assert await visitor.speaks()
        assert await said(machine, EDITOR) == editor
        await said(
            machine, "tmux send-keys -t work 'echo $kept > told' Enter; until test -s told; do :; done"
        )
        await dev(server, "down", "me")
        assert (await dev(server, "ssh", "me", "--", "whoami; cat told")).split() == ["dev", "panda"]
        await client.aclose()
    assert made["ssh"] == f"pandastack ssh --user dev {made['id']}"


async def check_in_a_browser(client: AsyncClient, link: str) -> None:
    """The link lets a real one in, which comes back with its cookie. To draw it all takes minutes where
    machines are emulated.
    """
    async with (
        await client.sandboxes.create("browser", ttl_seconds=600) as box,
        leading_here(box, urlsplit(link).port or 80),
        driven((await box.browser())["cdp_url"]) as browser,
    ):
        page = await browser.contexts[0].new_page()
        async with page.expect_response(re.compile("/workbench.js$")) as script:
            await page.goto(link, wait_until="commit")
        assert (await script.value).ok
        assert urlsplit(page.url)._replace(scheme="", netloc="").geturl() == "/?folder=/home/dev"
        (cookie,) = [each for each in await browser.contexts[0].cookies() if each["httpOnly"]]
        assert cookie["domain"] == urlsplit(link).hostname


async def test_a_home_outlives_its_machine(server: Server) -> None:
    """Also with dotfiles, which are cloned once; and it is removed when that is said."""
    made = await up(server, "--home-size", "256")
    async with AsyncClient(api_url=server.url, api_key=server.token) as client:
        machine = await client.dev.get("me")
        await said(machine, DOTFILES)
        assert (await up(server, "--dotfiles", "file:///home/dev/source"))["id"] == made["id"]
        assert "ls -l" in await said(machine, "cat ~/.bash_aliases; readlink ~/.bash_aliases | grep dotfiles")
        assert "is in ~/.dotfiles" in await dev(server, "up", "me", "--dotfiles", "file:///other", code=1)
        await dev(server, "delete", "me")
        again = await up(server)
        assert again["id"] != made["id"]
        assert "ls -l" in await said(await client.dev.get("me"), "cat ~/.bash_aliases && sudo true")
        visitor = Visitor(again["editor_url"])
        await visitor.enter()
        assert (await visitor.get("/healthz")).status_code == 200
        assert "me" in await dev(server, "list")
        await dev(server, "delete", "me", "--home")
        assert await client.volumes.list() == []
        assert await client.dev.list() == []
