"""How things look: templates, and values as a person reads them."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response

from pandastack.model.clock import Clock

FOLDER = Path(__file__).parent


class Loaded(NamedTuple):
    """A file that a page may load: its type, and the folder of `static` that it is in."""

    media: str
    folder: str = ""


STATIC = {
    "style.css": Loaded("text/css"),
    "panda.svg": Loaded("image/svg+xml"),
    "terminal.js": Loaded("text/javascript"),
    "xterm.js": Loaded("text/javascript", "vendored"),
    "xterm-fit.js": Loaded("text/javascript", "vendored"),
    "xterm.css": Loaded("text/css", "vendored"),
}
"""Every one of them."""

ID_SHOWN = 8
UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


class Look:
    """Makes pages. Whatever a template is given is text and is escaped, wherever it came from."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.files = {
            name: (FOLDER / "static" / file.folder / name).read_bytes() for name, file in STATIC.items()
        }
        self._templates = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.globals["static"] = {name: self._address(name) for name in STATIC}
        self._templates.filters.update(
            ago=self.ago, bytes=size, ms=duration, span=span, short=short, plain=plain
        )

    def page(self, template: str, status: int = 200, **values: object) -> Response:
        """An answer. What is no text, as half of a surrogate pair, is shown as `?`."""
        text = self._templates.get_template(template).render(values, now=self._clock.now())
        return Response(text.encode("utf-8", "replace"), status, media_type="text/html")

    def ago(self, moment: datetime) -> str:
        """How long ago, roughly."""
        seconds = (self._clock.now() - moment).total_seconds()
        return "just now" if seconds < 1 else f"{span(seconds)} ago"

    def _address(self, name: str) -> str:
        """Where a browser finds a file, which it may keep: another content has another address."""
        return f"/ui/static/{name}?v={sha256(self.files[name]).hexdigest()[:12]}"


def span(seconds: float) -> str:
    """`12 s`, `5 min`, `3 h`, `2 d`."""
    for unit, length in UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def duration(milliseconds: float) -> str:
    """`0.42 ms`, `27 ms`, `3.2 s`, and as `span` from a minute on."""
    if milliseconds < 1000:
        return f"{round(milliseconds, 2 if milliseconds < 10 else None)} ms"
    return f"{milliseconds / 1000:.1f} s" if milliseconds < 60_000 else span(milliseconds / 1000)


def size(count: int) -> str:
    """`512 B`, `31 kB`, `12.3 MB`, `1.5 GB`."""
    for unit, length in (("GB", 10**9), ("MB", 10**6)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count / 1000:.0f} kB" if count >= 1000 else f"{count} B"


def short(name: str) -> str:
    """The beginning of an id, by which people know it."""
    return name[:ID_SHOWN]


def plain(value: object) -> str:
    """A value of an event: words as they are, the rest as JSON."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
