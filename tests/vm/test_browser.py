"""The template `browser`, driven by the real Playwright and Puppeteer through both ways in."""

from __future__ import annotations

import asyncio
import re
import shutil
import zlib
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import msgspec
import pytest
from playwright.async_api import Browser, Page, expect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from pandastack import AsyncClient, AsyncSandbox
from pandastack.errors import PandastackError
from pandastack.host import npm
from pandastack.host.npm import NpmTree
from pandastack.host.tool import run_tool
from pandastack.testing.real import CACHE
from pandastack.testing.server import PROGRAM as OURS
from pandastack.testing.server import Server, running_server
from tests.vm.browsing import PATIENCE_MS, driven, leading_here, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(900, func_only=True),
]

PUPPETEER = Path(__file__).with_name("puppeteer")
SETTINGS = {
    "PANDASTACK_REHEARSE": "false",
    "PANDASTACK_READY_TEMPLATES": "browser",
    "PANDASTACK_NETWORKS_READY": "2",
}
CONTROLS = 4
"""What else a page draws at its own times may come between: so often is looked whether two draw alike."""
DOWNLOADS = "/workspace/downloads"
SITE = "http://127.0.0.1:8000"
GREEN = (10, 123, 60)
RED = "data:text/html,<body style='background:red'>"
PROGRAM = '''
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = """<!doctype html><meta charset=utf-8><title>%s</title><style>body { margin: 0; background: #0a7b3c }
button { position: absolute; left: 100px; top: 100px; width: 200px; height: 100px }</style>
<h1>%s</h1><button onclick="this.textContent = document.title = 'clicked'">press</button>
<a href=/report.txt>report</a>"""


class Site(BaseHTTPRequestHandler):
    def do_GET(self):
        who = "panda" if "session=s3cret" in self.headers.get("cookie", "") else "nobody"
        body, headers = (PAGE % (who, who)).encode(), [("content-type", "text/html")]
        if self.path == "/login":
            headers.append(("set-cookie", "session=s3cret; Max-Age=86400; HttpOnly"))
        if self.path == "/report.txt":
            body = b"the report"
            headers = [("content-type", "text/plain"), ("content-disposition", "attachment")]
        self.send_response(200)
        for name, value in [*headers, ("content-length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


ThreadingHTTPServer(("127.0.0.1", 8000), Site).serve_forever()
'''
DRAWN = "[...document.querySelector('canvas').getContext('2d').getImageData(5, 500, 1, 1).data]"
CHANCE = "[crypto.getRandomValues(new Uint32Array(4)).join(), Math.random()]"
GUARDS = r"""
for directory in /proc/[0-9]*; do
    [ "$(readlink $directory/exe)" = /usr/lib/chromium/chromium-headless-shell ] || continue
    kind=$(tr '\0' ' ' < $directory/cmdline | grep -o -m 1 -e '--type=[a-z-]*')
    mode=$(sed -n 's/^Seccomp:\t//p' $directory/status)
    spaces=$(cd $directory/ns && readlink user pid net | xargs)
    echo "${kind:---type=browser} $mode $spaces"
done
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a gateway, whose first browser bakes the template where it is not baked."""
    with running_server(tmp_path_factory.mktemp("browser"), settings=SETTINGS) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(api_url=server.url, api_key=server.token) as client:
        yield client


@pytest.fixture
async def box(client: AsyncClient) -> AsyncIterator[AsyncSandbox]:
    """A sandbox with a browser, and a site of its own."""
    async with await client.sandboxes.create("browser", ttl_seconds=3600) as box:
        await box.files.write("/srv/site.py", PROGRAM)
        await box.commands.start("exec python3 /srv/site.py")
        listening = f"until curl --silent --output /dev/null {SITE}; do sleep 0.1; done"
        await box.exec(listening, check=True, timeout_seconds=60)
        yield box


async def page_of(browser: Browser, path: str = "/") -> Page:
    page = await browser.contexts[0].new_page()
    await page.goto(SITE + path)
    return page


def through_the_gateway(server: Server, address: str) -> str:
    """The same link at the gateway, which takes a path of one name: localhost."""
    told = re.findall(r"previews: http://127\.0\.0\.1:([0-9]+)", server.log.read_text())
    return re.sub(r"127\.0\.0\.1:[0-9]+", f"localhost:{told[-1]}", address)


def size_and_first_pixel(png: bytes) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Of a picture: at the corner all filters of PNG leave the colour as it is."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    wide, high = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
    data = b"".join(
        png[match.end() : match.end() + int.from_bytes(png[match.start() - 4 : match.start()])]
        for match in re.finditer(b"IDAT", png)
    )
    return (wide, high), tuple(zlib.decompressobj().decompress(data, 16)[1:4])


