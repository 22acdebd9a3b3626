"""A build: a template on its way from a Dockerfile, an OCI image or a root file system to a snapshot."""

from __future__ import annotations

import posixpath
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct, structs

from pandastack.errors import InvalidRequest
from pandastack.model.comparison import Comparison, Package
from pandastack.model.dockerfile import pinned_dockerfile
from pandastack.model.egress import Egress
from pandastack.model.image import Ready, Seconds

SIZE_MB, MOST_SIZE_MB = 1024, 16_384
CPU, MEMORY_MB = 1, 512
TIMEOUT_SECONDS = 1800.0

TemplateName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Tag = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9._-]{0,31}$")]


class BuildForm(StrEnum):
    """What a template is built of."""

    ROOTFS = "rootfs"
    IMAGE = "image"
    DOCKERFILE = "dockerfile"


class BuildStatus(StrEnum):
    """Where a build stands. DONE and FAILED are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    BAKING = "baking"
    DONE = "done"
    FAILED = "failed"


ENDED = (BuildStatus.DONE, BuildStatus.FAILED)


class BuildWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of the form of `POST /v1/templates/build`. MiB.

    `image_ref` builds of an OCI image, `dockerfile` (its text) of that with the files of the form for a
    context, and neither of the file `rootfs`, a tar.
    """

    name: TemplateName
    image_ref: (
        Annotated[str, Meta(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")] | None
    ) = None
    dockerfile: Annotated[str, Meta(min_length=1, max_length=1 << 20)] | None = None
    context_format: Annotated[str, Meta(pattern=r"^(files|tar)$")] = "files"
    """`tar`: the one file of the form is the context, as a tar."""
    size_mb: Annotated[int, Meta(ge=32, le=MOST_SIZE_MB)] = SIZE_MB
    cpu: Annotated[int, Meta(ge=1, le=64)] = CPU
    memory_mb: Annotated[int, Meta(ge=128, le=65_536)] = MEMORY_MB
    replace: bool = False
    """Have a template of this name get a further version; without it, it is refused."""
    tag: Tag | None = None
    """A further name of what is built."""
    kernel: str | None = None
    """Taken for the sake of other clients: all guests have this server's kernel."""
    start: Annotated[str, Meta(min_length=1, max_length=8192)] | None = None
    """A shell line that runs on from the snapshot; without it what the image says it starts."""
    ready: Annotated[str, Meta(min_length=1, max_length=8192)] | None = None
    """A shell line that must succeed before the snapshot; it is repeated until it does."""
    ready_timeout_seconds: Seconds = 60.0
    build_args: dict[str, str] = {}
    """What a Dockerfile declares by ARG."""
    target: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] | None = None
    """The stage of a Dockerfile to stop at."""
    no_cache: bool = False
    insecure: bool = False
    """Take the registry by plain HTTP, or with a certificate that nobody has signed."""
    timeout_seconds: Annotated[float, Meta(ge=10, le=6 * 3600)] = TIMEOUT_SECONDS
    egress: Egress = Egress()
    """What the build may reach."""

    @property
    def form(self) -> BuildForm:
        if self.dockerfile is not None:
            return BuildForm.DOCKERFILE
        return BuildForm.ROOTFS if self.image_ref is None else BuildForm.IMAGE

    @property
    def readiness(self) -> Ready | None:
        return None if self.ready is None else Ready(self.ready, self.ready_timeout_seconds)


class Credentials(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a build comes in at a registry. In memory alone, and gone with the build."""

    registry: str | None = None
    """Its host, with its port; without one that of the image, or Docker's."""
    username: str | None = None
    password: str | None = None
    ca: str | None = None
    """Certificates (PEM) that its registry may be signed by."""

    def __repr__(self) -> str:
        return "Credentials(…)"


class VerifyWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/templates/{name}/verify`. What comes in at a registry was not kept, and is told
    again; the rest is as it was at the build.
    """

    timeout_seconds: Annotated[float, Meta(ge=10, le=6 * 3600)] | None = None
    registry: str | None = None
    registry_username: str | None = None
    registry_password: str | None = None
    registry_ca: str | None = None

    @property
    def credentials(self) -> Credentials:
        return Credentials(
            registry=self.registry,
            username=self.registry_username,
            password=self.registry_password,
            ca=self.registry_ca,
        )

    def __repr__(self) -> str:
        return "VerifyWish(…)"


class Build(Struct, frozen=True, kw_only=True):
    """A build as its owner sees it. `code` is that of the error, `step` what is being done."""

    id: str
    name: str
    workspace: str
    form: BuildForm
    status: BuildStatus
    created_at: datetime
    size_mb: int
    cpu: int
    memory_mb: int
    version: int = 0
    """Of the template that is to be; none that was ever begun has the same."""
    step: str = ""
    image_ref: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    code: str | None = None
    template: str | None = None
    """What came of it: `name:version`."""
    bytes: int | None = None
    """What the root disk of that takes."""
    verifies: str | None = None
    """The version (`name:version`) that it was built again to be compared with; then no template comes of it.
    """
    comparison: Comparison | None = None
    """What came of that."""


class ImageConfig(Struct, frozen=True):
    """What an OCI image says of how it is run: `config` of the image specification."""

    User: str = ""
    Env: list[str] = []
    Entrypoint: list[str] | None = None
    Cmd: list[str] | None = None
    WorkingDir: str = ""


class OwnTemplate(Struct, frozen=True, kw_only=True):
    """A version of a template of a workspace's own, as it is kept."""

    name: str
    workspace: str
    version: int
    host: str
    cpu: int
    memory_mb: int
    disk_mb: int
    size_bytes: int
    created_at: datetime
    build_id: str
    form: BuildForm
    source: str = ""
    """The image reference with its digest, where it was built of one."""
    content: str = ""
    """SHA-256 over all files with their names, owners and permissions."""
    config: ImageConfig = ImageConfig()
    start: str | None = None
    ready: str | None = None
    packages: list[Package] = []
    deleting: bool = False

    @property
    def exact(self) -> str:
        """What sandboxes of it say that they are of."""
        return f"{self.name}:{self.version}"


class Inputs(Struct, frozen=True, kw_only=True):
    """What a version was built of, by which it can be built again."""

    wish: BuildWish
    bases: dict[str, str] = {}
    """The digest of each image that it was built on, by the name that it was asked for with."""
    archive: str | None = None
    """SHA-256 of the context or the root file system."""
    archive_bytes: int = 0
    listing: str
    """SHA-256 of the list of what came of it, as it is kept."""
    listing_bytes: int = 0

    @property
    def pinned(self) -> BuildWish:
        """The same wish, which finds the same images whatever their tags lead to by now."""
        wish = structs.replace(self.wish, no_cache=True)
        pins = {name: pinned(name, digest) for name, digest in self.bases.items()}
        if wish.image_ref is not None:
            return structs.replace(wish, image_ref=pins.get(wish.image_ref, wish.image_ref))
        if wish.dockerfile is not None:
            text = pinned_dockerfile(wish.dockerfile, wish.build_args, pins)
            return structs.replace(wish, dockerfile=text)
        return wish


def pinned(reference: str, digest: str) -> str:
    """A reference of an image that leads to this digest alone."""
    plain = reference.partition("@")[0]
    head, slash, last = plain.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}@{digest}"


def check_context_name(name: str) -> str:
    """The path of a file of a context, relative and within it. Errors: InvalidRequest."""
    clean = posixpath.normpath(name)
    if not name or "\0" in name or len(name) > 4096 or clean.startswith(("/", "../")) or clean in {"..", "."}:
        raise InvalidRequest(f"A file of the context has a path within it; got {name!r}.")
    return clean
