"""Images that tenants have made: root file systems out of builds, which lie on volumes when they come.

`i/ID/` holds `image/` (the root disk, its empty overlay, and `image.json`, without which there is none) and
the snapshots that were baked of it. No program of this host ever looks into the disk: it was made in a
machine, and is booted in one.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from pandastack.errors import BuildFailed
from pandastack.host import layers
from pandastack.host.agent import ensure_agent, find_agent
from pandastack.host.baker import Baker
from pandastack.host.builder import content_digest
from pandastack.host.image import DiskRecord, Image
from pandastack.host.initramfs import ensure_initramfs
from pandastack.host.kernel import Kernel, find_kernel
from pandastack.host.manifest import Recipe, TemplateManifest
from pandastack.host.network.addresses import GUEST
from pandastack.host.overlay import overlay
from pandastack.host.packages import Progress
from pandastack.host.paths import IMAGE_RECORD, OVERLAY, ROOT_DISK, Cache
from pandastack.host.publish import flush_tree, full_disk_said, new_directory, sweep, taken_away
from pandastack.host.record import read_record, write_record
from pandastack.host.shelf import machine_config, sized
from pandastack.host.templates import Prepared
from pandastack.model.image import ImageSpec, Template, is_own, parted

FOLDER = "image"
SPEC = "spec.json"
READABLE = 0o444


class Held(Struct, frozen=True):
    """An image that is there: the order for it, and what its disk takes."""

    spec: ImageSpec
    record: DiskRecord


class OwnImages:
    """All images of tenants on this host, below one directory."""

    def __init__(self, root: Path, cache: Cache, baker: Baker, progress: Progress) -> None:
        self._root = root
        self._cache = cache
        self._baker = baker
        self._progress = progress
        self._held: dict[str, Held] = {}
        self._making = asyncio.Lock()

    async def open(self) -> None:
        """Find what an earlier program has made; what was half made goes, with the machine that was baking
        it.
        """
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        await asyncio.to_thread(sweep, self._root)
        for home in self._root.iterdir():
            await self._baker.tidy(home.name)
        await asyncio.to_thread(self._look)

    def _look(self) -> None:
        for home in self._root.iterdir():
            spec = read_record(home / FOLDER / SPEC, ImageSpec)
            record = read_record(home / FOLDER / IMAGE_RECORD, DiskRecord)
            if spec is None or record is None:
                shutil.rmtree(home, ignore_errors=True)
            else:
                self._held[home.name] = Held(spec, record)

    async def make(self, spec: ImageSpec, disk: Path) -> None:
        """Have the image of a root disk, which nobody writes any more; twice is the same one. NoSpace."""
        async with self._making:
            if spec.id in self._held:
                return
            folder = self._root / spec.id / FOLDER
            with full_disk_said(), new_directory(folder) as draft:
                record = await asyncio.to_thread(_fill, draft, folder, spec, disk)
                await asyncio.to_thread(flush_tree, draft)
            self._held[spec.id] = Held(spec, record)

    async def drop(self, image_id: str) -> None:
        """Remove an image; fine when there is none. What was snapshotted of it has its files by itself."""
        self._held.pop(image_id, None)
        home = self._root / image_id
        if is_own(image_id) and home.is_dir():
            await asyncio.to_thread(shutil.rmtree, taken_away(home), ignore_errors=True)

    # -- as a shelf

    def names(self) -> Iterable[str]:
        """All that are there."""
        return tuple(self._held)

    def describe(self, name: str) -> Template:
        """What is known of one."""
        held = self._held[name]
        kernel, agent = find_kernel(self._cache), find_agent(self._cache)
        if kernel is None or agent is None:  # a newer program, which has not made its own yet
            return _told(held, baked=False)
        image = self._image(name, kernel, agent)
        return _told(held, baked=self._baker.find(image, machine_config(image)) is not None)

    async def make_ready(self, name: str) -> Prepared:
        """Boot it once, unless that was done; check what was kept."""
        plain, size = parted(name)
        kernel = find_kernel(self._cache)
        if kernel is None:
            raise BuildFailed("This host has no guest kernel any more; `pandastack setup` fetches one.")
        image = self._image(plain, kernel, await ensure_agent(self._cache))
        config = machine_config(image, size)
        snapshot = await self._baker.bake(image, config, lambda line: self._progress(line, None), size)
        await self._baker.speed_up(image, config, snapshot)
        spec = self._held[plain].spec
        return Prepared(
            sized(_told(self._held[plain], baked=True), size),
            config,
            snapshot,
            env=spec.env,
            workdir=spec.workdir,
            guest_ip=str(GUEST.ip),
            user=spec.user,
        )

    def _image(self, name: str, kernel: Kernel, agent: Path) -> Image:
        held = self._held[name]
        folder = self._root / name / FOLDER
        return Image(
            recipe=_recipe(held.spec),
            digest=held.record.digest,
            root_disk=folder / ROOT_DISK,
            overlay=folder / OVERLAY,
            kernel=kernel,
            initrd=ensure_initramfs(self._cache, kernel, agent),
            size_bytes=held.record.size_bytes,
        )


def _fill(draft: Path, folder: Path, spec: ImageSpec, disk: Path) -> DiskRecord:
    root = draft / ROOT_DISK
    layers.link(disk, root)
    root.chmod(READABLE)
    (draft / OVERLAY).write_bytes(overlay(spec.disk_mb << 20, folder / ROOT_DISK))
    content = content_digest(root)
    digest = hashlib.sha256(f"{spec.id} {content}".encode()).hexdigest()
    size = root.stat().st_blocks * 512
    record = DiskRecord(digest=digest, recipe=digest, content=content, packages=0, size_bytes=size)
    write_record(draft / SPEC, spec)
    write_record(draft / IMAGE_RECORD, record)
    return record


def _recipe(spec: ImageSpec) -> Recipe:
    """The order as the bakery reads it."""
    manifest = TemplateManifest(
        label=spec.id,
        description="",
        cpu=spec.cpu,
        memory_mb=spec.memory_mb,
        disk_mb=spec.disk_mb,
        env=spec.env,
        workdir=spec.workdir,
        user=spec.user,
        start=spec.start,
        ready=spec.ready,
    )
    return Recipe(name=spec.id, manifest=manifest, layers=(), digest=spec.id)


def _told(held: Held, *, baked: bool) -> Template:
    spec = held.spec
    return Template(
        name=spec.id,
        cpu=spec.cpu,
        memory_mb=spec.memory_mb,
        disk_mb=spec.disk_mb,
        digest=held.record.digest,
        size_bytes=held.record.size_bytes,
        baked=baked,
        is_global=False,
    )
