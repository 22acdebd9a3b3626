"""A host for strangers does not start where these cannot be kept apart, and says why."""

from __future__ import annotations

import pytest

from pandastack.config import HostConfig
from pandastack.errors import NotIsolated
from pandastack.host.tenancy import demand
from pandastack.model.sandbox import Isolation

HARDWARE, EMULATED, NONE = Isolation.HARDWARE, Isolation.EMULATED, Isolation.NONE
NOT_ROOT = ("not root",)


@pytest.mark.parametrize(
    ("isolation", "degraded", "accepted", "named"),
    [
        (HARDWARE, (), "", ()),
        (HARDWARE, NOT_ROOT, "", ("degraded: not root",)),
        (EMULATED, (), "", ("`emulated`",)),
        (EMULATED, NOT_ROOT, "emulated", ("degraded: not root",)),
        (EMULATED, NOT_ROOT, "degraded", ("`emulated`",)),
        (EMULATED, NOT_ROOT, "emulated, degraded", ()),
        (EMULATED, (), "emulated", ()),
        (NONE, (), "emulated", ("`none`",)),
    ],
)
def test_what_is_missing_is_named_unless_it_is_accepted_by_name(
    isolation: Isolation, degraded: tuple[str, ...], accepted: str, named: tuple[str, ...]
) -> None:
    config = HostConfig(multi_tenant=True, accept_isolation=accepted)
    if not named:
        demand(config, isolation, degraded)
        return
    with pytest.raises(NotIsolated) as caught:
        demand(config, isolation, degraded)
    for word in named:
        assert word in caught.value.message


def test_a_host_of_one_tenant_starts_anywhere() -> None:
    demand(HostConfig(), NONE, NOT_ROOT)
