"""What all verbs of a control plane stand on, put together once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Struct

from pandastack.failpoint import Failpoints
from pandastack.model.account import Limits, SnapshotLimits
from pandastack.model.clock import Clock
from pandastack.model.volume import VolumeLimits
from pandastack.services.activity import Activity
from pandastack.services.books import Books
from pandastack.services.causes import Causes
from pandastack.services.keys import Keys
from pandastack.services.ledger import Ledger
from pandastack.services.line import Line
from pandastack.services.placement import Placement
from pandastack.services.safe import Safe
from pandastack.services.turns import Turns
from pandastack.store.db import Database
from pandastack.telemetry import Metrics


class Terms(Struct, frozen=True):
    """What this server grants. Seconds."""

    limits: Limits
    snapshots: SnapshotLimits
    volumes: VolumeLimits
    default_ttl_seconds: int
    create_timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Ground:
    """The rows, the host, the clock, and who is doing what just now."""

    database: Database
    ledger: Ledger
    placement: Placement
    activity: Activity
    books: Books
    causes: Causes
    turns: Turns
    keys: Keys
    line: Line
    safe: Safe
    clock: Clock
    new_id: Callable[[], str]
    terms: Terms
    metrics: Metrics
    failpoint: Failpoints
