"""How long sandboxes may idle and live, and what keeps them awake."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from pandastack.model.account import Caller
from pandastack.model.clock import Clock
from pandastack.model.sandbox import AWAKE, Lifecycle, LifecycleChange, Sandbox, WhyAwake
from pandastack.services.activity import Activity
from pandastack.services.ledger import Ledger, Story
from pandastack.services.recorder import Recorder
from pandastack.services.requests import check_ttl

OPTIONAL = frozenset({"idle_timeout_seconds", "lifetime_seconds"})
"""Fields of a change that null switches off; null of the others leaves them."""


class Lifecycles:
    """The verbs on lifecycles. None of them wakes a sandbox."""

    def __init__(self, ledger: Ledger, activity: Activity, clock: Clock, recorder: Recorder) -> None:
        self._ledger = ledger
        self._activity = activity
        self._clock = clock
        self._recorder = recorder

    async def get(self, caller: Caller, sandbox_id: str) -> Lifecycle:
        """How long it may idle and live, and how long it idles. Errors: SandboxNotFound."""
        return self.of(await self._ledger.find(caller, sandbox_id))

    async def change(self, caller: Caller, sandbox_id: str, change: LifecycleChange) -> Lifecycle:
        """Set what is given; counts as activity. Errors: SandboxNotFound, InvalidRequest."""
        check_ttl(change.ttl_seconds)
        before = await self._ledger.find(caller, sandbox_id)
        if values := _given(change):
            await self._ledger.change(sandbox_id, Story(caller=caller), **values)
        after = await self._ledger.find(caller, sandbox_id)
        self._activity.allow(after)
        if before.checkpoints is not after.checkpoints:
            await self._recorder.begin(caller, after)
        return self.of(after)

    async def why_awake(self, caller: Caller, sandbox_id: str) -> WhyAwake:
        """What keeps it awake. Errors: SandboxNotFound."""
        found = await self._ledger.find(caller, sandbox_id)
        awake = found.status in AWAKE
        sleeps_in = self._activity.sleeps_in(sandbox_id) if awake else None
        return WhyAwake(
            status=found.status,
            awake=awake,
            reasons=self._activity.reasons(sandbox_id) if awake else [],
            idle_seconds=round(self._activity.idle_seconds(sandbox_id)),
            sleeps_in_seconds=None if sleeps_in is None else round(sleeps_in),
        )

    def of(self, sandbox: Sandbox) -> Lifecycle:
        """That of a sandbox whose row was just read."""
        return Lifecycle(
            ttl_seconds=sandbox.ttl_seconds,
            persistent=sandbox.persistent,
            idle_seconds=round(self._activity.idle_seconds(sandbox.id)),
            idle_timeout_seconds=sandbox.idle_timeout_seconds,
            on_timeout=sandbox.on_timeout,
            lifetime_seconds=sandbox.lifetime_seconds,
            expires_at=sandbox.ends_by(),
            checkpoints=sandbox.checkpoints,
            keep_checkpoints=sandbox.keep_checkpoints,
        )


def _given(change: LifecycleChange) -> dict[str, Any]:
    fields = msgspec.structs.asdict(change)
    return {
        name: value
        for name, value in fields.items()
        if value is not UNSET and (value is not None or name in OPTIONAL)
    }
