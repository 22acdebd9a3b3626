"""The wire as values and pure functions: what is sent, how an answer is read, which error it is."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict
from urllib.parse import quote, urlsplit

import msgspec
from httpx2 import ServerSentEvent
from msgspec import Struct

from pandastack import errors
from pandastack.client._errors import (
    AuthError,
    CommandFailed,
    ExecInterrupted,
    PandastackError,
    SandboxTimeout,
)
from pandastack.client._values import EgressPolicy, ExecResult, NewSecret

USER_AGENT = "pandastack-python"
CONNECT_SECONDS = 10.0
STREAM_GAP_SECONDS = 900.0
"""Longest silence of a stream that is still believed alive: a silent command is a healthy one, and the death
of the server's machine is noticed by TCP keep-alive long before.
"""

WAIT_SECONDS = 30.0
"""Longest wait for the end of a process that the server takes in one request."""

CREATE_SECONDS = 150.0
"""Longest wait for a create: the first one of a template boots it for real, emulated at worst."""

SNAPSHOT_SECONDS = 180.0
"""Longest wait for a snapshot, a fork, a hibernation or what goes on from one."""

BAKE_SECONDS = 900.0

UPLOAD_SECONDS = 300.0
"""Longest silence of a server that is sent what a template is to be built of."""

DEFAULT_TEMPLATE = "code-interpreter"

INLINE_CODE_BYTES = 100_000
"""Linux takes no single argument over 128 KiB; longer code goes through stdin."""

NO_KEY = (
    "PANDASTACK_API_KEY is required: set it, pass api_key=, or start a server with `pandastack up`, "
    "which writes a key to ~/.config/pandastack/config.json."
)

JSON = Any
"""A JSON value, decoded: its shape is checked where it is taken apart."""

Command = str | Sequence[str]
"""A shell line, or a program with its arguments."""

OutputCallback = Callable[[str], object]
"""Gets a piece of output as text."""


class Call(Struct, frozen=True, kw_only=True):
    """One request. `read_timeout` is the longest silence in seconds, also of a server that takes a body; None
    for the client's own.
    """

    method: str
    path: str
    params: dict[str, str] = {}
    json: JSON = None
    headers: dict[str, str] = {}
    read_timeout: float | None = None


def url_of(base: str, path: str) -> str:
    """The address of a path below /v1, whether or not the configured base names /v1 itself."""
    root = base if base.endswith("/v1") else f"{base}/v1"
    return f"{root}/{path.lstrip('/')}"


def socket_url(base: str, path: str) -> str:
    """The same for a WebSocket."""
    url = urlsplit(url_of(base, path))
    return url._replace(scheme="wss" if url.scheme == "https" else "ws").geturl()


def segment(text: str) -> str:
    """`text` as one segment of a path, whatever it holds."""
    return quote(text, safe="")


def auth_headers(api_key: str | None) -> dict[str, str]:
    """The credential of every request; AuthError when there is none, before anything is sent."""
    if not api_key:
        raise AuthError(NO_KEY)
    return {"Authorization": f"Bearer {api_key}"}


def decode(body: bytes, content_type: str) -> JSON:
    """The JSON value of an answer; else its text when it says that it is text; else its bytes. None when
    empty.
    """
    if not body:
        return None
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        is_text = content_type.startswith(("text/", "application/json"))
        return body.decode("utf-8", "replace") if is_text else body


def error_of(status: int, body: bytes, content_type: str) -> PandastackError:
    """The error that an answer stands for."""
    value = decode(body, content_type)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return errors.from_body(value, status)


def items_of(value: JSON) -> list[Any]:
    """A listing, sent bare or as `{"items": […]}`; null is an empty one."""
    listed = value.get("items") if isinstance(value, dict) else value
    return list(listed or [])


def clean(**fields: JSON) -> dict[str, Any]:
    """The fields that were given: None means "not said"."""
    return {name: value for name, value in fields.items() if value is not None}


def query(**fields: object) -> dict[str, str]:
    """Query parameters from the fields that were given."""
    return {name: _query_text(value) for name, value in fields.items() if value is not None}


def _query_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def octal(mode: int | None) -> str | None:
    """Permission bits as the wire has them: 0o644 is "0644"."""
    return None if mode is None else f"{mode:04o}"


def range_header(offset: int | None, length: int | None) -> dict[str, str]:
    """The header that asks for a part of a file."""
    if offset is None and length is None:
        return {}
    first = offset or 0
    last = "" if length is None else str(first + length - 1)
    return {"Range": f"bytes={first}-{last}"}


class TimeOptions(TypedDict, total=False):
    """What ends a sandbox by itself: the limit of its lifetime and of a persistent one's idleness, in seconds
    (None is no limit), and what becomes of it then, "kill" or "hibernate".
    """

    on_timeout: str
    idle_timeout_seconds: int | None
    lifetime_seconds: int | None


class CreateOptions(TimeOptions, total=False):
    """The same, and what is kept of a sandbox by itself: with `checkpoints` "exec" (else "off") its state
    behind each command, the newest `keep_checkpoints` (20) of them. With `disk_only` one that is made from a
    snapshot boots with the disk of that, without what was in memory. `egress` is what it may reach, `secrets`
    what is put into its requests, by the names of the variables that stand for it, `disk_gb` the least that
    its root disk is to hold.
    """

    checkpoints: str
    disk_gb: int
    keep_checkpoints: int
    disk_only: bool
    egress: EgressPolicy
    secrets: Mapping[str, NewSecret]


class LifecycleOptions(TimeOptions, total=False):
    """The same times, and what else of a lifecycle can be changed."""

    checkpoints: str
    keep_checkpoints: int
    ttl_seconds: int
    persistent: bool


def create_body(  # noqa: PLR0913  # each is a field of the body
    *,
    template: str,
    sizes: tuple[int | None, int | None] = (None, None),
    metadata: Mapping[str, str] | None,
    ttl_seconds: int | None,
    persistent: bool,
    from_snapshot: str | None,
    volumes: Sequence[Mapping[str, Any]] | None,
    env: Mapping[str, str] | None,
    times: CreateOptions,
) -> dict[str, Any]:
    """The body of a create: only what was said. `sizes`: processors, and MiB of memory."""
    return clean(
        template=template,
        cpu=sizes[0],
        memory_mb=sizes[1],
        metadata=dict(metadata) if metadata else None,
        ttl_seconds=ttl_seconds,
        persistent=True if persistent else None,
        from_snapshot=from_snapshot,
        volumes=[_volume(volume) for volume in volumes] if volumes else None,
        env=dict(env) if env else None,
        **times,
    )


def _volume(volume: Mapping[str, Any]) -> dict[str, Any]:
    read_only = bool(volume.get("read_only", volume.get("readOnly", False)))
    return clean(name=volume["name"], path=volume.get("path"), read_only=read_only)


class PlaceOptions(TypedDict, total=False):
    """Where and as whom a command runs: directory, additions to its environment, user of the guest."""

    cwd: str | None
    env: Mapping[str, str] | None
    user: str | None


class CommandOptions(PlaceOptions, total=False):
    """The same, and what the command reads."""

    stdin: str | bytes | None


class ExecOptions(CommandOptions, total=False):
    """The same, and who gets the output as it comes, piece by piece."""

    on_stdout: OutputCallback | None
    on_stderr: OutputCallback | None


def exec_body(
    cmd: Command,
    timeout_seconds: float | None,
    options: PlaceOptions,
    *,
    stdin: str | bytes | bool | None = None,
) -> dict[str, Any]:
    """The body of an exec or of the start of a process: only what was said."""
    return clean(
        cmd=cmd if isinstance(cmd, str) else list(cmd),
        timeout_seconds=timeout_seconds,
        cwd=options.get("cwd"),
        env=dict(options.get("env") or {}) or None,
        user=options.get("user"),
        **_given(stdin),
    )


def _given(stdin: str | bytes | bool | None) -> dict[str, str | bool | None]:
    """What a command reads: text as it is, bytes that are no UTF-8 in base64; or whether it reads at all."""
    if not isinstance(stdin, bytes):
        return {"stdin": stdin}
    try:
        return {"stdin": stdin.decode()}
    except UnicodeDecodeError:
        return {"stdin_base64": b64encode(stdin).decode()}


def stream_gap(timeout_seconds: float | None) -> float:
    """Longest silence to bear from a command that may run this long."""
    return max(STREAM_GAP_SECONDS, (timeout_seconds or 0.0) + 60.0)


def code_command(code: str, language: str) -> tuple[list[str], str | None]:
    """The command that runs `code`, and its stdin; ValueError for an unknown language."""
    programs = {"python": ("python3", "-c"), "bash": ("bash", "-c"), "javascript": ("node", "-e")}
    aliases = {"py": "python", "python3": "python", "sh": "bash", "shell": "bash", "js": "javascript"}
    name = language.lower()
    name = aliases.get(name, "javascript" if name == "node" else name)
    if name not in programs:
        raise ValueError(f"Unsupported language: {language}. Known: {', '.join(sorted(programs))}.")
    program, flag = programs[name]
    if len(code.encode()) <= INLINE_CODE_BYTES:
        return [program, flag, code], None
    return ([program] if name == "bash" else [program, "-"]), code


def stream_error(data: JSON) -> PandastackError:
    """The error that an `error` record of a stream stands for."""
    error = errors.from_body(data, 500)
    return as_timeout(error)


def as_timeout(error: PandastackError) -> PandastackError:
    """SandboxTimeout for the 500 by which servers without error codes tell of a command's deadline."""
    text = str(error).lower()
    tells_of_it = ("timeout" in text or "deadline exceeded" in text) and "i/o timeout" not in text
    if isinstance(error, errors.InternalError) and tells_of_it:
        return SandboxTimeout(error.message, **error.details)
    return error


