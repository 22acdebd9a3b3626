"""A browser: it follows no redirects by itself, keeps cookies, and sends the forms that it was shown."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.api.conftest import TOKEN, World, box, idle_world, world

__all__ = ["Browser", "box", "browser", "guest", "idle_world", "world"]

KEY_OF_FORM = re.compile(r'name="form_key" value="(\w+)"')


class Browser(httpx2.AsyncClient):
    """One that looks at the pages of a world."""

    def __init__(self, world: World, base: str = "http://test") -> None:
        transport = httpx2.ASGITransport(app=world.control)
        super().__init__(transport=transport, base_url=base, headers={"accept": "text/html"}, timeout=30)

    async def sees(self, path: str, status: int = 200) -> str:
        """A page."""
        answer = await self.get(path)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"].startswith("text/html")
        return answer.text

    async def form_key(self, path: str) -> str:
        """The key of the form on a page."""
        found = KEY_OF_FORM.search(await self.sees(path))
        assert found
        return found[1]

    async def logs_in(self, key: str = TOKEN, wanted: str = "") -> httpx2.Response:
        """Fill in the form and send it."""
        fields = {"form_key": await self.form_key("/ui/login"), "key": key, "next": wanted}
        return await self.post("/ui/login", data=fields)


@pytest.fixture
async def guest(world: World) -> AsyncIterator[Browser]:
    """A browser that nobody has logged in with."""
    async with Browser(world) as browser:
        yield browser


@pytest.fixture
async def browser(guest: Browser) -> Browser:
    """One that is logged in."""
    assert (await guest.logs_in()).status_code == 303
    return guest
