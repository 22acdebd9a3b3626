"""Baking: a template boots once, is brought to "ready", and its snapshot is what every create restores.

Everything that is slow the first time belongs before the snapshot: the start command runs, the ready command
has succeeded, the warm commands have filled the guest's page cache and Python's byte-code, and one command
has gone through the agent. What makes a machine one of its own does not belong in it: the gate is closed
again before the snapshot.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import structs

from pandastack.errors import MachineError, SnapshotRefused
from pandastack.host import snapshots, trust
from pandastack.host.birth import BOOT_SECONDS, GATE_SECONDS
from pandastack.host.death import answered
from pandastack.host.driver import (
    BakingDriver,
    Drive,
    Driver,
    Machine,
    MachineConfig,
    Rehearsal,
    SnapshotFiles,
)
from pandastack.host.guest import GateFacts, GuestLink
from pandastack.host.image import Image
from pandastack.host.manifest import Recipe
from pandastack.host.network.addresses import GUEST_NETWORK
from pandastack.host.paths import SIZE
from pandastack.host.publish import leftovers, locked, new_directory, sweep, workspace
from pandastack.host.readiness import Report, make_ready, run_to_end
from pandastack.host.record import write_record
from pandastack.host.vm import Sources
from pandastack.host.volumes import make_disk
from pandastack.model.image import Size

SETTLE_SECONDS = 3.0
"""Between the last command and the snapshot: the guest's kernel finishes what it does in the background."""
REST_SECONDS = 0.5
"""The same, for a machine that is to be forked: what runs later is translated already."""
FREEZE_MS = 5000
REHEARSALS = 2
"""The gate is passed and closed again so often: what a restore does first has its pages writable then."""
FIRST = ("true", "/bin/true")
"""What a command costs by itself: of the shell's own, and of a program's."""
WRITES = (
    "echo a > /root/a; mkdir /root/b; head -c 1000000 /dev/zero > /root/b/c",
    "echo b >> /root/a; cp /root/a /root/b/d; rm -r /root/b",
)
"""What is written to the disk, and flushed behind each: a guest's first flush takes 50 ms, later ones 15."""
NOBODYS_CERTIFICATE = "nobody's\n"
"""What a machine that is had to trust it rehearses with: nothing of it is in others."""
NOBODYS_VOLUME = "00000000-0000-4000-8000-000000000000"
VOLUME_MB = 16
VOLUME_PLACE = "/run/rehearsal"
STILL_MS = 500
BAKING = "machine"
"""The home of the machine that is baked, beside what is written of it."""


