"""The templates of a machine that runs real virtual machines: images from the builder, snapshots from the
baker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from msgspec import structs

from pandastack.host.baker import Baker
from pandastack.host.builder import prepare
from pandastack.host.driver import MachineConfig, SnapshotFiles
from pandastack.host.image import Image, find_image
from pandastack.host.manifest import MANIFEST, load_recipe
from pandastack.host.network.addresses import GUEST
from pandastack.host.overlay import overlay
from pandastack.host.packages import Progress
from pandastack.host.paths import Cache
from pandastack.host.publish import write_whole
from pandastack.host.templates import Prepared
from pandastack.host.uses import Uses
from pandastack.model.image import Size, Template, parted

FIRST = ("base", "code-interpreter")
"""Offered in front of the others."""

DISK_SLACK = 1 << 30
"""Bytes that a machine's overlay may take beyond its virtual disk, for its own tables; then writes fail."""

STUCK_MB, STARTING_MB = 2048, 2040
"""In a machine of exactly 2 GiB QEMU's loader of Linux puts the end of the initramfs over the tables of ACPI,
at the top of memory, and the kernel waits there for ever. With a little less, or with more, it leaves them
alone.
"""


class BakedShelf:
    """Templates below `images_dir`; what is missing is built and baked when a template is first wanted.

    What it has made ready it holds in the cache through `uses`, and tells in `made`.
    """

    def __init__(self, cache: Cache, images_dir: Path, baker: Baker, uses: Uses, progress: Progress) -> None:
        self.made: asyncio.Queue[str] = asyncio.Queue()
        self._uses = uses
        self._cache = cache
        self._images_dir = images_dir
        self._baker = baker
        self._progress = progress

    def names(self) -> Sequence[str]:
        """Every folder with a manifest."""
        found = {path.parent.name for path in self._images_dir.glob(f"*/{MANIFEST}")}
        first = [name for name in FIRST if name in found]
        return [*first, *sorted(found.difference(first))]

    def describe(self, name: str) -> Template:
        """The template as it is on this host now."""
        image = find_image(name, self._cache, self._images_dir)
        if image is not None:
            return image.template(baked=self._baker.find(image, machine_config(image)) is not None)
        recipe = load_recipe(name, self._images_dir)
        manifest = recipe.manifest
        return Template(
            name=name,
            cpu=recipe.cpu,
            memory_mb=recipe.memory_mb,
            disk_mb=recipe.disk_mb,
            digest=recipe.digest,
            label=manifest.label,
            description=manifest.description,
            category=manifest.category,
            base=manifest.base or "",
            tools=list(manifest.tools),
            on_demand=manifest.on_demand,
        )

    async def make_ready(self, name: str) -> Prepared:
        """Build the image if it is not there, bake it if it is not, check the snapshot's hashes."""
        plain, size = parted(name)
        image = await self._image(plain)
        config = machine_config(image, size)
        self._uses.take(image.root_disk, image.initrd, image.kernel.vmlinuz)
        snapshot = await self._held(image, config, size)
        await self._baker.speed_up(image, config, snapshot)
        self.made.put_nowait(plain)
        manifest = image.recipe.manifest
        return Prepared(
            sized(image.template(baked=True), size),
            config,
            snapshot,
            env=manifest.env,
            workdir=manifest.workdir,
            user=manifest.user,
            guest_ip=str(GUEST.ip),
        )

    async def _held(self, image: Image, config: MachineConfig, size: Size | None) -> SnapshotFiles:
        """The snapshot, which no other program removes from now on."""
        while True:
            snapshot = await self._baker.bake(image, config, lambda line: self._progress(line, None), size)
            self._uses.take(snapshot.directory)
            if snapshot.manifest.exists():  # and not just removed
                return snapshot

    async def _image(self, name: str) -> Image:
        found = find_image(name, self._cache, self._images_dir)
        if found is not None:
            return found
        _, images = await prepare(self._cache, self._images_dir, [name], self._progress)
        return images[0]


def machine_config(image: Image, size: Size | None = None) -> MachineConfig:
    """The machine of an image, for any id; of its own size unless another one is asked for."""
    own = Size(image.recipe.cpu, image.recipe.memory_mb, image.recipe.disk_mb)
    size = size or own
    larger = size.disk_mb > own.disk_mb
    return MachineConfig(
        vm_id="",
        cpus=size.cpu,
        memory_mb=STARTING_MB if size.memory_mb == STUCK_MB else size.memory_mb,
        root_disk=image.root_disk,
        overlay=_overlay(image, size.disk_mb) if larger else image.overlay,
        disk_bytes=size.disk_mb << 20 if larger else None,
        disk_limit_bytes=(size.disk_mb << 20) + DISK_SLACK,
        kernel=image.kernel.vmlinuz,
        initrd=image.initrd,
    )


def sized(template: Template, size: Size | None) -> Template:
    """A template with machines of this size."""
    if size is None:
        return template
    return structs.replace(template, cpu=size.cpu, memory_mb=size.memory_mb, disk_mb=size.disk_mb)


def _overlay(image: Image, disk_mb: int) -> Path:
    """An empty layer over the image's disk that holds more than that."""
    path = image.overlay.with_name(f"overlay-{disk_mb}.qcow2")
    if not path.exists():
        write_whole(path, overlay(disk_mb << 20, image.root_disk))
    return path
