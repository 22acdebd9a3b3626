"""A sandbox: one microVM and what its owner may know of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, field

from pandastack.model.egress import Egress
from pandastack.model.restore import RestoreProof
from pandastack.model.secret import SecretWish
from pandastack.model.volume import Mount, VolumeWish


class SandboxState(StrEnum):
    """Where a sandbox stands. A HIBERNATED one is an image on its host's disk; DELETED is final.

    There is no state between two: a row changes when the change is done, and until then whoever asks is told
    what was true before.
    """

    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"
    HIBERNATED = "hibernated"
    STOPPING = "stopping"
    FAILED = "failed"
    DELETED = "deleted"


MOVES: dict[SandboxState, frozenset[SandboxState]] = {
    SandboxState.CREATING: frozenset({SandboxState.RUNNING, SandboxState.FAILED, SandboxState.STOPPING}),
    SandboxState.RUNNING: frozenset(
        {SandboxState.PAUSED, SandboxState.HIBERNATED, SandboxState.FAILED, SandboxState.STOPPING}
    ),
    SandboxState.PAUSED: frozenset(
        {SandboxState.RUNNING, SandboxState.HIBERNATED, SandboxState.FAILED, SandboxState.STOPPING}
    ),
    SandboxState.HIBERNATED: frozenset({SandboxState.RUNNING, SandboxState.FAILED, SandboxState.STOPPING}),
    SandboxState.STOPPING: frozenset({SandboxState.DELETED}),
    SandboxState.FAILED: frozenset(
        {SandboxState.RUNNING, SandboxState.HIBERNATED, SandboxState.STOPPING, SandboxState.DELETED}
    ),
    SandboxState.DELETED: frozenset(),
}
"""Legal moves; every change of state is a guarded UPDATE from one of these. FAILED is left alive only by a
rollback to an image, and by a hibernation whose image was whole when the machine died.
"""

AWAKE = frozenset({SandboxState.RUNNING, SandboxState.PAUSED})
"""States in which its machine stands: what can be snapshotted, and what a lifetime counts."""

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


class OnTimeout(StrEnum):
    """What becomes of a sandbox that idled or lived too long."""

    KILL = "kill"
    HIBERNATE = "hibernate"


class Checkpoints(StrEnum):
    """What is kept of a sandbox by itself. EXEC: its state behind each command."""

    OFF = "off"
    EXEC = "exec"


KeptCheckpoints = Annotated[int, Meta(ge=1, le=200)]
KEPT_CHECKPOINTS = 20

Lifetime = Annotated[int, Meta(ge=1, le=366 * 86_400)]
IdleTimeout = Annotated[int, Meta(ge=1, le=366 * 86_400)]


class SandboxCreate(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `POST /v1/sandboxes`. Sizes that are not given are the template's; others are raised to the
    next step that there is, and are baked when they are first asked for.

    With `from_snapshot` the sandbox goes on where the snapshot was taken, and `template` is ignored; with
    `disk_only` too it boots from the snapshot's disk, without what was in memory. Times
    are seconds: after `ttl_seconds` of idleness one that is not persistent is ended (or hibernated, as
    `on_timeout` says), after `idle_timeout_seconds` a persistent one is hibernated, and `lifetime_seconds` is
    the hard limit, counted while it is awake. With `checkpoints` "exec" its state is kept behind each
    command, of which the newest `keep_checkpoints` stay, and all that were given a name.
    """

    template: str = "code-interpreter"
    from_snapshot: str | None = None
    disk_only: bool = False
    metadata: dict[str, str] = {}
    ttl_seconds: int | None = None
    persistent: bool = False
    on_timeout: OnTimeout = OnTimeout.KILL
    idle_timeout_seconds: IdleTimeout | None = None
    lifetime_seconds: Lifetime | None = None
    checkpoints: Checkpoints = Checkpoints.OFF
    keep_checkpoints: KeptCheckpoints = KEPT_CHECKPOINTS
    cpu: int | None = None
    vcpus: int | None = None
    memory_mb: int | None = None
    disk_gb: int | None = None
    env: dict[str, str] = {}
    volumes: list[VolumeWish] = []
    """Volumes of the workspace, and where they are mounted."""
    egress: Egress | None = None
    """What it may reach; without it everything but private networks, or what its snapshot's sandbox may."""
    secrets: dict[str, SecretWish] = {}
    """Values that are put into its requests to their hosts, by the names of the variables that stand for
    them. A snapshot has none.
    """


