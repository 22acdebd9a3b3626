"""Whether strangers may be put beside each other on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from pandastack.config import HostConfig
from pandastack.errors import NotIsolated
from pandastack.model.sandbox import Isolation

DEGRADED = "degraded"


def demand(config: HostConfig, isolation: Isolation, degraded: Sequence[str]) -> None:
    """NotIsolated when the machines are for several tenants (`multi_tenant`) and this host cannot keep these
    apart: it emulates, or its jails lack something. What `accept_isolation` names is accepted.
    """
    if not config.multi_tenant:
        return
    accepted = {word.strip() for word in config.accept_isolation.split(",")}
    lacks = []
    if isolation is not Isolation.HARDWARE and isolation not in accepted:
        lacks.append(f"the isolation is `{isolation}`, not `{Isolation.HARDWARE}`")
    if degraded and DEGRADED not in accepted:
        lacks += [f"degraded: {reason}" for reason in degraded]
    if lacks:
        raise NotIsolated(
            f"multi_tenant is set, and this machine cannot keep tenants apart: {'; '.join(lacks)}. "
            "`pandastack doctor` tells what mends it; accept_isolation names what is accepted all the same."
        )
