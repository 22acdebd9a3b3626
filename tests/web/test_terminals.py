"""Terminals in the browser: whose pages may open one, what they may run, and that they are the sandbox's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser

import pytest
from starlette.datastructures import MutableHeaders
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from pandastack.api.server import serving
from pandastack.testing.fixtures import eventually
from pandastack.web.look import FOLDER
from tests.api.conftest import World
from tests.api.terminals import Eyes, known, opened
from tests.web.conftest import Browser

pytestmark = pytest.mark.anyio

SESSION = "pandastack_session"


@pytest.fixture
async def url(world: World) -> AsyncIterator[str]:
    async with serving(world.control, "127.0.0.1:0") as url:
        yield url


@asynccontextmanager
async def page_opens(
    url: str, browser: Browser, box: str, *, origin: str | None, query: str = "", name: str = "main"
) -> AsyncIterator[Eyes]:
    """The WebSocket of a terminal as a page of this origin opens it, with the browser's cookies."""
    cookie = f"{SESSION}={browser.cookies.get(SESSION) or ''}"
    path = f"{url.replace('http', 'ws', 1)}/ui/sandboxes/{box}/terminals/{name}/ws{query}"
    async with connect(path, additional_headers={"cookie": cookie}, origin=origin) as connection:  # type: ignore[arg-type]  # any text
        yield Eyes(connection)


async def refused(url: str, browser: Browser, box: str, origin: str | None) -> int:
    """The status that such a page is told."""
    with pytest.raises(InvalidStatus) as caught:
        async with page_opens(url, browser, box, origin=origin):
            pytest.fail("it must not open")
    return caught.value.response.status_code


async def test_a_form_opens_a_terminal_and_its_page_shows_it(
    world: World, browser: Browser, url: str, box: str
) -> None:
    path = f"/ui/sandboxes/{box}/terminals"
    assert f'href="{path}"' in await browser.sees(f"/ui/sandboxes/{box}")
    assert "None is open." in await browser.sees(path)
    key = await browser.form_key(path)
    sent = await browser.post(path, data={"form_key": key, "name": "main"})
    assert (sent.status_code, sent.headers["location"]) == (303, f"{path}/main")
    assert f"{path}/main/ws" in await browser.sees(f"{path}/main")
    assert "login shell" in await browser.sees(path)
    async with page_opens(url, browser, box, origin=url, query="?rows=11&cols=44") as eyes:
        await eyes.type("stty size")
        await eyes.until(b"11 44")
        await eyes.type("exit 3")
        assert await eyes.notice("exit") == 3
    assert "ended with 3" in await browser.sees(path)
    again = await browser.post(path, data={"form_key": key, "name": ""})
    assert re.fullmatch(f"{path}/[0-9a-f]{{8}}", again.headers["location"])
    async with page_opens(url, browser, box, origin=url, name=again.headers["location"][-8:]) as eyes:
        await eyes.type("exit")
        await eyes.notice("exit")


async def test_no_other_page_opens_one_with_the_browsers_cookie(
    world: World, browser: Browser, url: str, box: str
) -> None:
    await opened(world, box)
    port = int(url.rsplit(":", 1)[1])
    for origin in (
        "https://evil.example",
        f"http://127.0.0.1:{port + 1}",  # a preview on this host: the browser sends it our cookie
        f"http://127.0.0.1.evil.example:{port}",
        "null",  # a sandboxed page of this origin
        None,
    ):
        assert await refused(url, browser, box, origin) == 403
    async with page_opens(url, browser, box, origin=url):
        pass


