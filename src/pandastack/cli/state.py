"""The state directory: one server uses it at a time, and `down` finds that server."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pandastack.errors import Conflict

DEFAULT_STATE = Path("~/.local/share/pandastack")
"""The state directory of a user who names none."""

LOCK = "server.lock"
"""Locked while a server uses the directory, and holds its process id."""


@contextmanager
def held(state: Path) -> Iterator[None]:
    """Be the one server of a state directory, which is made when it is not there.

    Errors: Conflict, naming the process, when there is another.
    """
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (state / LOCK).open("a+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"A server (process {_pid(state) or 'unknown'}) already runs on {state}. "
                f"End it with `pandastack down --state {state}`, or choose another --state."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        yield
        file.truncate(0)


def holder(state: Path) -> int | None:
    """The process id of the server that uses a state directory, None when there is none."""
    try:
        file = (state / LOCK).open("rb")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _pid(state)
        return None


def _pid(state: Path) -> int | None:
    text = (state / LOCK).read_text()
    return int(text) if text.isdigit() else None
