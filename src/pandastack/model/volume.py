"""A volume: a disk that outlives the sandboxes it is attached to."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from pandastack.errors import InvalidRequest

MOST_MOUNTS = 4
"""Volumes that one sandbox may have at a time: so many drives wait empty in every machine."""
SIZE_MB, LEAST_MB, MOST_MB = 256, 16, 65_536

VolumeName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$")]
SizeMb = Annotated[int, Meta(ge=LEAST_MB, le=MOST_MB)]

_COVERED = re.compile(r"/(proc|sys|dev|run|boot)(/.*)?|/")
"""Where nothing may be mounted: without them a machine does not work."""


class VolumeState(StrEnum):
    """Where a volume stands. Only a READY one was ever acknowledged."""

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"


class Mount(Struct, frozen=True):
    """A volume as a sandbox has it."""

    id: str
    name: str
    path: str
    read_only: bool = False
    generation: int = 0
    """Of its writer: each one's is higher than that of all before, and a host heeds none but the highest."""


class VolumeWish(Struct, frozen=True, forbid_unknown_fields=True):
    """A volume that a sandbox is to have, mounted at `path`; without one at `/mnt/NAME`."""

    name: VolumeName
    path: str | None = None
    read_only: bool = False

    @property
    def place(self) -> str:
        return self.path or f"/mnt/{self.name}"


class VolumeCreate(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/volumes`. The size is MiB, and may grow later. With `from_volume` it has what
    that one has now, with `from_backup` (an id) what a volume had then; and at least that one's size, which
    it has without a size of its own.
    """

    name: VolumeName
    size_mb: SizeMb | None = None
    from_volume: VolumeName | None = None
    from_backup: Annotated[str, Meta(max_length=64)] | None = None


class VolumeSnapshot(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/volumes/{name}/snapshots`: what it is to be called."""

    name: VolumeName


class VolumeChange(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PATCH /v1/volumes/{name}`: its new size in MiB, which is no less than it was."""

    size_mb: SizeMb


class Attachment(Struct, frozen=True):
    """Who has a volume, where."""

    sandbox_id: str
    path: str
    read_only: bool
    since: datetime


class Volume(Struct, frozen=True):
    """A volume as its owner sees it. `size_mb` is what it may hold, `size_bytes` what it takes on its host's
    disk now.
    """

    id: str
    name: str
    workspace: str
    host: str
    state: VolumeState
    size_mb: int
    created_at: datetime
    size_bytes: int = 0
    generation: int = 0
    frozen: bool = False
    """It is a snapshot: it can be read and copied, and nobody writes it any more."""
    source: str | None = None
    """The name of the volume that it was copied from, as that was called then."""
    attachments: list[Attachment] = []


class VolumeLimits(Struct, frozen=True):
    """How many MiB all volumes of a workspace may hold together; None is no limit."""

    size_mb: int | None = None


class VolumeUsage(Struct, frozen=True):
    """How many volumes a workspace has, and how many MiB they may hold together."""

    volumes: int
    size_mb: int


class VolumeQuota(Struct, frozen=True):
    """What a workspace may have of volumes, and has."""

    limits: VolumeLimits
    used: VolumeUsage


def check_wishes(wishes: Sequence[VolumeWish]) -> None:
    """Errors: InvalidRequest for what cannot be mounted, or not together."""
    if len(wishes) > MOST_MOUNTS:
        raise InvalidRequest(f"A sandbox can have {MOST_MOUNTS} volumes; {len(wishes)} are asked for.")
    names, places = [wish.name for wish in wishes], [wish.place for wish in wishes]
    for place in places:
        check_place(place)
    for what, asked in (("volume", names), ("path", places)):
        if twice := next((each for each in asked if asked.count(each) > 1), None):
            raise InvalidRequest(f"The {what} {twice!r} is asked for twice.")


def check_place(path: str) -> None:
    """Errors: InvalidRequest for a path where no volume can be mounted."""
    if not path.startswith("/") or "\0" in path or posixpath.normpath(path) != path or len(path) > 1024:
        raise InvalidRequest(f"A volume is mounted at an absolute path without `..`; got {path!r}.")
    if _COVERED.fullmatch(path):
        raise InvalidRequest(f"A volume cannot be mounted at {path!r}: the machine needs what is there.")
