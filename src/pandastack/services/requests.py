"""What a create may ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from pandastack.errors import InvalidRequest, NotSupported
from pandastack.model.egress import Egress
from pandastack.model.host import Networks
from pandastack.model.image import Size, Template
from pandastack.model.sandbox import Checkpoints, SandboxCreate
from pandastack.model.secret import check_names

METADATA_KEYS = 64
METADATA_BYTES = 16 << 10
ENV_BYTES = 64 << 10
TTL_MOST = 366 * 86_400
CPUS = (1, 2, 4, 8)
MEMORY_MB = (256, 512, 1024, 2048, 4096, 8192, 16_384)
DISK_MB = (1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
"""The sizes that a sandbox can have beside its template's own: what is asked for is raised to the next."""


class Sizes(Struct, frozen=True):
    """What every sandbox of a template or snapshot has. MiB; `disk_mb` is None where nobody knows it."""

    template: str
    cpu: int
    memory_mb: int
    disk_mb: int | None = None

    variant: Size | None = None
    """What is asked of its template that is not the template's own."""

    @classmethod
    def of(cls, template: Template, request: SandboxCreate | None = None) -> Sizes:
        """Those of a template, or what is asked for instead. Errors: InvalidRequest."""
        own = Size(template.cpu, template.memory_mb, template.disk_mb)
        size = own if request is None else asked_size(request, own)
        return cls(template.name, size.cpu, size.memory_mb, size.disk_mb, None if size == own else size)


def asked_size(request: SandboxCreate, own: Size) -> Size:
    """What a create asks for, in the steps that there are: a size is baked when it is first wanted. Errors:
    InvalidRequest.
    """
    cpu = request.cpu if request.cpu is not None else request.vcpus
    disk_mb = None if request.disk_gb is None else request.disk_gb << 10
    if disk_mb is not None and disk_mb <= own.disk_mb:
        disk_mb = None if disk_mb > 0 else disk_mb  # the template's is at least as large
    return Size(
        _step("cpu", cpu, own.cpu, CPUS),
        _step("memory_mb", request.memory_mb, own.memory_mb, MEMORY_MB),
        _step("disk_gb", disk_mb, own.disk_mb, DISK_MB),
    )


def _step(name: str, asked: int | None, own: int, steps: Sequence[int]) -> int:
    if asked is None or asked == own:
        return own
    unit = 1024 if name == "disk_gb" else 1
    if not 0 < asked <= steps[-1]:
        raise InvalidRequest(f"{name} is 1 to {steps[-1] // unit}; got {asked // unit}.")
    return next(step for step in steps if step >= asked)


def check_create(request: SandboxCreate, sizes: Sizes) -> None:
    """Errors: InvalidRequest for what cannot be, NotSupported for what this server cannot do yet."""
    if request.volumes and request.checkpoints is not Checkpoints.OFF:
        raise InvalidRequest(
            "checkpoints keep the state of a sandbox, and its volumes would not go back with it: "
            "leave checkpoints or volumes out."
        )
    if request.disk_only and request.from_snapshot is None:
        raise InvalidRequest("disk_only is for a sandbox that is made from a snapshot: say from_snapshot.")
    check_ttl(request.ttl_seconds)
    if request.from_snapshot is not None:
        _check_size("cpu", request.cpu, sizes.cpu)
        _check_size("vcpus", request.vcpus, sizes.cpu)
        _check_size("memory_mb", request.memory_mb, sizes.memory_mb)
    check_metadata(request.metadata)
    _check_env(request.env)


def check_egress(egress: Egress, network: Networks) -> None:
    """Errors: NotSupported for what a host without networks of its own could not keep."""
    if network is Networks.SHARED and egress != Egress():
        raise NotSupported(
            "Machines of this server share its own network, so it cannot keep an egress policy: leave egress "
            "out, or use a server that runs virtual machines."
        )


def check_secrets(secrets: Mapping[str, object], env: Mapping[str, str], network: Networks) -> None:
    """Errors: InvalidRequest for names that cannot be; NotSupported on a host whose machines have no networks
    of their own.
    """
    check_names(secrets, env)
    if network is not Networks.SLOTS:
        raise NotSupported(
            "This server cannot put secrets into what its sandboxes send, since they have no networks of "
            "their own: `pandastack doctor` says why. Leave secrets out."
        )


def check_ttl(seconds: int | None) -> None:
    """Errors: InvalidRequest for less than none and for more than a year."""
    if seconds is not None and not 0 <= seconds <= TTL_MOST:
        raise InvalidRequest(f"ttl_seconds is 0 to {TTL_MOST}; got {seconds}.")


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Errors: InvalidRequest for too many or too large entries."""
    size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    if len(metadata) > METADATA_KEYS or size > METADATA_BYTES:
        raise InvalidRequest(
            f"metadata is at most {METADATA_KEYS} keys and {METADATA_BYTES} bytes in all; "
            f"got {len(metadata)} keys and {size} bytes."
        )


def _check_size(name: str, asked: int | None, given: int) -> None:
    if asked is not None and asked != given:
        raise InvalidRequest(
            f"{name} is {asked}, and the snapshot has {given}: what goes on from it has its size. "
            f"Leave {name} out."
        )


def _check_env(env: Mapping[str, str]) -> None:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise InvalidRequest(f"env has {name!r}, which cannot be the name of a variable, or a NUL byte.")
    if sum(len(name.encode()) + len(value.encode()) + 2 for name, value in env.items()) > ENV_BYTES:
        raise InvalidRequest(f"env is at most {ENV_BYTES} bytes in all.")
