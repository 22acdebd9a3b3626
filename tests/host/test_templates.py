"""Templates are made ready once, and again when their files are gone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from pandastack.errors import InvalidRequest
from pandastack.host import snapshots
from pandastack.host.driver import MachineConfig
from pandastack.host.templates import Prepared, Templates
from pandastack.model.image import Template

pytestmark = pytest.mark.anyio


class Shelf:
    """Makes files, and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.files = snapshots.files_in(folder)
        self.made = 0
        disk = folder / "root"
        self.all = [self.files.memory, self.files.state, self.files.overlay, disk]
        self._machine = MachineConfig(
            vm_id="",
            cpus=1,
            memory_mb=1,
            root_disk=disk,
            overlay=disk,
            disk_limit_bytes=1,
            kernel=disk,
            initrd=disk,
        )

    def names(self) -> Iterable[str]:
        return ["base", "broken"]

    def describe(self, name: str) -> Template:
        if name == "broken":
            raise InvalidRequest("Its manifest is no TOML.")
        return Template(name=name, cpu=1, memory_mb=1, disk_mb=0, digest="none")

    async def make_ready(self, name: str) -> Prepared:
        self.made += 1
        for path in self.all:
            path.touch()
        return Prepared(self.describe(name), self._machine, self.files)


async def test_a_template_whose_files_are_gone_is_made_again(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    templates = Templates(shelf)
    await templates.prepare("base")
    await templates.prepare("base")
    assert shelf.made == 1
    for times, path in enumerate(shelf.all, start=2):
        path.unlink()
        await templates.prepare("base")
        assert shelf.made == times
    await templates.close()


def test_one_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    assert [template.name for template in Templates(Shelf(tmp_path)).all()] == ["base"]
