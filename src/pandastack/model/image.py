"""Templates and the machines they describe."""

from __future__ import annotations

from msgspec import Struct


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
