"""Machines of other sizes than their template's: what they are said to have is there."""

from __future__ import annotations

import os

import pytest

from pandastack.host import procfs
from pandastack.host.app import LocalHost
from pandastack.host.paths import Cache
from pandastack.host.readiness import run_to_end
from pandastack.host.uses import users
from pandastack.model.host import VmSpec
from pandastack.model.image import Size, variant_of
from pandastack.testing.real import CACHE

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(480)]

SIZE = Size(2, 2048, 8192)
"""A machine of exactly so much memory would not start."""


async def test_a_machine_has_the_size_that_is_asked_for(host: LocalHost) -> None:
    own = await host.start(VmSpec("own", "base"))
    larger = await host.start(VmSpec("larger", variant_of("base", SIZE)))
    assert (own.cpu, own.memory_mb) == (1, 512)
    assert (larger.template, larger.cpu, larger.memory_mb) == ("base", SIZE.cpu, SIZE.memory_mb)
    assert larger.boot_mode == "snapshot"
    seen = {}
    for name in ("own", "larger"):
        line = "nproc; grep MemTotal /proc/meminfo; df --block-size=1M --output=size / | tail -1"
        code, words = await run_to_end(host.guest(name), line, "look")
        assert code == 0
        processors, memory, disk = words.splitlines()
        seen[name] = (int(processors), int(memory.split()[1]) >> 10, int(disk))
    assert seen["own"][0] == 1
    assert seen["larger"][0] == SIZE.cpu
    assert seen["larger"][1] > 3.6 * seen["own"][1]
    assert seen["larger"][2] > 1.8 * seen["own"][2]
    line = "head -c 5000000000 /dev/zero > /large && sync && stat -c %s /large && rm /large"
    fits, words = await run_to_end(host.guest("larger"), line, "fill")
    assert (fits, words) == (0, "5000000000\n"), "it holds what the template's could not"
    await host.stop("larger")
    again = await host.start(VmSpec("again", variant_of("base", SIZE)))
    assert again.boot_ms < 10_000, "it was baked once"
    await host.stop("again")
    ready = await host.templates.prepare(variant_of("base", SIZE))
    assert ready.snapshot is not None
    await host.vms.driver.release(ready.snapshot.directory.name)  # as when too many sizes are kept
    using = users(Cache(CACHE))[ready.snapshot.directory.resolve()]
    assert using == [f"{procfs.name(os.getpid())} ({os.getpid()})"], "its fork server has ended"
    assert (await host.start(VmSpec("slower", variant_of("base", SIZE)))).cpu == SIZE.cpu
