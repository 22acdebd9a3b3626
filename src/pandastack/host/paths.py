"""Every file on a host's disk, named once.

The cache holds what can be made again from its inputs and is shared by all installations of one user:
everything in it is named by what went into it, appears whole by a rename and is never changed afterwards, so
it may be read without a lock and deleted at any time when nothing runs; `prune` removes what nobody uses.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct


class Cache(Struct, frozen=True):
    """The content-addressed cache, `~/.cache/pandastack` by default.

    packages/        what a private apt knows and has downloaded
    kernel/          guest kernels, one folder a package version
    vmlinux/         those kernels unpacked, by digest of what they were unpacked from
    qemu/            virtual machine monitors, one folder a package version
    agent/           compiled guest agents, by digest of their sources
    initramfs/       first file systems of the guest, by digest of agent and modules
    images/NAME/     root disks by digest, and `recipes/`: which digest a recipe gave
    snapshots/NAME/  baked machines, by digest of all that they depend on and the number of the bake
    zygote/          compiled fork servers, by digest of their sources
    trash/           what is being removed
    locks/           one empty file for each thing that only one process may make at a time
    """

    root: Path

    def packages(self, archive: str) -> Path:
        """State of the private apt named `archive`: lists, index and configuration."""
        return self.root / "packages" / archive

    @property
    def downloads(self) -> Path:
        """Downloaded packages of all archives, kept between builds."""
        return self.root / "packages" / "downloads"

    def kernel(self, version: str) -> Path:
        return self.root / "kernel" / version

    @property
    def current_kernel(self) -> Path:
        """A link to the folder of the kernel that new images use."""
        return self.root / "kernel" / "current"

    def vmlinux(self, digest: str) -> Path:
        return self.root / "vmlinux" / f"{digest[:32]}.elf"

    def qemu(self, version: str) -> Path:
        return self.root / "qemu" / version

    @property
    def current_qemu(self) -> Path:
        """The record of which QEMU was found or unpacked last."""
        return self.root / "qemu" / "current.json"

    def agent(self, digest: str) -> Path:
        return self.root / "agent" / digest / "pandastack-agent"

    def initramfs(self, digest: str) -> Path:
        return self.root / "initramfs" / f"{digest}.cpio"

    def images(self, name: str) -> Path:
        """All that is known of one template."""
        return self.root / "images" / name

    def image(self, name: str, digest: str) -> Path:
        return self.images(name) / digest

    def image_of_recipe(self, name: str, recipe: str) -> Path:
        """A link to the folder of the image that a recipe gave last."""
        return self.images(name) / "recipes" / recipe

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def trash(self) -> Path:
        """On the same file system as all the rest, so that a rename into it takes an entry away at once."""
        return self.root / "trash"

    def lock(self, name: str) -> Path:
        return self.root / "locks" / name


OWN_IMAGES = "i"
"""The images of tenants, in a host's state."""

# The files of one image's folder.
ROOT_DISK = "root.ext4"
OVERLAY = "overlay.qcow2"
IMAGE_RECORD = "image.json"
PACKAGE_LIST = "packages.txt"

SIZE = "size.json"
"""Beside a snapshot that was baked for a size that was asked for: which. Its modification time is its last
use.
"""

# The files of one kernel's folder.
VMLINUZ = "vmlinuz"
MODULES = "modules"
KERNEL_RECORD = "kernel.json"

AGENT_NAME = "pandastack-agent"
"""The guest agent's file name, in the wheel's bundle and in the cache."""
