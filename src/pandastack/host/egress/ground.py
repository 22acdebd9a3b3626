"""What all slots of the process share."""

from __future__ import annotations

import ssl

from msgspec import Struct

from pandastack.host.egress.authority import Issuer
from pandastack.host.egress.orders import Begin, Limits
from pandastack.host.egress.upstream import Chance, Upstream
from pandastack.model.clock import Clock
from pandastack.model.egress import BoundSecret, Egress
from pandastack.model.verdict import Policy, policy_of


class Ground(Struct, frozen=True):
    """Set up by the first order. Without an `issuer` no secret is put in anywhere."""

    begin: Begin
    clock: Clock
    upstream: Upstream
    trust: ssl.SSLContext
    issuer: Issuer | None

    @property
    def limits(self) -> Limits:
        """Deadlines, and what one sandbox may ask for."""
        return self.begin.limits

    def policy(self, egress: Egress, secrets: tuple[BoundSecret, ...]) -> Policy:
        """The policy of a sandbox on this host. Without an issuer secrets do not count."""
        bound = secrets if self.issuer else ()
        return policy_of(egress, bound, own=self.begin.own, reachable=self.begin.reachable)


def ground_of(begin: Begin, clock: Clock, chance: Chance) -> Ground:
    """ValueError when the authority or the trusted certificates cannot be read."""
    trust = ssl.create_default_context(cadata=begin.trust)
    trust.set_alpn_protocols(["http/1.1"])
    return Ground(
        begin=begin,
        clock=clock,
        upstream=Upstream(begin.name_servers, begin.limits.upstream_dns, chance),
        trust=trust,
        issuer=Issuer(begin.authority, clock) if begin.authority else None,
    )
