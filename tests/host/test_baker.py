"""Baked snapshots: found by what they are made from, and each bake one of its own."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from pandastack.host.baker import Baker
from pandastack.host.driver import MachineConfig, Rehearsal, SnapshotFiles
from pandastack.host.image import Image
from pandastack.host.kernel import Kernel
from pandastack.host.manifest import Recipe, TemplateManifest
from pandastack.host.vm import Sources
from pandastack.testing.machines import NOWHERE, machine_config
from pandastack.testing.process_driver import ProcessDriver

pytestmark = pytest.mark.anyio


class BakingProcesses(ProcessDriver):
    """Its machines start from baked snapshots too, no faster than others."""

    async def speed_up(self, snapshot: SnapshotFiles, config: MachineConfig, rehearsal: Rehearsal) -> None:
        """There is nothing to prepare."""


IMAGE = Image(
    recipe=Recipe(name="base", manifest=TemplateManifest(label="b", description="b"), layers=(), digest="r"),
    digest="d",
    root_disk=NOWHERE,
    overlay=NOWHERE,
    kernel=Kernel(version="1", release="1", vmlinuz=NOWHERE, modules=(), digest="k"),
    initrd=NOWHERE,
    size_bytes=0,
)


async def test_what_was_baked_again_is_another(tmp_path: Path, agent_binary: Path) -> None:
    """The memory is another one, and what lies over the first must not find it by the same name."""
    driver = BakingProcesses(agent_binary, insecure_no_isolation=True)
    baker = Baker(driver, tmp_path / "made", tmp_path / "locks", Sources(os.urandom, time.time_ns))
    config = machine_config()
    assert baker.find(IMAGE, config) is None
    first = await baker.bake(IMAGE, config, print)
    assert await baker.bake(IMAGE, config, print) == first == baker.find(IMAGE, config)

    def report(line: str) -> None:
        if line.startswith("checking") and first.directory.exists():
            shutil.rmtree(first.directory)

    second = await baker.bake(IMAGE, config, report)
    assert second == baker.find(IMAGE, config), "another program had removed the first meanwhile"
    assert second.directory.parent == first.directory.parent
    assert second.directory.name != first.directory.name
