"""The certificate of the host is in a guest before its commands have placeholders."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pandastack.host.app import LocalHost, open_host
from pandastack.host.readiness import run_to_end
from pandastack.host.trust import CERTIFICATE, HASHED
from pandastack.model.egress import BoundSecret, Egress
from pandastack.model.host import VmSpec
from pandastack.testing.fixtures import eventually
from pandastack.testing.real import small_host
from tests.network.world import ROUTER
from tests.vm.conftest import quiet

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root]

BOUND = "api.bound.example"
VALUE = "sk-live-value.that/no=guest+has"


async def test_a_secret_of_one_that_cannot_be_asked_comes_with_the_certificate(host: LocalHost) -> None:
    """Its agent is silent while the secret is set: once it is not, no command has one without the other."""
    await host.start(VmSpec("silent", "base"))
    vm = host.vms.find("silent")
    assert vm.link
    await vm.machine.pause()  # nobody knows
    await vm.link.close()
    await eventually(lambda: vm.link is None)
    bound = BoundSecret("TOKEN", (BOUND,), "psk_0123456789abcdef", VALUE)
    await host.set_egress("silent", Egress(), (bound,))
    assert vm.link is None
    await vm.machine.resume()
    await eventually(lambda: vm.link is not None, deadline=60)
    code, words = await run_to_end(host.guest("silent"), f"echo $TOKEN; cat {CERTIFICATE} {HASHED}", "ask")
    assert code == 0, words
    assert words.startswith(bound.placeholder) and words.count("BEGIN CERTIFICATE") == 2


async def test_a_paused_one_is_told_its_secrets_after_a_restart(
    images: None, ground: None, state: Path
) -> None:
    """Its agent answers nothing then, and is asked once it goes on."""
    config = small_host(state, name_servers=(f"{ROUTER}:53",))
    bound = BoundSecret("TOKEN", (BOUND,), "psk_0123456789abcdef", VALUE)
    async with open_host(config, quiet) as host:
        await host.start(VmSpec("paused", "base", secrets=(bound,)))
        await host.pause("paused")
    async with open_host(config, quiet) as host:
        try:
            async with asyncio.timeout(10):
                await host.set_egress("paused", Egress(), (bound,))
                assert not host.vms.find("paused").trusts
                await host.resume("paused")
                code, words = await run_to_end(host.guest("paused"), "echo $TOKEN", "ask")
            assert (code, words.strip()) == (0, bound.placeholder)
            assert host.vms.find("paused").trusts
        finally:
            await host.end_all()
