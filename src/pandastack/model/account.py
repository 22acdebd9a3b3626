"""Who asks, and what they may do and use."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum

import msgspec
from msgspec import Struct


class Scope(IntEnum):
    """What a credential may do; each includes the ones before it."""

    PUBLIC = 0
    READ = 1
    USE = 2
    ADMIN = 3


class Caller(Struct, frozen=True):
    """Who a request comes from, and the request itself, as the audit wants to know them."""

    workspace: str
    actor: str
    scope: Scope
    auth_method: str = "token"
    request_id: str = ""
    method: str = ""
    path: str = ""

    def quietly(self) -> Caller:
        """The same caller, whose part in what follows is told by another entry of the audit."""
        return msgspec.structs.replace(self, method="")


class Token(Struct, frozen=True):
    """An API token as its owner sees it; the secret itself is shown once, when it is made."""

    prefix: str
    label: str
    scope: str
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None

    @property
    def name(self) -> str:
        return self.label


class Usage(Struct, frozen=True):
    """What a workspace holds at the moment."""

    sandboxes: int
    vcpus: int
    memory_mb: int


class Limits(Struct, frozen=True):
    """What a workspace may hold; None is no limit."""

    sandboxes: int | None
    vcpus: int | None
    memory_mb: int | None


class SnapshotLimits(Struct, frozen=True):
    """How many snapshots a workspace may keep by name, and how many bytes of all kinds; None is no limit."""

    snapshots: int | None = None
    size_bytes: int | None = None


class SnapshotUsage(Struct, frozen=True):
    """How many snapshots a workspace keeps by name, and the bytes of all kinds."""

    snapshots: int
    size_bytes: int


class SnapshotQuota(Struct, frozen=True):
    """What a workspace may keep of snapshots, and keeps."""

    limits: SnapshotLimits
    used: SnapshotUsage


class AuditEntry(Struct, frozen=True):
    """One mutating request: who asked what, and how it was answered."""

    id: int
    ts: datetime
    workspace: str
    request_id: str
    method: str
    path: str
    status: int
    actor: str = ""
    meta: dict[str, object] = {}
