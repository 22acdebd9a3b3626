"""What a create may ask for."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from pandastack.errors import InvalidRequest, NotSupported
from pandastack.model.egress import Egress
from pandastack.model.host import Networks
from pandastack.model.image import Template
from pandastack.model.sandbox import Checkpoints, SandboxCreate
from pandastack.model.secret import check_names

METADATA_KEYS = 64
METADATA_BYTES = 16 << 10
ENV_BYTES = 64 << 10
TTL_MOST = 366 * 86_400


class Sizes(Struct, frozen=True):
    """What every sandbox of a template or snapshot has. MiB; `disk_mb` is None where nobody knows it."""

    template: str
    cpu: int
    memory_mb: int
    disk_mb: int | None = None

    @classmethod
    def of(cls, template: Template) -> Sizes:
        """Those of a template."""
        return cls(template.name, template.cpu, template.memory_mb, template.disk_mb)


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
    _check_size("cpu", request.cpu, sizes.cpu, sizes.template)
    _check_size("vcpus", request.vcpus, sizes.cpu, sizes.template)
    _check_size("memory_mb", request.memory_mb, sizes.memory_mb, sizes.template)
    if request.disk_gb is not None and sizes.disk_mb is not None:
        _check_disk(request.disk_gb, sizes.template, sizes.disk_mb)
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


def _check_disk(asked: int, template: str, given: int) -> None:
    if not 0 < asked * 1024 <= given:
        raise InvalidRequest(
            f"disk_gb is {asked}, and template {template!r} has {given} MiB, "
            "which a restore cannot change. Leave disk_gb out or use a template with a larger disk."
        )


def _check_size(name: str, asked: int | None, given: int, template: str) -> None:
    if asked is not None and asked != given:
        raise InvalidRequest(
            f"{name} is {asked}, and template {template!r} has {given}: every sandbox is restored from the "
            f"template's snapshot, which has one size. Leave {name} out or use a template of that size."
        )


def _check_env(env: Mapping[str, str]) -> None:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise InvalidRequest(f"env has {name!r}, which cannot be the name of a variable, or a NUL byte.")
    if sum(len(name.encode()) + len(value.encode()) + 2 for name, value in env.items()) > ENV_BYTES:
        raise InvalidRequest(f"env is at most {ENV_BYTES} bytes in all.")
