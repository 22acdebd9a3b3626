"""Terminals of a sandbox as the wire carries them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

NAME = r"^[a-z0-9][a-z0-9_-]{0,31}\Z"
Name = Annotated[str, Meta(pattern=NAME)]
"""What a terminal is called within its sandbox."""
Side = Annotated[int, Meta(ge=1, le=65_535)]


class TerminalRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A new terminal: its name (else one is made), and the program in it: the user's login shell, or `cmd`, a
    line for it.
    """

    name: Name | None = None
    cmd: str | None = None
    cwd: str | None = None
    env: dict[str, str] = {}
    user: str | None = None
    rows: Side = 24
    cols: Side = 80


class Terminal(Struct, frozen=True):
    """A terminal that runs, or that has ended and is remembered. `exit_code` is 128+n for signal n."""

    name: str
    command: str
    pid: int
    started_at: datetime
    running: bool
    exit_code: int | None
    viewers: int
    """How many look at it now."""