def check_exit(result: ExecResult, cmd: Command) -> ExecResult:
    """The result itself; CommandFailed when its exit code is not 0."""
    if result.exit_code == 0:
        return result
    raise CommandFailed(
        f"command exited with code {result.exit_code}: {shown(cmd)}",
        exit_code=result.exit_code,
        stdout=result.stdout,
        stderr=result.stderr,
    )


def tells_of_end(record: ServerSentEvent) -> bool:
    """Whether a followed log ends here because its sandbox does not run any more."""
    if record.event != "error":
        return False
    error = stream_error(msgspec.json.decode(record.data))
    return isinstance(error, errors.NotFound | errors.Conflict)


def shown(cmd: Command) -> str:
    """A command for a person to read."""
    return cmd if isinstance(cmd, str) else " ".join(cmd)


def log_line(event: str, data: str) -> str:
    """The log line of a record; raises the error that an `error` record carries."""
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data
    if event == "error":
        raise stream_error(value)
    text = value.get("line", value.get("chunk", data)) if isinstance(value, dict) else data
    return str(text).rstrip("\n")


def record_value(record: ServerSentEvent) -> JSON:
    """The JSON value of a stream's record; raises the error that an `error` record carries."""
    value = msgspec.json.decode(record.data) if record.data else None
    if record.event == "error":
        raise stream_error(value)
    return value


