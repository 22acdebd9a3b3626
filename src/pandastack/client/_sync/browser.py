# Made from `../_async/browser.py` by `scripts/unasync`: change that file.
"""The browser of a sandbox of the template `browser`."""

from __future__ import annotations

from typing import Any, cast

from pandastack.client._browser import PAGE_SECONDS, SLACK_SECONDS, BrowserLink
from pandastack.client._sync.handle import Handle
from pandastack.client._wire import Call


class BrowserVerbs(Handle):
    """The verbs of a sandbox that are about its browser. ServerError while that does not answer: one that
    has ended is started again within some seconds.
    """

    def browser(self, *, ttl_seconds: int = 3600) -> BrowserLink:
        """A link to the browser for so many seconds, for programs and for people. It is woken for it."""
        call = Call(
            method="GET",
            path=f"{self._path}/browser",
            params={"ttl_seconds": str(ttl_seconds)},
            read_timeout=SLACK_SECONDS,
        )
        return cast("BrowserLink", self._connection.request(call))

    def screenshot(
        self,
        url: str | None = None,
        *,
        width: int | None = None,
        height: int | None = None,
        full_page: bool = False,
        timeout_seconds: float = PAGE_SECONDS,
    ) -> bytes:
        """A page of the browser as a PNG: `url` in a tab of its own, or without one the page that is open.

        It shows what fits into the window (`width` and `height` in pixels), or with `full_page` all of it.
        BadRequestError when the page cannot be shown, or not in time.
        """
        body: dict[str, Any] = {"full_page": full_page}
        return self._page("screenshot", body, url, width, height, timeout_seconds)

    def pdf(
        self,
        url: str | None = None,
        *,
        width: int | None = None,
        height: int | None = None,
        timeout_seconds: float = PAGE_SECONDS,
    ) -> bytes:
        """A page of the browser as a PDF: `url` in a tab of its own, or without one the page that is open.

        BadRequestError when the page cannot be shown, or not in time.
        """
        return self._page("pdf", {}, url, width, height, timeout_seconds)

    def _page(
        self,
        verb: str,
        more: dict[str, Any],
        url: str | None,
        width: int | None,
        height: int | None,
        seconds: float,
    ) -> bytes:
        body = {"url": url, "width": width, "height": height, "timeout_seconds": seconds, **more}
        call = Call(
            method="POST",
            path=f"{self._path}/browser/{verb}",
            json={name: value for name, value in body.items() if value is not None},
            read_timeout=seconds + SLACK_SECONDS,
        )
        return self._connection.fetch(call)
