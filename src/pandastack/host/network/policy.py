"""A sandbox's egress policy as the kernel keeps it: what does not need a name to be decided."""

from __future__ import annotations

from pandastack.host.network.rules import Policy
from pandastack.model.egress import Egress, Internet, port_range

BITS = 8
MEGA = 1_000_000


def kernel_policy(egress: Egress, *, bound: bool = False) -> Policy:
    """With names, or when secrets are `bound` to some, TCP goes to the proxy, which decides."""
    return Policy(
        internet=egress.internet is Internet.ON,
        allow=egress.allow_cidrs if egress.restricted else None,
        deny=egress.deny_cidrs,
        ports=tuple("-".join(map(str, sorted(set(port_range(entry))))) for entry in egress.ports),
        by_name=egress.names_decide or bound,
        most_connections=egress.max_connections,
        most_rate=None if egress.bandwidth_mbps is None else max(1, int(egress.bandwidth_mbps * MEGA / BITS)),
    )
