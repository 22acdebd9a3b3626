"""What a build is asked for with: fields of a form, and files."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple, TypedDict

import msgspec

from pandastack.client._values import EgressPolicy

IN_MEMORY = 1 << 20
"""A larger context is on the disk while it is sent."""


class Part(NamedTuple):
    """A file of a form."""

    field: str
    name: str
    file: IO[bytes]


class BuildOptions(TypedDict, total=False):
    """What can be said of any build. Sizes are MiB."""

    size_mb: int
    """The root disk of the template."""
    cpu: int
    memory_mb: int
    kernel: str
    """Taken for the sake of older programs, and without effect."""
    replace: bool
    """Make a further version of a template that is there."""
    tag: str
    """A further name of what is built, told as `name:tag`."""
    start: str
    """A shell line that runs on in every sandbox; without it what the image says it starts."""
    ready: str
    """A shell line that must succeed before the snapshot is taken."""
    ready_timeout_seconds: float
    build_args: Mapping[str, str]
    target: str
    """The stage of a Dockerfile to stop at."""
    no_cache: bool
    insecure: bool
    """Take the registry by plain HTTP, or with a certificate that nobody has signed."""
    timeout_seconds: float
    egress: EgressPolicy
    """What the build may reach."""
    registry: str
    registry_username: str
    registry_password: str
    registry_ca: str
    """Certificates (PEM) that the registry may be signed by."""


class VerifyOptions(TypedDict, total=False):
    """What can be said of building a version again. How one comes in at a registry was not kept."""

    timeout_seconds: float
    registry: str
    registry_username: str
    registry_password: str
    registry_ca: str
    """Certificates (PEM) that the registry may be signed by."""


def form_fields(name: str, options: BuildOptions, **more: str) -> dict[str, str]:
    """The fields of the form; what is not given is left to the server."""
    told: dict[str, Any] = {"name": name, **options, **more}
    if "registry" in told:
        told["registry_registry"] = told.pop("registry")
    return {key: _text(value) for key, value in told.items() if value is not None}


def dockerfile_text(dockerfile: str) -> str:
    """The text of a Dockerfile that is given by its path or as its text."""
    if "\n" not in dockerfile and Path(dockerfile).is_file():
        return Path(dockerfile).read_text()
    return dockerfile


def rootfs_part(path: Path, stack: ExitStack) -> Part:
    """A root file system, open until `stack` is closed."""
    return Part("rootfs", path.name, stack.enter_context(path.open("rb")))


def context_parts(directory: Path, stack: ExitStack) -> list[Part]:
    """A directory as the context of a build, until `stack` is closed: one tar, with permissions and links."""
    if not directory.is_dir():
        raise FileNotFoundError(f"There is no directory {directory}.")
    file = stack.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115  # the stack closes it
    with tarfile.open(fileobj=file, mode="w") as tar:
        for path in sorted(directory.rglob("*")):
            if path.is_symlink() or path.is_file() or path.is_dir():
                tar.add(path, path.relative_to(directory).as_posix(), recursive=False, filter=_plain)
    file.seek(0)
    return [Part("context", "context.tar", file)]


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without whose it is and when it was changed, which would have layers be made anew."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    return msgspec.json.encode(value).decode()
