"""What is the process driver's own; what all drivers share is in tests/vm/test_driver_contract.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from pandastack.errors import NotSupported, SnapshotRefused
from pandastack.host.guest import GuestLink
from pandastack.host.snapshots import Manifest, sealed
from pandastack.model.guest import Command
from pandastack.model.sandbox import Isolation
from pandastack.testing.fixtures import LeakCheck, eventually, processes_with
from pandastack.testing.machines import machine_config
from pandastack.testing.process_driver import ProcessDriver, ProcessMachine

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]


@pytest.mark.parametrize("accepted", [False, 1, "yes"])
def test_it_must_be_accepted_by_name(accepted: object) -> None:
    with pytest.raises(NotSupported, match="without any isolation"):
        ProcessDriver(Path("agent"), insecure_no_isolation=accepted)  # type: ignore[arg-type]  # that is the test


def test_it_says_what_it_is(process_driver: ProcessDriver) -> None:
    assert process_driver.isolation is Isolation.NONE


def fleeing(tag: str) -> str:
    """A line of shell that leaves a process behind in a session of its own."""
    return f"setsid sh -c 'sleep 300; : {tag}' & sleep 300; : {tag}"


async def test_stop_takes_every_command_along(
    guest: GuestLink, machine: ProcessMachine, leak_check: LeakCheck
) -> None:
    async with guest.run(Command(process_id="a", shell=fleeing(leak_check.tag))):
        await eventually(lambda: len(processes_with(leak_check.tag)) >= 2)
        await machine.stop()
    assert not processes_with(leak_check.tag)


async def test_pause_stops_the_commands_too(
    guest: GuestLink, machine: ProcessMachine, tmp_path: Path
) -> None:
    beats = tmp_path / "beats"
    line = f"while :; do echo >> {beats}; sleep 0.01; done"
    async with guest.run(Command(process_id="a", shell=line)):
        await eventually(beats.exists)
        await machine.pause()
        before = beats.stat().st_size
        await asyncio.sleep(0.1)
        assert beats.stat().st_size == before
        await machine.resume()
        await eventually(lambda: beats.stat().st_size > before)


async def test_no_snapshot_while_commands_run(
    guest: GuestLink, machine: ProcessMachine, tmp_path: Path
) -> None:
    async with guest.run(Command(process_id="a", argv=("sleep", "300"))):
        with pytest.raises(NotSupported, match="cannot keep running commands"):
            await machine.snapshot(tmp_path)


async def test_a_snapshot_of_another_driver_is_refused(
    machine: ProcessMachine, process_driver: ProcessDriver, tmp_path: Path
) -> None:
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "other").mkdir()
    files = await machine.snapshot(tmp_path / "snapshot")
    manifest = msgspec.json.decode(files.manifest.read_bytes(), type=Manifest)
    foreign = msgspec.structs.replace(
        manifest, machinery=msgspec.structs.replace(manifest.machinery, driver="qemu")
    )
    for content, words in (
        (msgspec.json.encode(sealed(foreign)), "driver 'qemu'"),
        (b"{}", "no valid manifest"),
    ):
        files.manifest.write_bytes(content)
        with pytest.raises(SnapshotRefused, match=words):
            await process_driver.restore(files, machine_config("other"), tmp_path / "other")
    assert not list((tmp_path / "other").iterdir()), "nothing was started"