async def test_playwright_drives_it(server: Server, box: AsyncSandbox) -> None:
    """By the WebSocket's address and by the other one, through both ways in."""
    link = await box.browser()
    assert "Chrome/" in link["browser"]
    async with driven(link["cdp_url"]) as browser:
        assert browser.contexts[0].pages == []
        page = await page_of(browser)
        assert await page.title() == "nobody"
        assert size_and_first_pixel(await page.screenshot()) == ((1280, 800), GREEN)
        await page.get_by_role("button").click()
        assert await page.get_by_role("button").text_content() == "clicked"
        assert (await page.pdf()).startswith(b"%PDF-")
    async with driven(through_the_gateway(server, link["http_url"])) as browser:
        (page,) = browser.contexts[0].pages
        assert await page.title() == "clicked"
        orders = await browser.new_browser_cdp_session()
        where = {"behavior": "allow", "downloadPath": DOWNLOADS, "eventsEnabled": True}
        await orders.send("Browser.setDownloadBehavior", where)
        async with page.expect_download() as coming:
            await page.get_by_role("link").click()
        await (await coming.value).failure()
        assert await box.files.read(f"{DOWNLOADS}/report.txt") == b"the report"
        await check_guards(box)
    await check_a_download_of_nobody(box)
    told = await command("browser", box.id, "--ttl", "60", server=server)
    assert told.startswith(b"cdp   ws://127.0.0.1:")
    async with connect(told.split()[1].decode()) as socket:
        assert "Chrome" in await told_version(socket)


async def check_a_download_of_nobody(box: AsyncSandbox) -> None:
    """What a page downloads that nobody drives is kept, also when a driver has been and gone."""
    opened = f"curl --silent --fail -X PUT http://127.0.0.1:9222/json/new?{SITE}/report.txt"
    waited = f"rm {DOWNLOADS}/*; {opened} && until test -s {DOWNLOADS}/report.txt; do sleep 0.1; done"
    await box.exec(waited, check=True, timeout_seconds=60)


async def test_puppeteer_drives_it(box: AsyncSandbox, tmp_path: Path) -> None:
    """The package of npm as the lock pins it, with the Node.js of this machine."""
    tree = NpmTree(PUPPETEER, "/")
    modules = await npm.fetch([tree], tmp_path, CACHE / "npm", lambda what, done: None)
    program = shutil.copy(PUPPETEER / "drive.mjs", modules[0])
    link = await box.browser()
    told = msgspec.json.decode(await run_tool(["node", program, link["cdp_url"], SITE], timeout=200))
    assert (told["title"], told["clicked"]) == ("nobody", "clicked")
    assert size_and_first_pixel(b64decode(told["png"])) == ((1280, 800), GREEN)
    assert b64decode(told["pdf"]).startswith(b"%PDF-")
    async with driven(link["cdp_url"]) as browser:  # which it has left, and not closed
        assert [await page.title() for page in browser.contexts[0].pages] == ["clicked"]


