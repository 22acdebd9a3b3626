"""How long until a page is shown: a browser of a sandbox of its own, driven by Playwright."""

from __future__ import annotations

import time

from playwright.sync_api import Browser, Playwright, sync_playwright

from benchmarks.api import Refused
from benchmarks.notebook import Notebook
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, at_most
from benchmarks.servers import rehearsed

TEMPLATE = "browser"
PORT = 8000
SITE = f"http://127.0.0.1:{PORT}/"
TITLE = "A local site"
PAGE = f"<!doctype html><title>{TITLE}</title><h1>{TITLE}</h1><p>It has a word, and a second one."
SERVE = (
    f"mkdir /srv/site; echo '{PAGE}' > /srv/site/index.html; cd /srv/site;"
    f" setsid python3 -m http.server --bind 127.0.0.1 {PORT} > /dev/null 2>&1 &"
    f" until curl --silent --output /dev/null {SITE}; do sleep 0.05; done"
)
PATIENCE_MS = 90_000
WARM_UP = 2
PAGE_MS = 4000

HOW = (
    f"A sandbox of `{TEMPLATE}` is created (timed). A site is started in it (not timed: it is the sandbox's,"
    " and no part of a browser). Then, timed step by step: a link is asked for, Playwright connects to"
    " it (`connect_over_cdp`), opens a page, goes to the site and reads its title. `first_page_ms` is all"
    " that was timed; `second_page_ms` a page more of the same browser. Playwright's own program runs all"
    " the time."
)


def measure(stage: Stage, count: int) -> Answer:
    """Make `count` sandboxes."""
    with sync_playwright() as playwright:
        for _ in range(WARM_UP):
            _sandbox(stage, playwright, Notebook(stage))
            rehearsed(stage.server)
        notes = Notebook(stage)
        for number in stage.times(count, "browsers that show a page"):
            with notes.attempt(f"browser {number}"):
                _sandbox(stage, playwright, notes)
        limit = at_most("p50 of create and first page", notes.of("first_page_ms").p50, PAGE_MS, "ms")
        return notes.answer(HOW, [limit], {})


def _sandbox(stage: Stage, playwright: Playwright, notes: Notebook) -> None:
    sandbox, create = stage.api.create(template=TEMPLATE)
    try:
        stage.api.exec(sandbox["id"], "/bin/sh", "-c", SERVE)
        link, asked = stage.api.browser(sandbox["id"])
        began = time.perf_counter()
        browser = playwright.chromium.connect_over_cdp(link["cdp_url"], timeout=PATIENCE_MS)
        connected = (time.perf_counter() - began) * 1000
        try:
            opened, shown = _page(browser)
            notes.add(
                create_ms=create,
                link_ms=asked,
                connect_ms=connected,
                new_page_ms=opened,
                goto_and_title_ms=shown,
                first_page_ms=create + asked + connected + opened + shown,
                second_page_ms=sum(_page(browser)),
            )
        finally:
            browser.close()
    finally:
        stage.api.delete(sandbox["id"])


def _page(browser: Browser) -> tuple[float, float]:
    """Milliseconds until a page was open, and from then until its title was read."""
    began = time.perf_counter()
    page = browser.contexts[0].new_page()
    page.set_default_timeout(PATIENCE_MS)
    opened = time.perf_counter()
    page.goto(SITE)
    if page.title() != TITLE:
        raise Refused(f"the page is called {page.title()}")
    return (opened - began) * 1000, (time.perf_counter() - opened) * 1000


QUESTION = Question("what a browser's first page takes", measure, count=10, quick=1)
