"""A sandbox: one microVM and what its owner may know of it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from msgspec import Struct, field


class SandboxState(StrEnum):
    """Where a sandbox stands. FAILED and DELETED are final."""

    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"
    HIBERNATED = "hibernated"
    STOPPING = "stopping"
    FAILED = "failed"
    DELETED = "deleted"


MOVES: dict[SandboxState, frozenset[SandboxState]] = {
    SandboxState.CREATING: frozenset({SandboxState.RUNNING, SandboxState.FAILED, SandboxState.STOPPING}),
    SandboxState.RUNNING: frozenset({SandboxState.PAUSED, SandboxState.FAILED, SandboxState.STOPPING}),
    SandboxState.PAUSED: frozenset({SandboxState.RUNNING, SandboxState.FAILED, SandboxState.STOPPING}),
    SandboxState.HIBERNATED: frozenset({SandboxState.RUNNING, SandboxState.FAILED, SandboxState.STOPPING}),
    SandboxState.STOPPING: frozenset({SandboxState.DELETED}),
    SandboxState.FAILED: frozenset({SandboxState.STOPPING, SandboxState.DELETED}),
    SandboxState.DELETED: frozenset(),
}
"""Legal moves; every change of state is a guarded UPDATE from one of these."""

ALIVE = frozenset({SandboxState.CREATING, SandboxState.RUNNING, SandboxState.PAUSED, SandboxState.STOPPING})
"""States in which a host may hold something for the sandbox."""


class Isolation(StrEnum):
    """What stands between the guest and the host.

    EMULATED: software emulation, which QEMU's own policy does not call a security boundary. NONE: the process
    driver of the tests.
    """

    HARDWARE = "hardware"
    EMULATED = "emulated"
    NONE = "none"


class SandboxCreate(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `POST /v1/sandboxes`. Sizes are the template's; a different one is refused."""

    template: str = "code-interpreter"
    from_snapshot: str | None = None
    metadata: dict[str, str] = {}
    ttl_seconds: int | None = None
    persistent: bool = False
    cpu: int | None = None
    vcpus: int | None = None
    memory_mb: int | None = None
    disk_gb: int | None = None
    env: dict[str, str] = {}
    volumes: list[dict[str, object]] = []


class Sandbox(Struct, frozen=True):
    """A sandbox as its owner sees it. `boot_ms` and `phases_ms` are milliseconds of the create that made
    it.
    """

    id: str
    template: str
    status: SandboxState
    cpu: int
    memory_mb: int
    created_at: datetime
    workspace: str
    host: str
    isolation: Isolation
    metadata: dict[str, str] = {}
    persistent: bool = False
    ttl_seconds: int = 300
    boot_ms: int = 0
    boot_mode: str = ""
    phases_ms: dict[str, float] = {}
    guest_ip: str = ""
    from_snapshot: str | None = None
    cause: str | None = None
    """Why it is dead, in one sentence; None while it lives."""
    ended_at: datetime | None = None


class Lifecycle(Struct, frozen=True):
    """How long a sandbox may idle. `ttl_seconds` counts from the last activity, running commands count as
    such.
    """

    ttl_seconds: int
    persistent: bool
    idle_seconds: int


class LifecycleChange(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PATCH …/lifecycle`; what is None stays."""

    ttl_seconds: int | None = None
    persistent: bool | None = None


class Event(Struct, frozen=True):
    """One line of a sandbox's history."""

    time: datetime
    sandbox_id: str
    type: str
    payload: dict[str, object] = field(default_factory=dict)
