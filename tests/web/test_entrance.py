"""Who may see the pages, how they get in and out, and what every answer tells the browser."""

from __future__ import annotations

import pytest

from pandastack.model.account import Scope
from pandastack.web.entrance import FIRST_PAGE, local
from pandastack.web.pages import PAGES
from pandastack.web.sessions import SESSION_SECONDS, SESSIONS_OF_A_KEY
from tests.api.conftest import TOKEN, World
from tests.web.conftest import Browser

pytestmark = pytest.mark.anyio

PLACES = {"sandbox_id": "x", "build_id": "x", "name": "style.css"}
"""What stands for the variables of a path."""

POLICY = {
    "default-src 'none'",
    "style-src 'self'",
    "img-src 'self' data:",
    "form-action 'self'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
}


def is_in(browser: Browser) -> bool:
    return "pandastack_session" in browser.cookies


@pytest.mark.parametrize("endpoint", PAGES, ids=lambda e: f"{e.method} {e.path}")
async def test_every_answer_is_guarded_and_every_page_wants_a_login(guest: Browser, endpoint: object) -> None:
    answer = await guest.request(endpoint.method, endpoint.path.format_map(PLACES))  # type: ignore[attr-defined]  # a row of the table
    if endpoint.scope is not Scope.PUBLIC:  # type: ignore[attr-defined]  # the same
        assert answer.status_code == 303 and answer.headers["location"].startswith("/ui/login")
    assert set(answer.headers["content-security-policy"].split("; ")) == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in answer.headers
    kept = "immutable" in answer.headers["cache-control"]
    assert kept == ("static" in str(answer.url)) and (kept or answer.headers["cache-control"] == "no-store")


async def test_a_key_is_changed_for_a_session(guest: Browser) -> None:
    shut = await guest.get("/ui/snapshots?kind=user")
    assert shut.headers["location"] == "/ui/login?next=%2Fui%2Fsnapshots%3Fkind%3Duser"
    assert 'value="/ui/snapshots?kind=user"' in await guest.sees(shut.headers["location"])
    answer = await guest.logs_in(wanted="/ui/snapshots?kind=user")
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/snapshots?kind=user")
    cookie = next(each for each in answer.headers.get_list("set-cookie") if "_session" in each)
    for word in ("HttpOnly", "Path=/ui", "SameSite=strict", "Max-Age=43200"):
        assert word in cookie
    assert "Secure" not in cookie and TOKEN not in cookie
    assert TOKEN not in await guest.sees("/ui/sandboxes")
    assert (await guest.get("/ui/login?next=/ui/snapshots")).headers["location"] == "/ui/snapshots"


async def test_over_https_cookies_are_secure(world: World) -> None:
    async with Browser(world, "https://test") as browser:
        answer = await browser.logs_in()
    assert all("Secure" in each for each in answer.headers.get_list("set-cookie"))


async def test_a_wrong_key_is_refused(guest: Browser) -> None:
    answer = await guest.logs_in("pds_" + "1" * 32)
    assert answer.status_code == 401 and "unknown, revoked or expired" in answer.text
    assert "1111" not in answer.text and not is_in(guest)


async def test_a_form_of_another_browser_is_refused(world: World, guest: Browser) -> None:
    async with Browser(world) as other:
        stolen = await other.form_key("/ui/login")
    for key in ("", "wrong", "ü", stolen):
        answer = await guest.post("/ui/login", data={"form_key": key, "key": TOKEN})
        assert answer.status_code == 403 and not is_in(guest)
    assert (await guest.post("/ui/login", json={"key": TOKEN})).status_code == 400


async def test_only_its_own_form_logs_a_browser_out(browser: Browser) -> None:
    assert (await browser.get("/ui/logout")).status_code == 405
    for key in ("", await browser.form_key("/ui/sandboxes") + "x"):
        assert (await browser.post("/ui/logout", data={"form_key": key})).status_code == 403
    session = browser.cookies["pandastack_session"]
    sent = await browser.post("/ui/logout", data={"form_key": await browser.form_key("/ui/sandboxes")})
    assert sent.headers["location"] == "/ui/login" and not is_in(browser)
    browser.cookies.set("pandastack_session", session)
    assert (await browser.get("/ui/sandboxes")).status_code == 303


async def test_a_session_ends_with_its_key_and_with_time(world: World, browser: Browser) -> None:
    made = (await world.http.post("/v1/me/tokens", json={"name": "looks", "scope": "read"})).json()
    async with Browser(world) as other:
        await other.logs_in(made["token"])
        await other.sees("/ui/sandboxes")
        await world.http.delete(f"/v1/me/tokens/{made['prefix']}")
        assert (await other.get("/ui/sandboxes")).status_code == 303
    world.time.passes(SESSION_SECONDS - 60)
    await browser.sees("/ui/sandboxes")
    world.time.passes(61)
    assert (await browser.get("/ui/sandboxes")).status_code == 303


async def test_a_key_has_so_many_sessions(world: World, browser: Browser) -> None:
    for more in range(SESSIONS_OF_A_KEY):
        assert (await browser.get("/ui/sandboxes")).status_code == 200, more
        async with Browser(world) as other:
            await other.logs_in()
    assert (await browser.get("/ui/sandboxes")).status_code == 303


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/v1/me", "ui/sandboxes", "//evil.example", "/\\evil.example", "https://evil.example"),
        *("/ui/..//evil.example", "/ui//evil.example\n", "/ui/%2e%2e/", "/ui/x#y", "/uix", "javascript:x"),
    ],
)
async def test_nobody_is_sent_elsewhere(guest: Browser, path: str) -> None:
    assert local(path) == FIRST_PAGE
    assert (await guest.logs_in(wanted=path)).headers["location"] == FIRST_PAGE


async def test_browsers_find_it_and_programs_do_not(idle_world: World) -> None:
    await idle_world.start()
    async with Browser(idle_world) as browser:
        assert (await browser.get("/")).headers["location"] == "/ui"
        assert (await browser.get("/ui")).headers["location"] == FIRST_PAGE
        assert "no such page" in await browser.sees("/ui/nothing", 404)
    assert (await idle_world.http.get("/")).json()["code"] == "not_found"
    await idle_world.stop()
    await idle_world.start(dashboard=False)
    async with Browser(idle_world) as browser:
        for path in ("/", "/ui", "/ui/login"):
            assert (await browser.get(path)).json()["code"] == "not_found"