class Capture:
    """Collects the records of one command's stream, telling the callbacks of each piece of output."""

    def __init__(self, on_stdout: OutputCallback | None, on_stderr: OutputCallback | None) -> None:
        self._callbacks = {"stdout": on_stdout, "stderr": on_stderr}
        self._pieces: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._exit: Mapping[str, Any] | None = None
        self.begun = False

    def begin(self) -> None:
        """The server has taken the command: from here on a broken connection leaves its outcome unknown."""
        self.begun = True

    def take(self, record: ServerSentEvent) -> None:
        """Take one record; raises SandboxTimeout or the error that the server tells of."""
        value = record_value(record)
        if record.event in self._pieces:
            text = str(value.get("chunk", ""))
            self._pieces[record.event].append(text)
            if callback := self._callbacks[record.event]:
                callback(text)
        elif record.event == "exit":
            self._exit = value

    def result(self) -> ExecResult:
        """The outcome; ExecInterrupted when the stream ended without telling it."""
        if self._exit is None:
            raise self.interrupted()
        return ExecResult.from_dict({**self._exit, **self._texts()})

    def interrupted(self) -> ExecInterrupted:
        """The error of a stream that broke off."""
        texts = self._texts()
        return ExecInterrupted(
            "The stream ended without an exit code: the connection or the sandbox was lost. "
            "The command may have succeeded, failed, or still run.",
            partial_stdout=texts["stdout"],
            partial_stderr=texts["stderr"],
        )

    def _texts(self) -> dict[str, str]:
        return {name: "".join(pieces) for name, pieces in self._pieces.items()}
