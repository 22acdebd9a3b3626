"""When a refused create is sent again: only after answers that prove that nothing was created.

| answer                                         | sent again after                         |
|------------------------------------------------|------------------------------------------|
| 503 with Retry-After and a JSON `error`        | Retry-After + jitter                     |
| 507                                            | max(Retry-After, 0.5 s) + jitter         |
| 429 with Retry-After                           | Retry-After + jitter                     |
| anything else, and every broken connection     | never                                    |

The jitter of attempt n is uniform in 0…cap, cap = 1, 2, 4, 8, 15, 15 … seconds: clients that were refused
together do not come back together. No attempt starts later than the budget after the first one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_CAP_SECONDS = 1.0
LAST_CAP_SECONDS = 15.0
NO_SPACE_FLOOR_SECONDS = 0.5
SHORTEST_CUT_SECONDS = 1.0
"""A wait that is cut to end with the budget is never shorter; with less left the refusal is raised."""


@dataclass(frozen=True)
class CreateRetryEvent:
    """One repetition of a create that was refused for capacity, told to `on_create_retry` just before the
    wait.
    """

    method: str
    path: str
    attempt: int
    status_code: int
    error: str
    delay_seconds: float
    elapsed_seconds: float
    retry_after_seconds: float | None = None


@dataclass(frozen=True)
class Refusal:
    """What the decision looks at: status, Retry-After in seconds and the `error` of the body."""

    status: int
    retry_after: float | None
    error: str


def delay_before_retry(
    refusal: Refusal, *, attempt: int, elapsed: float, budget: float, jitter: Callable[[float], float]
) -> float | None:
    """Seconds to wait before sending the create again, None when the refusal is to be raised.

    `attempt` counts from 0; `jitter(cap)` gives a number in 0…cap.
    """
    floor = _floor(refusal)
    remaining = budget - elapsed
    if floor is None or remaining <= 0 or floor > remaining:
        return None
    cap = min(LAST_CAP_SECONDS, FIRST_CAP_SECONDS * 2 ** min(attempt, 8))
    delay = floor + jitter(cap)
    if delay <= remaining:
        return delay
    return remaining if remaining >= max(floor, SHORTEST_CUT_SECONDS) else None


def _floor(refusal: Refusal) -> float | None:
    match refusal.status:
        case 507:
            return max(refusal.retry_after or 0.0, NO_SPACE_FLOOR_SECONDS)
        case 429:
            return refusal.retry_after
        case 503:
            return refusal.retry_after if refusal.error else None
        case _:
            return None


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds of a Retry-After header, which is a number or an HTTP date; None for anything else."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        return _seconds_until(value, now)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(value: str, now: datetime) -> float | None:
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
