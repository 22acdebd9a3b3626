"""The gate of a new life and the freezing of a disk, in a machine that is running."""

from __future__ import annotations

import os
import time

import msgspec
import pytest

from pandastack.host.app import LocalHost
from pandastack.host.guest import GateFacts, GuestLink
from pandastack.model.guest import Command
from pandastack.model.host import VmSpec
from pandastack.testing.machines import gate_facts

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

NAMES = "cat /proc/sys/kernel/random/boot_id /etc/machine-id; hostname; echo $A"
HOOK = """mkdir -p /etc/pandastack/on-restore.d && cd /etc/pandastack/on-restore.d &&
printf '#!/bin/sh\\necho $PANDASTACK_MACHINE_ID $(cat /etc/machine-id) >> /root/hooks\\n' > 10-note &&
printf '#!/bin/sh\\nsleep 60\\n' > 20-slow && chmod 755 10-note 20-slow"""


async def started(host: LocalHost) -> GuestLink:
    await host.start(VmSpec("vm-1", "base"))
    guest = host.guest("vm-1")
    assert isinstance(guest, GuestLink)
    return guest


async def say(guest: GuestLink, line: str) -> str:
    """What a shell line prints in the machine."""
    async with guest.run(Command(process_id=os.urandom(8).hex(), shell=line)) as process:
        return b"".join([piece.data async for piece in process.output()]).decode().strip()


def fresh() -> GateFacts:
    return msgspec.structs.replace(gate_facts(A="new"), fresh=True, hook_ms=1500)


async def test_a_running_machine_becomes_another(host: LocalHost) -> None:
    guest = await started(host)
    await say(guest, HOOK)
    before = (await say(guest, NAMES)).split("\n")
    async with guest.run(Command(process_id="kept", argv=("cat",), stdin=True)) as kept:
        facts = fresh()
        clock = await say(guest, "date +%s%N")
        guest.announce(os.urandom(16), msgspec.structs.replace(facts, clock_ns=int(clock) + 3_600 * 10**9))
        entry = await guest.entered(deadline=20)
        assert kept.pid > 1
    proof = entry.proof
    assert proof is not None
    assert (proof.entropy_bytes, proof.hooks_run, proof.hooks_failed) == (64, 1, ("20-slow",))
    assert 3_590e6 < proof.clock_step_us < 3_700e6
    assert 1.4e6 < proof.spent_us < 6e6
    after = (await say(guest, NAMES)).split("\n")
    assert after == [proof.boot_id, facts.machine_id, facts.hostname, "new"]
    assert set(before).isdisjoint(after)
    assert await say(guest, "cat /root/hooks") == f"{facts.machine_id} {facts.machine_id}"
    lives = (await say(guest, "cat /run/pandastack/generation")).split()
    assert lives[0] == facts.machine_id
    assert int(lives[1]) >= 2


async def test_a_frozen_disk_waits_and_thaws(host: LocalHost) -> None:
    guest = await started(host)
    await guest.freeze(20_000, deadline=10)
    assert await say(guest, "cat /etc/hostname >/dev/null; echo reads") == "reads"
    writes = Command(process_id="writes", argv=("sh", "-c", "echo x > /root/f && echo written"))
    async with guest.run(writes) as process:
        assert "busy" in await say(guest, "fsfreeze -f / 2>&1")
        await guest.thaw(deadline=5)
        assert b"".join([piece.data async for piece in process.output()]) == b"written\n"


async def test_a_frozen_disk_thaws_by_itself(host: LocalHost) -> None:
    guest = await started(host)
    began = time.monotonic()
    took = await guest.freeze(1500, deadline=10)
    assert await say(guest, "echo x > /root/f && echo written") == "written"
    assert 1.3 < time.monotonic() - began < 8
    assert 0 < took < 1.5e6
    await guest.thaw(deadline=5)


async def test_the_gate_thaws(host: LocalHost) -> None:
    guest = await started(host)
    await guest.freeze(30_000, deadline=10)
    began = time.monotonic()
    await guest.gate(fresh(), deadline=10)
    assert await say(guest, "echo x > /root/f && echo written") == "written"
    assert time.monotonic() - began < 15
