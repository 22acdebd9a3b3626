"""What differs between two points, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pandastack.client import _wire
from pandastack.client._values import take


class Identified(Protocol):
    """Whatever has the id of a sandbox: a sandbox."""

    id: str


@dataclass(frozen=True)
class Point:
    """A sandbox as it is now, a step of its timeline (-1 is the newest), or a snapshot."""

    sandbox_id: str | None = None
    step: int | None = None
    snapshot_id: str | None = None

    @classmethod
    def of(cls, place: Place) -> Point:
        """A sandbox, its id, `ID@STEP`, or a point."""
        if isinstance(place, Point):
            return place
        if not isinstance(place, str):
            return cls(place.id)
        sandbox_id, at, step = place.partition("@")
        if at and not step.removeprefix("-").isdigit():
            raise ValueError(f"A step is a number, as in ID@3 or ID@-1; got {place!r}.")
        return cls(sandbox_id, int(step) if at else None)


Place = Identified | str | Point
"""A sandbox, its id, `ID@STEP`, or a point."""


@dataclass(frozen=True)
class FileAt:
    """A file that is in one of both only; bytes."""

    path: str
    size: int = 0


@dataclass(frozen=True)
class FileChange:
    """A file that is in both and not the same. `reason` is `kind`, `size`, `mode`, `link` or `content`, or
    `mtime` when its time differs and its bytes were not compared.
    """

    path: str
    size_a: int = 0
    size_b: int = 0
    reason: str = ""


@dataclass(frozen=True)
class ProcessAt:
    """A process of the guest and its command line."""

    pid: int
    command: str = ""


@dataclass(frozen=True)
class PortAt:
    """A TCP port on which something listens."""

    port: int
    address: str = ""


@dataclass(frozen=True)
class Diff:
    """What leads from the first point to the second, by path, pid and port. `truncated`: there is more."""

    added: tuple[FileAt, ...] = ()
    removed: tuple[FileAt, ...] = ()
    changed: tuple[FileChange, ...] = ()
    started: tuple[ProcessAt, ...] = ()
    ended: tuple[ProcessAt, ...] = ()
    opened: tuple[PortAt, ...] = ()
    closed: tuple[PortAt, ...] = ()
    truncated: bool = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Diff:
        """Read the answer of a server."""
        files, processes, ports = (data.get(name) or {} for name in ("files", "processes", "ports"))
        return cls(
            added=tuple(take(FileAt, each) for each in files.get("added") or ()),
            removed=tuple(take(FileAt, each) for each in files.get("removed") or ()),
            changed=tuple(take(FileChange, each) for each in files.get("changed") or ()),
            started=tuple(take(ProcessAt, each) for each in processes.get("started") or ()),
            ended=tuple(take(ProcessAt, each) for each in processes.get("ended") or ()),
            opened=tuple(take(PortAt, each) for each in ports.get("opened") or ()),
            closed=tuple(take(PortAt, each) for each in ports.get("closed") or ()),
            truncated=bool(data.get("truncated")),
        )


def diff_call(a: Place, b: Place, path: str, limit: int | None) -> _wire.Call:
    """The request for what leads from one point to another."""
    points = {name: _wire.clean(**vars(Point.of(place))) for name, place in (("a", a), ("b", b))}
    body = {**points, **_wire.clean(path=path, limit=limit)}
    return _wire.Call(method="POST", path="/diff", json=body, read_timeout=_wire.SNAPSHOT_SECONDS)