async def test_without_that_check_another_page_would_type(world: World, browser: Browser, box: str) -> None:
    """The control of the test above: a server that cannot see where a page comes from lets it type."""
    await opened(world, box)

    async def blind(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            headers = MutableHeaders(scope=scope)
            headers["origin"] = f"http://{headers['host']}"
        await world.control(scope, receive, send)

    async with (
        serving(blind, "127.0.0.1:0") as url,
        page_opens(url, browser, box, origin="https://evil.example") as eyes,
    ):
        await eyes.type("echo $((6*7)) stolen")
        await eyes.until(b"42 stolen")


async def test_who_is_not_logged_in_sees_none(
    world: World, guest: Browser, browser: Browser, url: str, box: str
) -> None:
    await opened(world, box)
    async with Browser(world) as stranger:
        assert await refused(url, stranger, box, url) == 401
    made = (await world.http.post("/v1/me/tokens", json={"name": "looks", "scope": "read"})).json()
    async with Browser(world) as reader:
        await reader.logs_in(made["token"])
        assert "/terminals" not in await reader.sees(f"/ui/sandboxes/{box}")
        assert (await reader.get(f"/ui/sandboxes/{box}/terminals")).status_code == 403
        assert await refused(url, reader, box, url) == 403


async def test_another_workspace_finds_none(world: World, url: str, box: str) -> None:
    await opened(world, box)
    plane = world.control.plane
    await plane.accounts.bootstrap("other", "pds_" + "f" * 32)
    async with Browser(world) as foreigner:
        await foreigner.logs_in("pds_" + "f" * 32)
        for path in ("", "/main"):
            assert (await foreigner.get(f"/ui/sandboxes/{box}/terminals{path}")).status_code == 404
        assert await refused(url, foreigner, box, url) == 404


async def test_a_form_of_another_page_opens_none(world: World, browser: Browser, box: str) -> None:
    path = f"/ui/sandboxes/{box}/terminals"
    for key in ("", "wrong"):
        assert (await browser.post(path, data={"form_key": key, "name": "main"})).status_code == 403
    assert not await known(world, box)
    key = await browser.form_key(path)
    assert (await browser.post(path, data={"form_key": key, "name": "../x"})).status_code == 400


async def test_logging_out_ends_what_is_open(world: World, browser: Browser, url: str, box: str) -> None:
    await opened(world, box)
    async with page_opens(url, browser, box, origin=url) as eyes:
        await eyes.notice("live")
        await browser.post("/ui/logout", data={"form_key": await browser.form_key("/ui/sandboxes")})
        assert "logged out" in await eyes.notice("error")
        await eventually(lambda: eyes.connection.close_code is not None)
    assert (await known(world, box))["main"]["running"]


async def test_a_page_is_told_why_its_terminal_is_over(
    world: World, browser: Browser, url: str, box: str
) -> None:
    await opened(world, box)
    async with page_opens(url, browser, box, origin=url) as eyes:
        await eyes.notice("live")
        await world.http.delete(f"/v1/sandboxes/{box}")
        assert box in await eyes.notice("error")


class Loads(HTMLParser):
    """What a page loads, and what it would run or style by itself."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.inline: list[str] = []
        self._in_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        self.inline += [tag] if tag == "style" else []
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append(given.get("src") or "")

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.inline.append(data)


async def test_its_page_runs_our_scripts_alone(world: World, browser: Browser, box: str) -> None:
    await opened(world, box)
    path = f"/ui/sandboxes/{box}/terminals/main"
    first, second = await browser.get(path), await browser.get(path)
    policy = dict(each.split(" ", 1) for each in first.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert (policy["script-src"], policy["connect-src"]) == ("'self'", "'self'")
    nonce = re.fullmatch(r"'self' 'nonce-([\w-]{43})'", policy["style-src"])
    assert nonce and f'nonce="{nonce[1]}"' in first.text and nonce[1] not in second.text
    assert "unsafe" not in first.headers["content-security-policy"]
    loads = Loads(first.text)
    assert loads.inline == [] and len(loads.scripts) == 3
    for source in loads.scripts:
        assert source.startswith("/ui/static/")
        assert (await browser.get(source)).headers["content-type"].startswith("text/javascript")
    assert (
        "script-src" not in (await browser.get(path.removesuffix("/main"))).headers["content-security-policy"]
    )


async def test_looking_at_the_list_is_no_use(world: World, browser: Browser, box: str) -> None:
    await opened(world, box)
    world.time.passes(50)
    await browser.sees(f"/ui/sandboxes/{box}/terminals")
    assert (await world.http.get(f"/v1/sandboxes/{box}/lifecycle")).json()["idle_seconds"] >= 50


@pytest.mark.parametrize("name", ["<script>", "Main", "a b", "x" * 33])
async def test_what_is_no_name_has_no_page(browser: Browser, box: str, name: str) -> None:
    answer = await browser.get(f"/ui/sandboxes/{box}/terminals/{name}")
    assert answer.status_code == 400 and "<script>" not in answer.text


def test_what_others_have_written_is_as_they_published_it() -> None:
    folder = FOLDER / "static" / "vendored"
    listed = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert (folder / name).with_suffix(".LICENSE").is_file()
    others = {"README.md", "SHA256SUMS"}
    assert {path.name for path in folder.iterdir() if path.suffix != ".LICENSE"} == {*listed, *others}
