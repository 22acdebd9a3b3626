# Made from `../_async/egress.py` by `scripts/unasync`: change that file.
"""What a sandbox may reach, and what it has reached."""

from __future__ import annotations

from typing import cast

from pandastack.client._sync.handle import Handle
from pandastack.client._values import EgressPolicy, EgressReceipt, EgressTrial


class EgressVerbs(Handle):
    """The verbs of a sandbox that are about its way out. None of them wakes it."""

    def set_egress(self, policy: EgressPolicy) -> EgressPolicy:
        """Let it reach what `policy` says from now on, in place of what it might before; connections that it
        forbids end. The policy as it is kept.
        """
        answer = cast("EgressPolicy", self._verb("PUT", "egress", dict(policy)))
        self.egress = answer
        return answer

    def egress_receipts(self) -> list[EgressReceipt]:
        """What it has reached since its machine came up, and what was kept from it."""
        answer = self._verb("GET", "egress/receipts")
        return cast("list[EgressReceipt]", answer["receipts"])

    def try_egress(self, policy: EgressPolicy) -> EgressTrial:
        """What `policy` would have blocked of what it has reached, and one that allows just that. Nothing
        changes.
        """
        return cast("EgressTrial", self._verb("POST", "egress/trial", dict(policy)))
