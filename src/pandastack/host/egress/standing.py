"""What is in force for one slot now, shared by its connections and its resolver."""

from __future__ import annotations

from pandastack.host.egress.bucket import Bucket
from pandastack.host.egress.ground import Ground
from pandastack.host.egress.ledger import Ledger
from pandastack.model.egress import BoundSecret, Egress
from pandastack.model.verdict import Policy


class Standing:
    """Policy and secrets of a slot, which change, and what it has used, which stays."""

    def __init__(self, ground: Ground, egress: Egress, secrets: tuple[BoundSecret, ...]) -> None:
        self.ground = ground
        self.policy: Policy = ground.policy(egress, secrets)
        self.secrets = secrets if ground.issuer else ()
        self.ledger = Ledger(ground.clock, ground.limits.receipts)
        self.bucket = Bucket.of_megabits(egress.bandwidth_mbps, ground.clock.steady)

    def change(self, egress: Egress, secrets: tuple[BoundSecret, ...]) -> None:
        """From now on this holds."""
        self.policy = self.ground.policy(egress, secrets)
        self.secrets = secrets if self.ground.issuer else ()
        self.bucket.limit(egress.bandwidth_mbps)
