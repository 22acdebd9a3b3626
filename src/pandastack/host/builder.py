"""Templates made into images: packages, files and steps in, an immutable root disk out.

The same recipe and the same packages give the same digest and the same bytes. Nothing half-made is ever
visible: an image is built in a folder of its own and renamed into the cache, under a lock that only one
process holds.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from pandastack.errors import BuildFailed, NoSpace
from pandastack.host import npm, pypi, sparse
from pandastack.host.agent import ensure_agent, find_agent
from pandastack.host.ext4 import make_disk
from pandastack.host.image import DiskRecord, Image, image_of
from pandastack.host.kernel import Kernel, ensure_kernel, find_kernel
from pandastack.host.manifest import Recipe, load_recipe
from pandastack.host.overlay import overlay
from pandastack.host.packages import Archive, Package, Progress
from pandastack.host.paths import IMAGE_RECORD, OVERLAY, PACKAGE_LIST, ROOT_DISK, Cache
from pandastack.host.publish import (
    flush_tree,
    full_disk_said,
    leftovers,
    locked,
    new_directory,
    point,
    workspace,
)
from pandastack.host.qemu_install import QemuInstall, ensure_qemu
from pandastack.host.record import write_record
from pandastack.host.rootfs import BUILD_TIME, build_tree, fetch, remove_tree, wrapper
from pandastack.host.sources import Source, debian_sources

KERNEL_SUITE = "bookworm"
ESSENTIAL = ("?essential", "apt")
SPACE_NEEDED = 6 << 30
"""Bytes that a build may take at its height: the unpacked tree, its packages and the disk."""


async def prepare(
    cache: Cache,
    images_dir: Path,
    names: Iterable[str],
    progress: Progress,
    *,
    mirror: str | None = None,
) -> tuple[QemuInstall, list[Image]]:
    """Have everything that machines of the templates `names` need; what is there already costs nothing.

    `mirror` overrides where Debian packages come from. Raises BuildFailed with a sentence that says what to
    do next, NoSpace, TemplateNotFound; what was finished before stays and is not made again.
    """
    recipes = [load_recipe(name, images_dir) for name in names]
    agent = find_agent(cache)
    if agent is None:
        progress("compiling the guest agent", None)
        agent = await ensure_agent(cache)
    qemu = await ensure_qemu(cache, progress)
    kernel = find_kernel(cache) or await ensure_kernel(
        cache, await _archive(cache, KERNEL_SUITE, mirror), progress
    )
    images = []
    for recipe in recipes:
        images.append(await _ensure_image(recipe, cache, kernel, agent, progress, mirror=mirror))
    return qemu, images


async def build_image(
    name: str,
    cache: Cache,
    images_dir: Path,
    agent: Path,
    progress: Progress,
    *,
    mirror: str | None = None,
    refresh: bool = False,
) -> Image:
    """Have the image of template `name`; `refresh` looks for newer packages even if there is one.

    Errors as `prepare`. A failed or cancelled build leaves nothing but downloaded packages.
    """
    recipe = load_recipe(name, images_dir)
    kernel = None if refresh else find_kernel(cache)
    if kernel is None:
        kernel = await ensure_kernel(cache, await _archive(cache, KERNEL_SUITE, mirror), progress)
    return await _ensure_image(recipe, cache, kernel, agent, progress, mirror=mirror, refresh=refresh)


async def _ensure_image(
    recipe: Recipe,
    cache: Cache,
    kernel: Kernel,
    agent: Path,
    progress: Progress,
    *,
    mirror: str | None,
    refresh: bool = False,
) -> Image:
    found = image_of(recipe, cache, kernel, agent)
    if found is not None and not refresh:
        return found

    def told(what: str, fraction: float | None) -> None:
        progress(f"{recipe.name}: {what}", fraction)

    async with locked(cache.lock(f"image-{recipe.name}")):
        found = image_of(recipe, cache, kernel, agent)
        if found is None or refresh:
            for path in leftovers(cache.images(recipe.name)):
                await remove_tree(path)
            await _build(recipe, cache, told, mirror=mirror)
            found = image_of(recipe, cache, kernel, agent)
    if found is None:
        raise BuildFailed(
            f"The image of {recipe.name} vanished from {cache.root} while it was made; try again."
        )
    return found


async def _archive(cache: Cache, suite: str, mirror: str | None) -> Archive:
    """A private apt over the Debian release `suite`, for a machine that has nothing yet."""
    archive = Archive(
        cache.packages(f"guest-{suite}"), cache.downloads, await debian_sources(suite, mirror=mirror)
    )
    await archive.update()
    return archive


async def _build(recipe: Recipe, cache: Cache, progress: Progress, *, mirror: str | None) -> None:
    progress("resolving packages", None)
    _refuse_without_space(cache.root)
    archive = await _archive(cache, recipe.suite, mirror)
    packages = await archive.resolve([*ESSENTIAL, *recipe.manifest.packages])
    digest = input_digest(recipe, packages, archive.sources)
    folder = cache.image(recipe.name, digest)
    if not folder.exists():
        await archive.download(packages, progress)
        await _make(recipe, archive, packages, folder, progress)
    point(cache.image_of_recipe(recipe.name, recipe.digest), folder)


def _refuse_without_space(root: Path) -> None:
    free = shutil.disk_usage(root).free
    if free < SPACE_NEEDED:
        raise NoSpace(
            f"Building an image needs {SPACE_NEEDED >> 30} GiB free in {root}, "
            f"there are {free / (1 << 30):.1f}."
        )


def input_digest(recipe: Recipe, packages: Iterable[Package], sources: Iterable[Source]) -> str:
    """SHA-256 over everything that an image is made from; its guests are told `sources`."""
    total = hashlib.sha256(f"{recipe.digest} {BUILD_TIME}\n".encode())
    for source in sources:
        total.update(source.stanza().encode())
    for package in sorted(packages):
        total.update(f"{package.file} {package.sha256}\n".encode())
    return total.hexdigest()


async def _make(
    recipe: Recipe, archive: Archive, packages: Sequence[Package], folder: Path, progress: Progress
) -> None:
    with workspace(folder.parent) as work:
        try:
            fetched = await fetch(recipe, work, archive.home.with_name("npm"), progress)
            tree = await build_tree(recipe, archive, packages, fetched, work, progress)
            progress("making the root disk", None)
            with new_directory(folder) as draft:
                await _fill(draft, folder, recipe, packages, tree)
        finally:
            await remove_tree(work / "root")


async def _fill(draft: Path, folder: Path, recipe: Recipe, packages: Sequence[Package], tree: Path) -> None:
    """Make an image's files in `draft`, which will be named `folder`."""
    digest = folder.name
    disk = draft / ROOT_DISK
    await make_disk(tree, disk, size_mb=recipe.disk_mb, seed=digest, time=BUILD_TIME, inside=wrapper())
    with full_disk_said():
        (draft / OVERLAY).write_bytes(overlay(recipe.disk_mb << 20, folder / ROOT_DISK))
        listed = [f"{package.name} {package.version}" for package in packages]
        listed += [line for each in recipe.npm for line in npm.listed(each)]
        listed += [line for each in recipe.wheels for line in pypi.listed(each)]
        (draft / PACKAGE_LIST).write_text("".join(f"{line}\n" for line in listed))
    record = DiskRecord(
        digest=digest,
        recipe=recipe.digest,
        content=await asyncio.to_thread(content_digest, disk),
        packages=len(packages),
        size_bytes=disk.stat().st_blocks * 512,
    )
    write_record(draft / IMAGE_RECORD, record)
    await asyncio.to_thread(flush_tree, draft)


def content_digest(disk: Path) -> str:
    """SHA-256 over what is on the disk; its holes, most of it, are not read."""
    total = hashlib.sha256()
    with disk.open("rb") as file:
        for offset, chunk in sparse.chunks(file.fileno()):
            total.update(offset.to_bytes(8, "little"))
            total.update(chunk)
    return total.hexdigest()