class Baker:
    """Makes snapshots of images, below `<cache>/snapshots`. One file lock a template, so two programs bake
    once.
    """

    def __init__(self, driver: BakingDriver, root: Path, locks: Path, sources: Sources) -> None:
        self._driver = driver
        self._root = root
        self._locks = locks
        self._sources = sources

    def find(self, image: Image, config: MachineConfig) -> SnapshotFiles | None:
        """The snapshot of exactly this image on exactly this machinery, if it has been baked."""
        key = self._key(image, config)
        made = map(snapshots.files_in, sorted((self._root / image.name).glob(f"{key}*")))
        return next((files for files in made if files.manifest.exists()), None)

    async def bake(
        self, image: Image, config: MachineConfig, report: Report, size: Size | None = None
    ) -> SnapshotFiles:
        """The snapshot, baked if there is none, and checked against its hashes either way. What is baked for
        a `size` that was asked for is noted as that.

        BootFailed with the last console lines when the guest does not come up or does not become ready.
        """
        while True:
            files = self.find(image, config)
            if files is None:
                report(f"waiting for a turn to bake {image.name}")
                async with locked(self._locks / f"bake-{image.name}"):
                    files = await self._bake_once(image, config, report, size)
            try:
                self._driver.check(files, config)
                report(f"checking the snapshot of {image.name}")
                await snapshots.verify(files, snapshots.read_manifest(files))
            except SnapshotRefused:
                if files.manifest.exists():
                    raise
                continue  # another program has removed it meanwhile
            return files

    async def _bake_once(
        self, image: Image, config: MachineConfig, report: Report, size: Size | None
    ) -> SnapshotFiles:
        """With the lock held: unless another program was faster; what a killed one left goes first.

        Two bakes of the same give two memories, so each has a name of its own: what lies over the one must
        never be put over the other.
        """
        folder = self._root / image.name
        await end_leftovers(self._driver, folder)
        if files := self.find(image, config):
            return files
        target = folder / (self._key(image, config) + self._sources.entropy(4).hex())
        with new_directory(target) as draft:
            await self._bake(image, config, draft, report)
            if size is not None:
                write_record(draft / SIZE, size)
        return snapshots.files_in(target)

    async def tidy(self, name: str) -> None:
        """As `end_leftovers`, of the image of this name."""
        await end_leftovers(self._driver, self._root / name)

    async def speed_up(self, image: Image, config: MachineConfig, snapshot: SnapshotFiles) -> None:
        """Have restores of this snapshot start faster, where the driver can."""
        recipe = image.recipe
        programs, first = (*WRITES, *recipe.manifest.warm), (*FIRST, *FIRST)
        rehearsal = Rehearsal(
            lambda machine, agent: self._rehearsed(machine, agent, recipe, first),
            lambda machine, agent: self._rehearsed(machine, agent, recipe, programs, in_full=True),
        )
        await self._driver.speed_up(snapshot, config, rehearsal)

    @asynccontextmanager
    async def _rehearsed(
        self,
        machine: Machine,
        agent: socket.socket,
        recipe: Recipe,
        lines: tuple[str, ...],
        *,
        in_full: bool = False,
    ) -> AsyncIterator[None]:
        """A restored machine after it has run some `lines`, connected and its gate closed. `in_full` it was
        had to trust somebody, too, and has had a volume.
        """
        async with await GuestLink.connect(agent, workdir=recipe.manifest.workdir) as link:
            link.announce(self._sources.entropy(16), self._facts(recipe))
            await answered(machine, link, GATE_SECONDS)
            for number, line in enumerate(lines):
                await run_to_end(link, line, f"rehearsal-{number}")  # an image may lack its program
                await _rehearse_snapshot(link)
            if in_full:
                with suppress(MachineError):  # an image without room for it
                    await trust.install(link, NOBODYS_CERTIFICATE)
                await self._rehearse_volume(machine, link, self._root / recipe.name)
            await self._close_gate(machine, link, recipe)
            await asyncio.sleep(REST_SECONDS)
            yield

    async def _rehearse_volume(self, machine: Machine, link: GuestLink, beside: Path) -> None:
        """Have it mount one of nobody's, and let go of it."""
        with workspace(beside) as folder:
            drive = Drive(folder / "volume", VOLUME_MB << 20)
            await make_disk(drive.path, VOLUME_MB, NOBODYS_VOLUME)
            for read_only in (False, True):
                await machine.attach((structs.replace(drive, read_only=read_only),))
                await link.mount(0, VOLUME_PLACE, drive.size_bytes, read_only=read_only)
                await link.unmount(VOLUME_PLACE)
                await machine.detach()

    async def _close_gate(self, machine: Machine, link: GuestLink, recipe: Recipe) -> None:
        """Close it, after what a restore does first has been done some times."""
        for _ in range(REHEARSALS):
            await link.seal(deadline=30.0)
            link.announce(self._sources.entropy(16), self._facts(recipe))
            await answered(machine, link, BOOT_SECONDS)
        await link.seal(deadline=30.0)

    async def _bake(self, image: Image, config: MachineConfig, draft: Path, report: Report) -> None:
        home = draft / BAKING
        home.mkdir()
        report(f"booting {image.name}")
        async with booted(self._driver, config, home) as machine:  # noqa: SIM117  # the link ends before
            async with await _connect(machine, image.recipe) as link:
                link.announce(self._sources.entropy(16), self._facts(image.recipe))
                await answered(machine, link, BOOT_SECONDS)
                if config.disk_bytes is not None:
                    await link.grow_root(config.disk_bytes)
                await make_ready(link, image.recipe, report)
                await self._close_gate(machine, link, image.recipe)
                await asyncio.sleep(SETTLE_SECONDS)
                report(f"writing the snapshot of {image.name}")
                await machine.snapshot(draft)
        await asyncio.to_thread(_remove_tree, home)

    def _facts(self, recipe: Recipe) -> GateFacts:
        """Of nobody: each restore gets its own."""
        return GateFacts(
            entropy=self._sources.entropy(64),
            clock_ns=self._sources.wall_ns(),
            hostname="template",
            machine_id=self._sources.entropy(16).hex(),
            env=recipe.manifest.env,
            network=GUEST_NETWORK,
        )

    def _key(self, image: Image, config: MachineConfig) -> str:
        """Tells everything that the snapshot depends on."""
        machinery = self._driver.machinery(config)
        parts = [image.digest, config.kernel.resolve(), config.initrd, image.recipe.digest, machinery]
        parts += [config.cpus, config.memory_mb, config.disk_bytes]
        return hashlib.sha256(msgspec.json.encode(parts, enc_hook=str)).hexdigest()[:16]


async def _rehearse_snapshot(link: GuestLink) -> None:
    """What a guest is asked for around a snapshot of it."""
    await link.freeze(FREEZE_MS, deadline=GATE_SECONDS)
    await link.thaw(deadline=GATE_SECONDS)
    with suppress(MachineError):  # one that is busy may refuse
        await link.still(STILL_MS, deadline=GATE_SECONDS)
    link.go()


async def end_leftovers(driver: Driver, folder: Path) -> None:
    """End and remove what a killed program was baking in `folder`; nobody else may bake there meanwhile."""
    for draft in leftovers(folder):
        machine = await driver.adopt(draft / BAKING)
        if machine is not None:
            await machine.stop(0)
    await asyncio.to_thread(sweep, folder)


@asynccontextmanager
async def booted(driver: BakingDriver, config: MachineConfig, home: Path) -> AsyncIterator[Machine]:
    """A machine for the length of the block."""
    machine = await driver.boot(config, home)
    try:
        yield machine
    finally:
        await machine.stop(0)


async def _connect(machine: Machine, recipe: Recipe) -> GuestLink:
    return await GuestLink.connect(await machine.dial(), workdir=recipe.manifest.workdir)


def _remove_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink()
    folder.rmdir()
