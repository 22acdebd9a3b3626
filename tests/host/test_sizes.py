"""Sizes that were asked for: a number of them stay baked, those used last and those that somebody needs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs

from pandastack.carrying import beside
from pandastack.host.app import LocalHost, host_of
from pandastack.host.baker import Baker
from pandastack.host.driver import MachineConfig
from pandastack.host.paths import SIZE, Cache
from pandastack.host.sizes import Sizes, baked_below
from pandastack.host.templates import Prepared
from pandastack.host.uses import Uses
from pandastack.host.vm import Sources
from pandastack.model.host import VmSpec, VmState
from pandastack.model.image import Size, Template, parted, variant_of
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.machines import machine_config
from tests.host.test_baker import IMAGE, BakingProcesses

pytestmark = pytest.mark.anyio

SIZE_ASKED = Size(2, 128, 2048)
NAMES = ("a", "b", "c", "d")


class Shelf:
    """Some templates, which are baked each by itself: so they are at once."""

    def __init__(self, cache: Cache, baker: Baker, uses: Uses, config: MachineConfig) -> None:
        self._baker, self._uses, self._config = baker, uses, config
        self.made: list[str] = []

    def names(self) -> Iterable[str]:
        return NAMES

    def describe(self, name: str) -> Template:
        return Template(name=name, cpu=1, memory_mb=64, disk_mb=0, digest="none")

    async def make_ready(self, name: str) -> Prepared:
        plain, size = parted(name)
        self.made.append(name)
        image = structs.replace(IMAGE, recipe=structs.replace(IMAGE.recipe, name=plain))
        config = structs.replace(self._config, cpus=size.cpu) if size else self._config
        files = await self._baker.bake(image, config, print, size)
        self._uses.take(files.directory)
        return Prepared(self.describe(plain), config, files)


class World:
    """A host of local processes, with a cache."""

    def __init__(self, home: Path, uses: Uses, shelf: Shelf, host: LocalHost) -> None:
        self.state, self.cache = home / "state", Cache(home / "cache")
        self.uses, self.shelf, self.host = uses, shelf, host

    def keeping(self, most: int) -> Sizes:
        return Sizes(self.cache, self.uses, self.host.templates, self.host.vms, state=self.state, most=most)

    def baked(self) -> list[str]:
        """Of what templates there is the size, the one used longest ago first."""
        return [each.template for each in baked_below([self.cache.snapshots])]

    def folder(self, name: str) -> Path:
        (record,) = self.cache.snapshots.glob(f"{name}/*/{SIZE}")
        return record.parent

    async def start(self, name: str, vm_id: str) -> None:
        assert (await self.host.start(VmSpec(vm_id, larger(name)))).state is VmState.RUNNING


def larger(name: str) -> str:
    return variant_of(name, SIZE_ASKED)


@pytest.fixture
async def world(agent_binary: Path, leak_check: LeakCheck, tmp_path: Path) -> AsyncIterator[World]:
    """One that has baked a size of each template."""
    cache = Cache(tmp_path / "cache")
    driver = BakingProcesses(agent_binary, insecure_no_isolation=True)
    sources = Sources(os.urandom, time.time_ns)
    baker = Baker(driver, cache.snapshots, cache.lock("bake").parent, sources)
    file = tmp_path / "image"
    file.touch()
    config = structs.replace(machine_config(), root_disk=file, overlay=file, kernel=file, initrd=file)
    with closing(Uses(cache)) as uses:
        shelf = Shelf(cache, baker, uses, config)
        async with host_of(driver, shelf, tmp_path / "state", sources) as host:
            await asyncio.gather(*(host.bake(larger(name)) for name in NAMES))
            world = World(tmp_path, uses, shelf, host)
            for days, name in enumerate(reversed(NAMES)):
                then = time.time() - (days + 1) * 86400
                os.utime(world.folder(name) / SIZE, (then, then))
            yield world
            await host.end_all()


async def test_those_go_that_were_used_longest_ago_and_that_nobody_needs(world: World) -> None:
    assert world.baked() == ["a", "b", "c", "d"]
    assert await world.keeping(4).trim() == 0
    await world.host.bake("d")
    own = [path for path in (world.cache.snapshots / "d").iterdir() if path != world.folder("d")]
    await world.start("b", "lasts")
    await world.start("a", "goes")
    await world.host.stop("goes")
    await world.start("a", "lasts-too")
    assert world.baked() == ["c", "d", "b", "a"], "a start is a use"
    with closing(Uses(world.cache)) as another:
        another.take(world.folder("c"))
        assert await world.keeping(3).trim() == 0
        assert world.baked() == ["c", "b", "a"], "another server has the one used longest ago"
        assert await world.keeping(1).trim() == 2
        assert world.baked() == ["c", "b", "a"]
    assert all(path.exists() for path in own), "the template's own size is none that was asked for"
    await world.host.stop("lasts-too")
    assert await world.keeping(1).trim() == 0
    assert world.baked() == ["b"], "a machine goes on from it"
    assert not [*world.cache.snapshots.glob("*/.*")]
    made = len(world.shelf.made)
    await world.start("b", "another")
    assert len(world.shelf.made) == made
    await world.start("c", "again")
    assert world.shelf.made[made:] == [larger("c")], "it was baked again"
    assert world.baked() == ["b", "c"]


async def test_who_starts_one_that_is_going_has_it_baked_again(world: World) -> None:
    """Whenever he comes: before, in the middle of it, or behind."""
    going, folder = world.keeping(0), world.folder(NAMES[-1])

    async def trimmed() -> None:
        while True:
            await going.trim()
            await asyncio.sleep(0.01)

    async def started(number: int) -> None:
        await asyncio.sleep(number * 0.05)
        while number == len(NAMES) - 1 and folder.exists():
            await asyncio.sleep(0.01)
        await world.start(NAMES[number], f"vm-{number}")

    async with beside(trimmed()):
        await asyncio.gather(*(started(number) for number in range(len(NAMES))))
    assert len(world.host.vms.reports()) == len(NAMES)
    assert len(world.shelf.made) > len(NAMES), "some were gone"
    assert await going.trim() == len(NAMES)


async def test_it_is_looked_after_by_itself(world: World) -> None:
    async with beside(world.keeping(2).go_on()), asyncio.timeout(10):
        while world.baked() != ["c", "d"]:
            await asyncio.sleep(0.01)
        await world.host.bake(larger("a"))
        while world.baked() != ["d", "a"]:
            await asyncio.sleep(0.01)
