"""One image on this host: a root disk, its empty overlay, and what boots them."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from pandastack.host.agent import find_agent
from pandastack.host.initramfs import ensure_initramfs
from pandastack.host.kernel import Kernel, find_kernel
from pandastack.host.manifest import Recipe, load_recipe
from pandastack.host.paths import IMAGE_RECORD, OVERLAY, ROOT_DISK, Cache
from pandastack.host.record import read_record
from pandastack.model.image import Template


class Image(Struct, frozen=True, kw_only=True):
    """A template's files on this host, ready to boot. Every file that it names is immutable."""

    recipe: Recipe
    digest: str
    """Of the inputs: the recipe and the exact packages."""
    root_disk: Path
    overlay: Path
    kernel: Kernel
    initrd: Path
    size_bytes: int
    """What the root disk takes on this host's disk."""

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def boot_digest(self) -> str:
        """Names all that the first boot reads, the agent included: two equal ones bake to the same
        machine.
        """
        return f"{self.digest[:32]}-{self.kernel.digest[:16]}-{self.initrd.stem[:16]}"

    def template(self, *, baked: bool) -> Template:
        """The image as its users see it."""
        recipe, manifest = self.recipe, self.recipe.manifest
        return Template(
            name=recipe.name,
            cpu=recipe.cpu,
            memory_mb=recipe.memory_mb,
            disk_mb=recipe.disk_mb,
            digest=self.digest,
            size_bytes=self.size_bytes,
            baked=baked,
            label=manifest.label,
            description=manifest.description,
            category=manifest.category,
            base=manifest.base or "",
            tools=list(manifest.tools),
            on_demand=manifest.on_demand,
        )


class DiskRecord(Struct, frozen=True, kw_only=True):
    """What is known of a root disk, kept beside it. `content` is the SHA-256 of what is on it."""

    digest: str
    recipe: str
    content: str
    packages: int
    size_bytes: int


def find_image(name: str, cache: Cache, images_dir: Path) -> Image | None:
    """The image of template `name` as its recipe is now, or None when it, the kernel or the agent is not
    there yet.

    Takes milliseconds. Raises TemplateNotFound and InvalidRequest as `load_recipe` does.
    """
    recipe = load_recipe(name, images_dir)
    kernel, agent = find_kernel(cache), find_agent(cache)
    if kernel is None or agent is None:
        return None
    return image_of(recipe, cache, kernel, agent)


def image_of(recipe: Recipe, cache: Cache, kernel: Kernel, agent: Path) -> Image | None:
    """The image that `recipe` gave last, to be booted by `kernel` and `agent`; None when there is none."""
    folder = cache.image_of_recipe(recipe.name, recipe.digest).resolve()
    record = read_record(folder / IMAGE_RECORD, DiskRecord)
    if record is None:
        return None
    return Image(
        recipe=recipe,
        digest=record.digest,
        root_disk=folder / ROOT_DISK,
        overlay=folder / OVERLAY,
        kernel=kernel,
        initrd=ensure_initramfs(cache, kernel, agent),
        size_bytes=record.size_bytes,
    )
