"""What the verbs of the SDK give back.

Frozen dataclasses rather than the structs of `pandastack.model`: programs take these apart with
`dataclasses`, and a client must read the answers of older and newer servers, so a missing field has a default
and an unknown one is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NotRequired, TypedDict, TypeVar

T = TypeVar("T")


def take(cls: type[T], data: Mapping[str, Any]) -> T:
    """An instance of the dataclass `cls` from those of its fields that `data` has and that are not null."""
    names = (field.name for field in fields(cls))  # type: ignore[arg-type]  # every caller passes a dataclass
    return cls(**{name: data[name] for name in names if data.get(name) is not None})


class Lifecycle(TypedDict):
    """How long a sandbox may idle and live, in seconds. None is no limit; a hibernated one does not age."""

    ttl_seconds: int
    """Idle so long, it is ended, unless it is persistent."""
    persistent: bool
    idle_seconds: int
    idle_timeout_seconds: int | None
    """Idle so long, a persistent one is hibernated."""
    on_timeout: str
    """What becomes of it at the end of its time: `kill` or `hibernate`."""
    lifetime_seconds: int | None
    """So long it may be awake in all, used or not."""
    expires_at: str | None
    """When that is over; None while it is hibernated."""
    checkpoints: str
    """`exec`: its state is kept behind each command."""
    keep_checkpoints: int
    """So many of those without a name stay."""


class EgressPolicy(TypedDict, total=False):
    """What a sandbox may reach. With any allow list everything else is denied; a deny list wins."""

    internet: str
    """`on`, or `off` for nothing at all."""
    allow_cidrs: list[str]
    deny_cidrs: list[str]
    allow_domains: list[str]
    """Names, `*.example.com` for all below one, `*`."""
    deny_domains: list[str]
    ports: list[int | str]
    """Numbers and ranges such as `8000-8100`; without any all but those of mail."""
    bandwidth_mbps: float | None
    max_connections: int


class EgressReceipt(TypedDict):
    """What went to one destination, or was kept from it, under one rule. Bytes are the guest's own."""

    protocol: str
    name: str | None
    address: str | None
    port: int
    rule: str
    allowed: bool
    first_at: str
    last_at: str
    bytes_out: NotRequired[int]
    bytes_in: NotRequired[int]
    connections: NotRequired[int]


class EgressTrial(TypedDict):
    """What a policy would have blocked, and one that allows just what was reached."""

    blocked: list[EgressReceipt]
    suggestion: EgressPolicy


class NewSecret(TypedDict):
    """A secret to be: its value, and the names of the hosts whose requests it is put into, `*.example.com`
    for all below one. With `headers` only there.
    """

    value: str
    hosts: Sequence[str]
    headers: NotRequired[Sequence[str]]


class Secret(TypedDict):
    """A secret, without its value. Commands have `placeholder` in the variable `name`."""

    name: str
    hosts: list[str]
    placeholder: str
    created_at: str
    changed_at: str
    headers: list[str]


class TerminalInfo(TypedDict):
    """A terminal that runs, or has ended and is remembered; `exit_code` is 128+n for signal n."""

    name: str
    command: str
    pid: int
    started_at: str
    running: bool
    exit_code: int | None
    viewers: int
    """How many look at it."""


class AwakeReason(TypedDict):
    """One thing that keeps a sandbox up, and since when."""

    kind: str
    detail: str
    since: NotRequired[str]


class WhyAwake(TypedDict):
    """What keeps a sandbox up, and when it would sleep or end if nothing did."""

    status: str
    awake: bool
    reasons: list[AwakeReason]
    idle_seconds: int
    sleeps_in_seconds: int | None


class RestoreProof(TypedDict):
    """What was renewed in a sandbox before it could be used. Times are milliseconds."""

    origin: str
    """What was restored: `template`, or the id of a snapshot."""
    entropy_bytes: int
    """Fresh random bytes that its kernel was reseeded with."""
    boot_id: str
    machine_id: str
    hostname: str
    clock_step_ms: float
    hooks_run: int
    """Programs of `/etc/pandastack/on-restore.d` that ended well."""
    hooks_failed: list[str]
    gate_ms: float
    driver: str
    driver_version: str
    accel: str
    cpu: str


class Written(TypedDict):
    """What a write did: where, and how many bytes."""

    path: str
    bytes: int


class Metrics(TypedDict):
    """Counters of the process that runs the machine, on its host."""

    pid: int
    uptime_seconds: float
    host_cpu_percent: float
    host_rss_bytes: int
    host_vsz_bytes: int
    threads: int


@dataclass(frozen=True)
class ExecResult:
    """What a command printed and how it ended; `duration_ms` was measured next to the command."""

    stdout: str
    stderr: str
    exit_code: int
    duration_ms: int = 0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExecResult:
        """Read the answer of any server, old field names included."""
        return cls(
            stdout=str(data.get("stdout") or ""),
            stderr=str(data.get("stderr") or ""),
            exit_code=int(data.get("exit_code", data.get("exit", 0))),
            duration_ms=int(data.get("duration_ms") or 0),
        )


@dataclass(frozen=True)
class FileInfo:
    """A file or directory. `mode` is the type letter of find(1), `permissions` the mode bits, `mtime` Unix
    seconds.
    """

    name: str
    path: str
    is_dir: bool
    size: int = 0
    mode: str = ""
    mtime: int = 0
    permissions: int | None = None
    uid: int | None = None
    gid: int | None = None
    link: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], parent: str = "") -> FileInfo:
        """Read one entry; without a path of its own it lies directly in `parent`."""
        name = str(data.get("name") or "")
        path = str(data.get("path") or (f"{parent.rstrip('/')}/{name}" if parent else name))
        bits = data.get("permissions")
        permissions = int(bits, 8) if isinstance(bits, str) else bits
        return take(cls, {"is_dir": False, **data, "name": name, "path": path, "permissions": permissions})


