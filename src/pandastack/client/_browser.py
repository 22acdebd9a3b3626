"""A sandbox's browser as values."""

from __future__ import annotations

from typing import TypedDict

PAGE_SECONDS = 30.0
"""How long a page may take to load, unless it is said."""

SLACK_SECONDS = 60.0
"""How much longer an answer may take that waits for a page: a sandbox may sleep, a browser be starting."""


class BrowserLink(TypedDict):
    """A browser, for whoever has this until `expires_at`: all that it shows and is logged in to.

    `cdp_url` is what Playwright's `connect_over_cdp` and Puppeteer's `browserWSEndpoint` take, `http_url` is
    for programs that ask for that address first, `live_url` is a page to look at it and click in; `browser`
    is its name and version.
    """

    cdp_url: str
    http_url: str
    live_url: str
    browser: str
    expires_at: str
