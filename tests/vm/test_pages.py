"""The server's own pages in a real browser, which is in a sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from playwright.async_api import expect

from pandastack import AsyncClient
from pandastack.testing.server import Server, running_server
from tests.vm.browsing import PATIENCE_MS, driven, leading_here, until

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(900, func_only=True)]

SETTINGS = {
    "PANDASTACK_REHEARSE": "false",
    "PANDASTACK_READY_TEMPLATES": "browser",
    "PANDASTACK_NETWORKS_READY": "2",
}
SCREEN = ".xterm-screen"
SIZES = """(() => {
    const rows = [...document.querySelectorAll(".xterm-rows > div")];
    const told = rows.map((row) => row.textContent.match(/^[0-9]+(?= [0-9]+\\s*$)/)).filter((found) => found);
    return [rows.length, Number(told.at(-1))];
})()"""
"""How many rows are drawn, and how many of them the program there was told."""
ENDED = "The program has ended with exit code 3."
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose first browser bakes the template where it is not baked."""
    with running_server(tmp_path_factory.mktemp("pages"), settings=SETTINGS) as server:
        yield server


def agreed(rows: range, told: list[int]) -> bool:
    return told[0] == told[1] and told[0] in rows


async def test_a_terminal_is_typed_in_resized_left_and_found_again(server: Server) -> None:
    """Scripts of ours and xterm.js, under the policy of their page, as a person has them."""
    async with (
        AsyncClient(api_url=server.url, api_key=server.token) as client,
        await client.sandboxes.create("browser", ttl_seconds=3600) as box,
        await client.sandboxes.create("browser", ttl_seconds=3600) as other,
        leading_here(box, int(server.url.rpartition(":")[2])),
        driven((await box.browser())["cdp_url"]) as browser,
    ):
        await other.terminals.create("main")
        name = (await other.exec("hostname", check=True)).stdout.strip()
        address = f"{server.url}/ui/sandboxes/{other.id}/terminals/main"
        page = await browser.contexts[0].new_page()
        screen = page.locator(SCREEN)
        await page.goto(address)
        await page.get_by_label("API key").fill(server.token)
        await page.get_by_role("button", name="Log in").click()
        await expect(screen).to_contain_text("#")  # the prompt
        await page.keyboard.insert_text("while sleep 0.2; do stty size; done")
        await page.keyboard.press("Enter")
        for high, rows in ((500, range(5, 20)), (700, range(20, 40))):
            await page.set_viewport_size({"width": 900, "height": high})
            await until(page, SIZES, partial(agreed, rows))
        await page.keyboard.press("Control+C")
        await page.keyboard.insert_text("clear; echo $((6*7)) $(hostname); seq 60")
        await page.keyboard.press("Enter")
        await expect(screen).to_contain_text("5960")
        await page.goto("about:blank")
        await page.goto(address)
        await expect(screen).to_contain_text("5960")
        await expect(screen).not_to_contain_text(f"42 {name}")
        for _ in range(3):
            await page.keyboard.press("Shift+PageUp")
        await expect(screen).to_contain_text(f"42 {name}")
        await page.keyboard.type("exit 3\n")
        await expect(page.locator("#terminal-status")).to_have_text(ENDED)
