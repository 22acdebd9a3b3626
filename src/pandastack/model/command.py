"""Commands as the wire carries them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Timeout = Annotated[float, Meta(ge=0, le=604_800)]


class CommandRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to run, where and as whom."""

    cmd: str | list[str]
    args: list[str] = []
    cwd: str | None = None
    env: dict[str, str] = {}
    user: str | None = None
    timeout_seconds: Timeout | None = None


class ExecRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `exec` and `exec/stream`. `cmd` is a line for the user's shell, or a list of words run as
    they are.

    `timeout_seconds` kills it with all that descends from it; 0 is none. With `args`, `cmd` is the program
    and they its words. What it reads is `stdin` (text) or `stdin_base64` (any bytes), not both.
    """

    stdin: str | None = None
    stdin_base64: bytes | None = None
    background: bool = False


class StartRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `processes`, as that of `exec`. With `stdin` the process can be written to; else it has
    nothing to read.
    """

    stdin: bool = False


class ExecResult(Struct, frozen=True):
    """How a command ended. `duration_ms` is the server's view, `guest_ms` the guest's own; 128+n for signal
    n.
    """

    stdout: str
    stderr: str
    exit_code: int
    exit: int
    duration_ms: int
    guest_ms: float
    truncated: bool = False


class Started(Struct, frozen=True):
    """A background process."""

    process_id: str
    pid: int