@dataclass(frozen=True)
class FileEvent:
    """A change below a watched path: create, modify, remove, move, attrib or overflow (events were lost)."""

    name: str
    event: str


@dataclass(frozen=True)
class ProcessOutput:
    """A piece of a process's output; `stream` is "stdout" or "stderr"."""

    stream: str
    text: str


@dataclass(frozen=True)
class ProcessInfo:
    """A background process that the sandbox remembers; `id` is what re-attaches to it."""

    id: str
    pid: int
    command: str = ""
    running: bool = True
    exit_code: int | None = None
    tty: bool = False
    started_ns: int | None = None
    """When, on the guest's clock: nanoseconds since 1970."""
    stdin: bool = False
    """Whether it takes input."""


@dataclass(frozen=True)
class Event:
    """One line of a sandbox's history."""

    time: str
    sandbox_id: str
    type: str
    payload: dict[str, Any] | None = None


@dataclass(frozen=True)
class Token:
    """An API token. `token` is the secret, which only the answer of its creation carries."""

    prefix: str
    name: str = ""
    token: str | None = None
    created_at: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Token:
        """Read one token; servers call its name `label` or `name`."""
        return take(cls, {"prefix": "", **data, "name": data.get("name") or data.get("label")})


class VolumeAttachment(TypedDict):
    """Who has a volume, where."""

    sandbox_id: str
    path: str
    read_only: bool
    since: str


class Volume(TypedDict):
    """A volume, as the server tells it."""

    id: str
    name: str
    size_mb: int
    """What it may hold."""
    size_bytes: int
    """What it takes on its host's disk now."""
    created_at: str
    frozen: bool
    """A snapshot: it is never written."""
    source: str | None
    """What it was copied from."""
    attachments: list[VolumeAttachment]


class Backup(TypedDict):
    """A backup of a volume, as the server tells it. Sizes are bytes and MiB."""

    id: str
    volume: str
    """The name of the volume, as that was called then."""
    status: str
    """`saving`, `ready` or `failed`."""
    size_mb: int
    created_at: str
    """The moment that it is of."""
    total_bytes: int
    done_bytes: int
    """So many of `total_bytes` have been read."""
    stored_bytes: int
    """What it took where blobs are beyond what was there."""
    digest: str
    ended_at: str | None
    verified_at: str | None
    damaged: list[str]
    """What was found wrong when all of it was last read."""
    error: str | None


@dataclass(frozen=True)
class Template:
    """A template as the server lists it. Sizes are bytes and MiB."""

    name: str
    rootfs_path: str | None = None
    size_bytes: int | None = None
    cpu: int | None = None
    memory_mb: int | None = None
    is_global: bool | None = None
    workspace: str | None = None
    label: str | None = None
    description: str | None = None
    category: str | None = None
    base: str | None = None
    tools: list[str] | None = None
    meta: dict[str, Any] | None = None
    disk_mb: int | None = None
    digest: str | None = None
    baked: bool | None = None
    version: int | None = None
    """Of one of the workspace's own."""
    tags: list[str] | None = None
    """Further names of this version, told as `name:tag`."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Template:
        """Read one template."""
        return take(cls, {"name": "", **data})


@dataclass(frozen=True)
class TemplateDifference:
    """A path that a second build has otherwise: `how` is added, removed or changed; `trace` where every build
    leaves traces of when it was done, such as logs and caches.
    """

    path: str
    how: str
    trace: bool


@dataclass(frozen=True)
class PackageChange:
    """A package that a second build has in another version; None where it is not there at all."""

    kind: str
    name: str
    was: str | None = None
    now: str | None = None


@dataclass(frozen=True)
class TemplateComparison:
    """What a second build of the same inputs came to. Of the differences the first hundred of each kind are
    told.
    """

    result: str
    """`identical`; `alike`: only traces differ; `differs`."""
    content: str
    """The hash over all files that the second build has."""
    paths: int = 0
    """How many paths differ beside traces."""
    traces: int = 0
    differences: Sequence[TemplateDifference] = ()
    packages: Sequence[PackageChange] = ()

    @property
    def is_reproduced(self) -> bool:
        """Whether nothing differs but traces."""
        return self.result in {"identical", "alike"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TemplateComparison:
        """Read one comparison."""
        differences = [take(TemplateDifference, each) for each in data.get("differences", [])]
        packages = [take(PackageChange, each) for each in data.get("packages", [])]
        return take(cls, {**data, "differences": differences, "packages": packages})


@dataclass(frozen=True)
class TemplateBuild:
    """A build as it stands: `step` is what is being done, `template` what came of it, as `name:version`."""

    id: str
    name: str
    status: str
    error: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    size_mb: int | None = None
    bytes: int | None = None
    image_ref: str | None = None
    cpu: int | None = None
    memory_mb: int | None = None
    step: str | None = None
    code: str | None = None
    template: str | None = None
    version: int | None = None
    verifies: str | None = None
    """The version that it was built again to be compared with: then no template comes of it."""
    comparison: TemplateComparison | None = None
    """What came of that."""

    @property
    def is_done(self) -> bool:
        """Whether the template is there, or the comparison."""
        return self.status == "done"

    @property
    def is_failed(self) -> bool:
        """Whether it ended without one; `error` says why."""
        return self.status == "failed"

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self.is_done or self.is_failed

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TemplateBuild:
        """Read one build."""
        found = data.get("comparison")
        told = None if found is None else TemplateComparison.from_dict(found)
        return take(cls, {"id": "", "name": "", "status": "", **data, "comparison": told})
