"""The page on which a browser of a sandbox is looked at and clicked in, below the browser's own link.

It is ours, not the guest's: it draws pictures of what the guest shows, in a page that loads nothing from
elsewhere, and talks to the link that it came by.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from pandastack.proxy.head import Head, Site

FOLDER = Path(__file__).parent / "live_page"
FILES = {
    b"/live": ("live.html", b"text/html; charset=utf-8"),
    b"/live/live.css": ("live.css", b"text/css; charset=utf-8"),
    b"/live/live.js": ("live.js", b"text/javascript; charset=utf-8"),
}
"""Every path of the page, and what is there."""


class Page(Struct, frozen=True):
    """An answer of our own: a file of the page, or what a browser told, in our words."""

    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    status: int = 200


def page_at(head: Head, target: bytes, site: Site) -> Page | None:
    """What is at this path, if it belongs to the page."""
    found = FILES.get(target.partition(b"?")[0])
    if found is None or head.method not in ("GET", "HEAD"):
        return None
    name, kind = found
    body = (FOLDER / name).read_bytes()
    talks = b"wss:" if site.scheme == "https" else b"ws:"
    policy = (
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        b"connect-src 'self' %b//%b; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ) % (talks, head.host)
    headers = (
        (b"content-type", kind),
        (b"content-security-policy", policy),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
    )
    return Page(headers, b"" if head.method == "HEAD" else body)
