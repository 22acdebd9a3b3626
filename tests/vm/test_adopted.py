"""A host that starts finds machines as an earlier program has left them, which may end at any moment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pandastack.errors import PostureViolation
from pandastack.host import layers, posture
from pandastack.host.app import LocalHost
from pandastack.host.groups import Groups
from pandastack.host.qemu import QemuDriver
from pandastack.host.qemu_command import BASE_DISK
from pandastack.host.qemu_orders import FLATTENING
from pandastack.host.qemu_record import QMP
from pandastack.host.qmp import monitor
from pandastack.host.readiness import run_to_end
from pandastack.model.host import SnapshotSpec, VmSpec, VmState
from pandastack.testing.fixtures import eventually
from tests.vm.conftest import OpenHost

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

NEXT = layers.after([layers.FIRST])


async def say(host: LocalHost, line: str, vm_id: str = "vm-1") -> str:
    code, words = await run_to_end(host.guest(vm_id), line, os.urandom(4).hex())
    assert code == 0, words
    return words.strip()


async def test_a_machine_that_stood_still_goes_on(open_state: OpenHost, state: Path) -> None:
    async with open_state() as host:
        await host.start(VmSpec("vm-1", "base"))
        await say(host, "echo kept > /dev/shm/f")
        async with monitor(state / "v" / "vm-1" / QMP) as qmp:
            await qmp.execute("stop")
    async with open_state() as host:
        try:
            assert [vm.state for vm in (await host.report()).vms] == [VmState.RUNNING]
            assert await say(host, "cat /dev/shm/f") == "kept"
        finally:
            await host.end_all()


async def test_a_layer_that_nobody_noted_is_found(open_state: OpenHost, state: Path) -> None:
    home = state / "v" / "vm-1"
    async with open_state() as host:
        await host.start(VmSpec("vm-1", "base"))
        await say(host, "echo below > /root/below; sync")
        await eventually((home / NEXT).exists)  # it prepares for a snapshot
        async with monitor(home / QMP) as qmp:
            switch = {"node": layers.node(layers.FIRST), "overlay": layers.node(NEXT)}
            await qmp.execute("blockdev-snapshot", switch)
        await say(host, "echo above > /root/above; sync")
    async with open_state() as host:
        try:
            await host.snapshot(SnapshotSpec("kept", "vm-1"))
            await host.vms.driver.release("kept")
            await host.start(VmSpec("vm-2", "base", snapshot="kept"))
            files = "echo 3 > /proc/sys/vm/drop_caches; cat /root/below /root/above"
            assert [await say(host, files, each) for each in ("vm-1", "vm-2")] == ["below\nabove"] * 2
        finally:
            await host.end_all()


async def test_layers_that_were_being_made_one_are(open_state: OpenHost, state: Path) -> None:
    home = state / "v" / "vm-1"
    async with open_state() as host:
        await host.start(VmSpec("vm-1", "base"))
        for number in range(layers.COMFORTABLE):
            await say(host, f"echo {number} > /root/{number}; sync")
            await host.snapshot(SnapshotSpec(f"s{number}", "vm-1", durable=False))
            await host.drop_snapshot(f"s{number}")
        top = f"overlay-{layers.COMFORTABLE}"
        async with monitor(home / QMP) as qmp:
            order = {"job-id": FLATTENING, "device": top, "base-node": BASE_DISK, "auto-dismiss": False}
            await qmp.execute("block-stream", order)
    async with open_state() as host:
        try:
            await host.vms.look_after()
            left = {file.stem for file in home.glob("overlay*")} - {f"overlay-{layers.COMFORTABLE + 1}"}
            assert left == {top}
            assert await say(host, "echo 3 > /proc/sys/vm/drop_caches; cat /root/?") == "0\n1\n2"
        finally:
            await host.end_all()


async def test_a_machine_that_was_never_limited_is(open_state: OpenHost, state: Path) -> None:
    """A server may end behind the word that a machine is there and before it has its control groups."""
    async with open_state() as host:
        report = await host.start(VmSpec("vm-1", "base"))
        driver = host.vms.driver
        assert isinstance(driver, QemuDriver)
        if driver.jailer is None:
            return  # this host is not root, and says so
        groups = driver.jailer.means.groups
        name = str((state / "v" / "vm-1").stat().st_ino)
        await eventually(lambda: _is_limited(report.pid, groups, name))
        groups.leave(report.pid)
        assert not _is_limited(report.pid, groups, name)
    async with open_state() as host:
        try:
            await eventually(lambda: _is_limited(report.pid, groups, name))
            assert await say(host, "echo on") == "on"
        finally:
            await host.end_all()


def _is_limited(pid: int, groups: Groups, name: str) -> bool:
    try:
        posture.check_groups(pid, groups.parents, name)
    except PostureViolation:
        return False
    return True
