"""Snapshots of machines on Firecracker, kept and started from as the host does it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import structs

from pandastack.errors import SnapshotRefused
from pandastack.host.driver import Feature, SnapshotFiles
from pandastack.host.firecracker_install import FirecrackerInstall
from pandastack.host.firecracker_machine import FirecrackerMachine
from pandastack.host.templates import Prepared
from pandastack.host.vault import Vault
from pandastack.host.vm import Vm, VmRecord
from pandastack.model.host import SnapshotSpec, VmReport, VmSpec, VmState
from pandastack.model.image import Template
from pandastack.testing.fixtures import LeakCheck, eventually
from tests.vm.firecracker_yard import Corner, corner
from tests.vm.tiny_guest import counter_in, counter_of

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root]

TEMPLATE = Template(name="tiny", cpu=1, memory_mb=16, disk_mb=1, digest="none", baked=True)


@pytest.fixture
def yard(firecracker: FirecrackerInstall, tmp_path: Path, leak_check: LeakCheck) -> Corner:
    return corner(firecracker, tmp_path)


@pytest.fixture
def vault(yard: Corner) -> Vault:
    vault = Vault(yard.driver, yard.home("vault"))
    vault.open()
    return vault


async def baked(yard: Corner) -> Prepared:
    """What a template's machines start from."""
    machine = await yard.driver.boot(yard.config, yard.home("baked"))
    try:
        await eventually(lambda: counter_of(machine.pid) > 1000)
        snapshot = await machine.snapshot(yard.home("base"))
    finally:
        await machine.stop(0)
    return Prepared(TEMPLATE, yard.config, snapshot)


@asynccontextmanager
async def running(yard: Corner, prepared: Prepared, name: str) -> AsyncIterator[Vm]:
    """A machine as the host holds it; without an agent, which this guest does not have."""
    config = prepared.config(f"{yard.config.vm_id}-{name}")
    assert prepared.snapshot is not None
    machine = await yard.driver.restore(prepared.snapshot, config, yard.home(name))
    report = VmReport(name, "tiny", VmState.RUNNING, machine.pid, 1, 16, "snapshot", 1.0, {})
    vm = Vm(machine.home, VmRecord(VmSpec(name, "tiny"), report, prepared), machine, None)
    try:
        yield vm
    finally:
        await vm.release()


@asynccontextmanager
async def no_agent() -> AsyncIterator[Callable[[], None]]:
    """Nobody can be asked to be quiet."""
    yield lambda: None


def memory_of(vm: Vm) -> Path:
    assert isinstance(vm.machine, FirecrackerMachine)
    return vm.machine.root.path / "memory"


@pytest.mark.parametrize("durable", [True, False], ids=["kept", "forked"])
async def test_what_a_host_keeps_goes_on(yard: Corner, vault: Vault, durable: bool) -> None:
    assert Feature.DIFF_SNAPSHOT in yard.driver.features
    async with running(yard, await baked(yard), "origin") as vm:
        await eventually(lambda: counter_of(vm.machine.pid) > 2000)
        report = await vault.keep(SnapshotSpec("one", "origin", durable=durable), vm, no_agent())
        assert report.durable is durable and report.layers == 1
        prepared = vault.prepare("one")
        kept = counter_in(files_of(prepared).memory)
        async with running(yard, prepared, "child") as child:
            assert counter_in(memory_of(child)) == kept > 2000
            await eventually(lambda: counter_of(child.machine.pid) > kept)
            await vault.keep(SnapshotSpec("two", "child", durable=durable), child, no_agent())
        async with running(yard, vault.prepare("two"), "grandchild") as last:
            assert counter_in(memory_of(last)) > kept
    for name in ("one", "two"):
        await vault.drop(name)


async def test_what_an_earlier_program_kept_is_started_unless_it_is_cut(yard: Corner, vault: Vault) -> None:
    async with running(yard, await baked(yard), "origin") as vm:
        await vault.keep(SnapshotSpec("one", "origin"), vm, no_agent())
    later = Vault(yard.driver, yard.place / "vault")
    later.open()
    prepared = later.prepare("one")
    async with running(yard, prepared, "child") as child:
        assert counter_in(memory_of(child)) == counter_in(files_of(prepared).memory)
    with files_of(prepared).state.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(SnapshotRefused):
        await yard.driver.restore(files_of(prepared), prepared.any_machine, yard.home("refused"))
    assert list((yard.place / "refused").iterdir()) == []


async def test_one_of_another_version_is_refused(yard: Corner, vault: Vault) -> None:
    async with running(yard, await baked(yard), "origin") as vm:
        await vault.keep(SnapshotSpec("one", "origin"), vm, no_agent())
    newer = structs.replace(yard.driver.install, version="1.15.1")
    later = Vault(corner(newer, yard.place).driver, yard.place / "vault")
    later.open()
    with pytest.raises(SnapshotRefused, match=r"version '1\.12\.1', this host has '1\.15\.1'"):
        later.prepare("one")


def files_of(prepared: Prepared) -> SnapshotFiles:
    assert prepared.snapshot is not None
    return prepared.snapshot