async def command(*words: str, server: Server) -> bytes:
    """What a command of ours prints."""
    process = await asyncio.create_subprocess_exec(
        *(str(OURS), "--api", server.url, "--token", server.token, *words),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    return said


async def check_guards(box: AsyncSandbox) -> None:
    """Pages are in Chromium's own sandbox; the browser is not, and the check can tell them apart."""
    told = (await box.exec(GUARDS, check=True, timeout_seconds=60)).stdout.splitlines()
    guards = [(words[0], words[1], set(words[2:])) for words in map(str.split, told)]
    ((mode, outside),) = [guard[1:] for guard in guards if guard[0] == "--type=browser"]
    assert mode == "0"
    pages = [guard[1:] for guard in guards if guard[0] == "--type=renderer"]
    assert pages
    for mode, spaces in pages:
        assert mode == "2"
        assert len(spaces) == 3
        assert not spaces & outside


async def test_a_browser_that_is_logged_in_is_forked_and_sleeps(box: AsyncSandbox) -> None:
    """Each child has the login, and chance of its own: unless nothing renews it."""
    async with driven((await box.browser())["cdp_url"]) as browser:
        page = await page_of(browser, "/login")
        await page.goto(SITE)
        await page.evaluate(CHANCE)
    drawn = await forked(box, 3)
    assert [title for title, _ in drawn] == ["panda"] * 3
    assert len({chance for _, chance in drawn}) == 3
    await box.hibernate()
    async with driven((await box.browser())["cdp_url"]) as browser:
        (page,) = browser.contexts[0].pages
        assert await page.title() == "panda"
    await box.exec("rm /etc/pandastack/wipe-on-restore", check=True)
    for _ in range(CONTROLS):
        (_, first), (_, second) = await forked(box, 2)
        if first == second:
            return
    pytest.fail("nothing renewed it, and it was another one")


async def forked(box: AsyncSandbox, count: int) -> list[tuple[str, str]]:
    """Of each child: the title of the page that is open when it is asked for anew, and what it draws."""
    drawn = []
    for child in await box.fork_tree(count, ttl_seconds=600):
        async with driven((await child.browser())["cdp_url"]) as browser:
            (page,) = browser.contexts[0].pages
            chance = await page.evaluate(CHANCE)
            await page.reload()
            drawn.append((await page.title(), str(chance[0])))
        await child.kill()
    return drawn


async def test_sandboxes_do_not_draw_alike(client: AsyncClient) -> None:
    """Nor in what is drawn without the kernel: no page's process is in the snapshot."""
    drawn = []
    for _ in range(2):
        async with (
            await client.sandboxes.create("browser", ttl_seconds=600) as box,
            driven((await box.browser())["cdp_url"]) as browser,
        ):
            page = await browser.contexts[0].new_page()
            drawn.append(await page.evaluate(CHANCE))
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


async def test_without_a_driver_and_a_browser_that_dies(box: AsyncSandbox) -> None:
    with pytest.raises(PandastackError, match="no page open"):
        await box.screenshot()
    assert size_and_first_pixel(await box.screenshot(RED, timeout_seconds=90, width=400, height=300)) == (
        (400, 300),
        (255, 0, 0),
    )
    assert (await box.pdf(SITE, timeout_seconds=90)).startswith(b"%PDF-")
    with pytest.raises(PandastackError, match="ERR_CONNECTION_REFUSED"):
        await box.screenshot("http://127.0.0.1:8001/", timeout_seconds=90)
    with pytest.raises(PandastackError, match="not there within"):
        await box.screenshot(SITE, timeout_seconds=0.01)
    link = await box.browser()
    await box.exec("pkill --signal KILL --oldest --full -- --remote-debugging-port", check=True)
    with pytest.raises(PandastackError, match="does not answer") as told:
        while True:  # its port may outlive it for a moment
            await box.browser()
    assert told.value.code == "browser.down"
    async with asyncio.timeout(200):
        while not await is_up(box):
            await asyncio.sleep(0.5)
    async with connect(link["cdp_url"]) as socket:  # which names no browser, but whichever runs
        assert "Chrome" in await told_version(socket)


async def is_up(box: AsyncSandbox) -> bool:
    try:
        await box.browser()
    except PandastackError:
        return False
    return True


# -- who is let in


async def refused(address: str, **how: str) -> int:
    """The status by which a WebSocket is refused."""
    headers = {name.replace("_", "-"): value for name, value in how.items()}
    with pytest.raises(InvalidStatus) as told:
        async with connect(address, additional_headers=headers):
            pass
    return told.value.response.status_code


async def test_who_has_no_link_gets_nowhere(server: Server, client: AsyncClient, box: AsyncSandbox) -> None:
    link = await box.browser(ttl_seconds=5)
    for address in (link["cdp_url"], through_the_gateway(server, link["cdp_url"])):
        assert await refused(address, origin="https://evil.example") == 403
        assert await refused(address.replace("/v1/p/", "/v1/p/A")) == 401
        assert await refused(address.replace("/devtools/browser", "/devtools/inspector.html")) == 404
        own = "http://" + address.split("/")[2]
        async with connect(address, additional_headers={"origin": own}) as socket:
            assert "Chrome" in await told_version(socket)
    gateway = through_the_gateway(server, "http://127.0.0.1:1/json/version").replace("localhost", "127.0.0.1")
    async with httpx2.AsyncClient(trust_env=False) as http:

        async def by_name(port: int) -> int:
            host = {"host": f"{port}-{box.id}.localhost"}
            return (await http.get(gateway, headers=host)).status_code

        assert await by_name(9222) == 404
        assert await by_name(9223) == 502  # where nobody listens, and names are good
        await asyncio.sleep(5)
        assert await refused(link["cdp_url"]) == 401
        assert (await http.get(link["live_url"])).status_code == 401


async def told_version(socket: ClientConnection) -> str:
    await socket.send('{"id": 1, "method": "Browser.getVersion"}')
    return str(msgspec.json.decode(await socket.recv())["result"]["product"])


# -- the live view


async def test_the_live_view_shows_a_page_and_clicks_in_it(server: Server, box: AsyncSandbox) -> None:
    """In another page of the same browser: frames are drawn, and what is done there is told."""
    link = await box.browser()
    live = through_the_gateway(server, link["live_url"])
    async with (
        leading_here(box, int(live.split("/")[2].partition(":")[2])),
        driven(link["cdp_url"]) as browser,
    ):
        shown = await page_of(browser)
        viewer = await (await browser.new_context(viewport={"width": 1300, "height": 950})).new_page()
        viewer.set_default_timeout(PATIENCE_MS)
        await viewer.goto(live)
        await expect(viewer.locator("#state")).to_have_text("live", timeout=PATIENCE_MS)
        await expect(viewer.locator("#address")).to_have_value(f"{SITE}/", timeout=PATIENCE_MS)
        await until(viewer, DRAWN, lambda told: abs(told[1] - GREEN[1]) < 9 and told[0] < 30)
        place = await viewer.locator("canvas").bounding_box()
        assert place is not None
        scale = place["width"] / int(await viewer.evaluate("document.querySelector('canvas').width"))
        await viewer.mouse.click(place["x"] + 200 * scale, place["y"] + 150 * scale)
        await until(shown, "document.title", lambda told: told == "clicked")
