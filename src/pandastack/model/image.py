"""Templates and the machines they describe."""

from __future__ import annotations

import hashlib
from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0, le=3600)]
OWN = "t-"
"""How hosts call images that tenants have made: with this before the rest, as no template's folder is
called.
"""


class Ready(Struct, frozen=True, forbid_unknown_fields=True):
    """A shell line that must exit 0 in the guest before the snapshot is taken; it is repeated until it
    does.
    """

    command: str
    timeout_seconds: Seconds = 60.0


class ImageSpec(Struct, frozen=True, kw_only=True):
    """An order for an image of a root file system that lies on a volume. MiB."""

    id: str
    """What its host calls it: see `image_of`."""
    volume: str
    """The volume, which is as large as the root disk is to be, and nobody's any more afterwards."""
    cpu: int
    memory_mb: int
    disk_mb: int
    env: dict[str, str] = {}
    """The default environment of every command."""
    user: str | None = None
    """As whom commands run that name nobody."""
    workdir: str | None = None
    start: str | None = None
    """A shell line that runs on in the guest from the bake."""
    ready: Ready | None = None


class Template(Struct, frozen=True):
    """A template as its users see it. Sizes are bytes and MiB; `digest` names the image's inputs."""

    name: str
    cpu: int
    memory_mb: int
    disk_mb: int
    digest: str
    size_bytes: int = 0
    baked: bool = False
    is_global: bool = True
    label: str = ""
    description: str = ""
    category: str = ""
    base: str = ""
    tools: list[str] = []
    on_demand: bool = False
    """It is made ready when it is first wanted, not when a server starts."""
    version: int | None = None
    """Of one that its owner has built: each build's is higher than that of all before."""
    tags: list[str] = []
    """Further names of this version, told as `name:tag`."""


def image_of(workspace: str, template: str) -> str:
    """What hosts call the image of a template. One of a workspace's own is told as `name:version`, and is no
    other workspace's.
    """
    if ":" not in template:
        return template
    return OWN + hashlib.sha256(f"{workspace}\0{template}".encode()).hexdigest()[:32]


class Size(Struct, frozen=True):
    """What a machine has. MiB."""

    cpu: int
    memory_mb: int
    disk_mb: int


def variant_of(image: str, size: Size) -> str:
    """What hosts call an image with machines of another size than its own."""
    return f"{image}+{size.cpu}-{size.memory_mb}-{size.disk_mb}"


def parted(name: str) -> tuple[str, Size | None]:
    """The image that hosts call so, and the size when that is not its own."""
    image, _, size = name.partition("+")
    return image, Size(*map(int, size.split("-"))) if size else None


def is_own(image: str) -> bool:
    """Whether it is one that a tenant has made."""
    return image.startswith(OWN)
