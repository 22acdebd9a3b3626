"""What differs between two points: two sandboxes, or two steps of a timeline."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

DiffLimit = Annotated[int, Meta(ge=1, le=100_000)]


class Point(Struct, frozen=True, forbid_unknown_fields=True):
    """A sandbox as it is now, a step of its timeline, or a snapshot."""

    sandbox_id: str | None = None
    snapshot_id: str | None = None
    step: int | None = None


class DiffRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/diff`. Files are compared below `path`; of each list at most `limit` are told."""

    a: Point
    b: Point
    path: str = "/"
    limit: DiffLimit = 10_000


class ChangeReason(StrEnum):
    """What of a file differs. MTIME: the time of its last change does, and nobody has compared its bytes."""

    KIND = "kind"
    SIZE = "size"
    MODE = "mode"
    LINK = "link"
    CONTENT = "content"
    MTIME = "mtime"


class FileAt(Struct, frozen=True):
    """A file that is in one of both only. Bytes."""

    path: str
    size: int


class FileChange(Struct, frozen=True):
    """A file that is in both and not the same. Bytes."""

    path: str
    size_a: int
    size_b: int
    reason: ChangeReason


class FileDiff(Struct, frozen=True):
    """Files, links and directories, by path."""

    added: list[FileAt]
    removed: list[FileAt]
    changed: list[FileChange]


class ProcessAt(Struct, frozen=True, order=True):
    """A process of the guest and its command line."""

    pid: int
    command: str


class ProcessDiff(Struct, frozen=True):
    """Processes of the second that the first has not, and the other way round."""

    started: list[ProcessAt]
    ended: list[ProcessAt]


class PortAt(Struct, frozen=True, order=True):
    """A TCP port on which something listens."""

    port: int
    address: str


class PortDiff(Struct, frozen=True):
    """Listening ports of the second that the first has not, and the other way round."""

    opened: list[PortAt]
    closed: list[PortAt]


class Diff(Struct, frozen=True):
    """What leads from the first point to the second. `truncated`: of some list there is more."""

    files: FileDiff
    processes: ProcessDiff
    ports: PortDiff
    truncated: bool
