"""What a sandbox may reach, and what it has reached."""

from __future__ import annotations

from typing import cast

from pandastack.client._async.handle import AsyncHandle
from pandastack.client._values import EgressPolicy, EgressReceipt, EgressTrial


class AsyncEgressVerbs(AsyncHandle):
    """The verbs of a sandbox that are about its way out. None of them wakes it."""

    async def set_egress(self, policy: EgressPolicy) -> EgressPolicy:
        """Let it reach what `policy` says from now on, in place of what it might before; connections that it
        forbids end. The policy as it is kept.
        """
        answer = cast("EgressPolicy", await self._verb("PUT", "egress", dict(policy)))
        self.egress = answer
        return answer

    async def egress_receipts(self) -> list[EgressReceipt]:
        """What it has reached since its machine came up, and what was kept from it."""
        answer = await self._verb("GET", "egress/receipts")
        return cast("list[EgressReceipt]", answer["receipts"])

    async def try_egress(self, policy: EgressPolicy) -> EgressTrial:
        """What `policy` would have blocked of what it has reached, and one that allows just that. Nothing
        changes.
        """
        return cast("EgressTrial", await self._verb("POST", "egress/trial", dict(policy)))
