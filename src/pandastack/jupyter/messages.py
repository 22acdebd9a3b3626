"""Jupyter's messages (jupyter-client.readthedocs.io, Messaging 5.3): what is sent to a kernel, and heard."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from pandastack.model.code import CellError, CellEvent, Shown, Text

DELIMITER = b"<IDS|MSG>"
ROUTING_MOST = 8
"""Parts in front of it."""
VERSION = "5.3"
USER = "pandastack"
TRACEBACK_LINES = 1000
NAME_MOST = 256
"""Letters of a display's id that count."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

S = TypeVar("S")

Port = Annotated[int, Meta(ge=1, le=65_535)]


class ConnectionFile(Struct, frozen=True):
    """Where a kernel listens on its machine's loopback, and the key by which messages are signed."""

    shell_port: Port
    iopub_port: Port
    stdin_port: Port
    control_port: Port
    hb_port: Port
    key: Annotated[str, Meta(max_length=256)]
    ip: str = "127.0.0.1"
    transport: str = "tcp"
    signature_scheme: str = "hmac-sha256"
    kernel_name: str = ""


class Heard(Struct, frozen=True):
    """A message of a kernel that was signed as it must be: its kind, what it answers, its content as JSON,
    and the kernel's date of it.
    """

    kind: str
    parent_id: str
    content: bytes
    date: str = ""


class _Header(Struct, frozen=True):
    msg_type: str = ""
    msg_id: str = ""
    date: object = None  # of another type than text it is none, and the message is heard all the same


class _Stream(Struct, frozen=True):
    name: str
    text: str


class _Transient(Struct, frozen=True):
    display_id: str | None = None


class _Bundle(Struct, frozen=True):
    data: dict[str, Raw]
    transient: _Transient = _Transient()


class _Failure(Struct, frozen=True):
    ename: str = ""
    evalue: str = ""
    traceback: tuple[str, ...] = ()


class _Status(Struct, frozen=True):
    execution_state: str


class Reply(Struct, frozen=True):
    """How a kernel answers an order."""

    status: str = "ok"
    execution_count: int | None = None
    exit_code: int | None = None


class Speech:
    """Makes our messages of one conversation, and understands the kernel's."""

    def __init__(self, key: str, new_id: Callable[[], str]) -> None:
        self._key = key.encode()
        self._new_id = new_id
        self._session = new_id()

    def say(self, kind: str, content: object) -> tuple[str, tuple[bytes, ...]]:
        """The id of a message, and its parts."""
        message_id = self._new_id()
        header = {
            "msg_id": message_id,
            "msg_type": kind,
            "session": self._session,
            "username": USER,
            "date": "1970-01-01T00:00:00Z",
            "version": VERSION,
        }
        parts = (msgspec.json.encode(header), b"{}", b"{}", msgspec.json.encode(content))
        return message_id, (DELIMITER, self._signature(parts), *parts)

    def hear(self, parts: tuple[bytes, ...]) -> Heard | None:
        """What a message says; None when it is no message, or not signed with the key."""
        if DELIMITER not in parts[:ROUTING_MOST]:
            return None
        at = parts.index(DELIMITER) + 1
        signature, signed = b"".join(parts[at : at + 1]), parts[at + 1 : at + 5]
        if len(signed) < 4 or not hmac.compare_digest(signature, self._signature(signed)):
            return None
        header, parent = read(signed[0], _Header), read(signed[1], _Header)
        if header is None:
            return None
        date = header.date if isinstance(header.date, str) else ""
        return Heard(header.msg_type, parent.msg_id if parent else "", signed[3], date)

    def _signature(self, parts: tuple[bytes, ...]) -> bytes:
        if not self._key:
            return b""
        return hmac.new(self._key, b"".join(parts), hashlib.sha256).hexdigest().encode()


def read(data: bytes, kind: type[S]) -> S | None:
    """JSON of a kernel as a value; None for what is none."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def is_idle(heard: Heard) -> bool:
    """It has done what it was asked to."""
    return state_of(heard) == "idle"


def state_of(heard: Heard) -> str | None:
    """What a kernel says of itself: busy from when it turns to an order until it is idle."""
    status = read(heard.content, _Status) if heard.kind == "status" else None
    return None if status is None else status.execution_state


def milliseconds(begun: Heard | None, ended: Heard | None) -> float | None:
    """Between two messages, by the kernel's clock; None when one is missing or has no date (ISO 8601)."""
    if begun is None or ended is None:
        return None
    try:
        spent = datetime.fromisoformat(ended.date) - datetime.fromisoformat(begun.date)
    except (ValueError, TypeError):  # no date, or one of them without its zone
        return None
    return round(spent.total_seconds() * 1000, 2)


def event_of(heard: Heard) -> CellEvent | None:
    """What a message of a running cell shows; None for those that show nothing."""
    if heard.kind == "stream":
        stream = read(heard.content, _Stream)
        if stream is None or not stream.text:
            return None
        return Text("stderr" if stream.name == "stderr" else "stdout", stream.text)
    if heard.kind in ("execute_result", "display_data", "update_display_data"):
        return _shown(heard)
    if heard.kind == "error":
        failure = read(heard.content, _Failure)
        if failure is None:
            return None
        lines = tuple(_COLOURS.sub("", line) for line in failure.traceback[:TRACEBACK_LINES])
        return CellError(failure.ename, _COLOURS.sub("", failure.evalue), lines)
    return None


def _shown(heard: Heard) -> Shown | None:
    bundle = read(heard.content, _Bundle)
    if bundle is None:
        return None
    name = bundle.transient.display_id
    update = heard.kind == "update_display_data" and name is not None
    return Shown(_plain(bundle.data), heard.kind == "execute_result", name and name[:NAME_MOST], update)


def _plain(data: dict[str, Raw]) -> dict[str, str]:
    """Text as it is, and every other value as the JSON that it came as."""
    return {name: _text(bytes(value)) for name, value in data.items()}


def _text(value: bytes) -> str:
    text = read(value, str)
    return value.decode("utf-8", "replace") if text is None else text
