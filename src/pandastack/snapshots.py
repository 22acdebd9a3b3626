"""`pandastack.snapshots`: the official SDK's module of that name."""

from __future__ import annotations

from pandastack.client import Snapshot, SnapshotsAPI

__all__ = ["Snapshot", "SnapshotsAPI"]
