"""The servers that the questions are put to."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pandastack.testing.server import Server, running_server

SETTLED_SECONDS = 10.0
"""Until then a server that has just baked may not have begun with its fork servers."""
REHEARSED_SECONDS = 120.0


@contextmanager
def fresh_server(
    settings: Mapping[str, str] | None = None, *, gateway: str | None = "127.0.0.1:0"
) -> Iterator[Server]:
    """A server with an empty state, as one that has run for a minute; see `running_server`."""
    with (
        tempfile.TemporaryDirectory(prefix="pandastack-bench-") as home,
        running_server(Path(home), settings=settings, gateway=gateway) as server,
    ):
        time.sleep(SETTLED_SECONDS)
        rehearsed(server)
        yield server


@contextmanager
def server_of(checkout: Path) -> Iterator[Server]:
    """A server of another version's sources, in this Python environment. It bakes what it needs first."""
    with fresh_server({"PYTHONPATH": str(checkout.resolve() / "src")}, gateway=None) as server:
        yield server


def rehearsed(server: Server) -> None:
    """Wait until its fork servers have rehearsed the programs of their templates, as those of a server that
    has run for a minute have.
    """
    deadline = time.monotonic() + REHEARSED_SECONDS
    while time.monotonic() < deadline:
        told = server.log.read_text("utf-8", "replace")
        if told.count("rehearsal.begun") == told.count("rehearsal.ended"):
            return
        time.sleep(0.5)