class Sandbox(Struct, frozen=True):
    """A sandbox as its owner sees it. `boot_mode`, `boot_ms` and `phases_ms` are of its last coming up, in
    milliseconds: the create, the wake or the rollback. The mode is `snapshot` when it went on, memory
    included, and `cold` when it booted: of a state only the disk is there.
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
    degraded: list[str] | None = None
    """What the jail of its machine lacks, one reason each, since it last came up; None when all is there."""
    metadata: dict[str, str] = {}
    persistent: bool = False
    ttl_seconds: int = 300
    boot_ms: int = 0
    boot_mode: str = ""
    phases_ms: dict[str, float] = {}
    guest_ip: str = ""
    from_snapshot: str | None = None
    """The snapshot that it was made from; of a fork the one that was taken for it, which is gone since."""
    parent_id: str | None = None
    """The sandbox that it was forked from, or whose snapshot it was made from."""
    tree_id: str | None = None
    """The fork tree whose siblings a promotion of it removes."""
    snapshot_id: str | None = None
    """Its last hibernation image: where a hibernated one goes on, and what one that died can go back to."""
    on_timeout: OnTimeout = OnTimeout.KILL
    idle_timeout_seconds: int | None = None
    lifetime_seconds: int | None = None
    used_seconds: float = 0.0
    """How much of its lifetime had gone by when it was last woken."""
    awake_since: datetime | None = None
    restore_proof: RestoreProof | None = None
    """What its restore renewed."""
    checkpoints: Checkpoints = Checkpoints.OFF
    keep_checkpoints: int = KEPT_CHECKPOINTS
    egress: Egress = Egress()
    """What it may reach."""
    volumes: list[Mount] = []
    """What is mounted in it that outlives it."""
    cause: str | None = None
    """Why it is dead, in one sentence; None while it lives."""
    ended_at: datetime | None = None

    def used_by(self, now: datetime) -> float:
        """The seconds of its lifetime that have gone by; they stand still while it is hibernated."""
        if self.awake_since is None:
            return self.used_seconds
        return self.used_seconds + max(0.0, ((self.ended_at or now) - self.awake_since).total_seconds())

    def ends_by(self) -> datetime | None:
        """When its lifetime is over; None for one without, or while the clock stands still."""
        if self.lifetime_seconds is None or self.awake_since is None or self.status not in AWAKE:
            return None
        return self.awake_since + timedelta(seconds=self.lifetime_seconds - self.used_seconds)


class Lifecycle(Struct, frozen=True):
    """How long a sandbox may idle and live. `ttl_seconds` and `idle_timeout_seconds` count from the last
    activity; running commands count as such, and nothing counts while it is hibernated.
    """

    ttl_seconds: int
    persistent: bool
    idle_seconds: int
    idle_timeout_seconds: int | None
    on_timeout: OnTimeout
    lifetime_seconds: int | None
    expires_at: datetime | None
    checkpoints: Checkpoints
    keep_checkpoints: int


class LifecycleChange(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PATCH …/lifecycle`; what is left out stays. The two that may be null are switched off by
    it.
    """

    ttl_seconds: int | None = None
    persistent: bool | None = None
    on_timeout: OnTimeout | None = None
    checkpoints: Checkpoints | None = None
    keep_checkpoints: KeptCheckpoints | None = None
    idle_timeout_seconds: IdleTimeout | UnsetType | None = UNSET
    lifetime_seconds: Lifetime | UnsetType | None = UNSET


class AwakeReason(Struct, frozen=True, omit_defaults=True):
    """One thing that keeps a sandbox awake. `kind` is exec, stream, terminal, transfer, recent_use,
    persistent or no_timeout.
    """

    kind: str
    detail: str
    since: datetime | None = None


class WhyAwake(Struct, frozen=True):
    """What keeps a sandbox awake, and when it will be put to sleep or ended if nothing happens until then."""

    status: SandboxState
    awake: bool
    reasons: list[AwakeReason]
    idle_seconds: int
    sleeps_in_seconds: int | None


class TreeNode(Struct, frozen=True):
    """A sandbox in its lineage. `via_snapshot` is where it branched off from its parent; `promoted` is the
    winner of its fork tree.
    """

    id: str
    parent_id: str | None
    status: SandboxState
    template: str
    created_at: datetime
    tree_id: str | None
    via_snapshot: str | None
    promoted: bool = False


class Lineage(Struct, frozen=True):
    """All that one sandbox became, oldest first. The `root` itself may have been forgotten."""

    root: str
    nodes: list[TreeNode]


class Event(Struct, frozen=True):
    """One line of a sandbox's history."""

    time: datetime
    sandbox_id: str
    type: str
    payload: dict[str, object] = field(default_factory=dict)
