"""The guest's kernel: the distribution's own cloud kernel, taken out of its package without installing it."""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from pandastack.errors import BuildFailed
from pandastack.host.packages import Archive, Package, Progress
from pandastack.host.paths import KERNEL_RECORD, MODULES, VMLINUZ, Cache
from pandastack.host.publish import locked, new_directory, point, sweep, workspace
from pandastack.host.record import read_record, write_record
from pandastack.host.tool import run_tool

METAPACKAGE = "linux-image-cloud-amd64"
NEWEST = r"linux-image-\S+-cloud-amd64"

WANTED = (
    "virtio_mmio",  # the transport of QEMU's microvm machine and of Firecracker
    "virtio_pci",  # the transport of QEMU's q35 machine
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio-rng",
    "virtio_balloon",
    "vmw_vsock_virtio_transport",
    "overlay",
)
"""Modules that a guest needs before it has a root file system, in the order in which they are loaded."""

UNPACK_SECONDS = 120


class Kernel(Struct, frozen=True):
    """A kernel on this host's disk. `modules` are in loading order, dependencies first."""

    version: str
    """Of its package: `6.1.192-2`."""
    release: str
    """What `uname -r` says in the guest."""
    vmlinuz: Path
    modules: tuple[Path, ...]
    digest: str
    """SHA-256 over the kernel and its modules."""


class _Record(Struct, frozen=True):
    version: str
    release: str
    modules: tuple[str, ...]
    digest: str


def find_kernel(cache: Cache) -> Kernel | None:
    """The kernel that new images use, or None when there is none yet."""
    folder = cache.current_kernel.resolve()
    record = read_record(folder / KERNEL_RECORD, _Record)
    if record is None:
        return None
    modules = tuple(folder / MODULES / name for name in record.modules)
    return Kernel(record.version, record.release, folder / VMLINUZ, modules, record.digest)


async def ensure_kernel(cache: Cache, archive: Archive, progress: Progress) -> Kernel:
    """Have the newest cloud kernel that `archive` offers; it is downloaded and unpacked only if it is not
    there.
    """
    async with locked(cache.lock("kernel")):
        sweep(cache.current_kernel.parent)
        package = await archive.locate(await archive.dependency(METAPACKAGE, NEWEST))
        folder = cache.kernel(package.version)
        if not folder.exists():
            await archive.download([package], progress)
            progress("unpacking the kernel", None)
            with workspace(cache.root / "kernel") as scratch, new_directory(folder) as draft:
                await unpack([archive.path(package)], scratch)
                _keep_what_guests_need(package, scratch, draft)
        point(cache.current_kernel, folder)
    kernel = find_kernel(cache)
    assert kernel is not None  # noqa: S101  published two lines above
    return kernel


async def unpack(debs: Iterable[Path], into: Path) -> None:
    """Unpack the files of packages without running anything of theirs."""
    for deb in debs:
        await run_tool(["dpkg-deb", "--extract", deb, into], timeout=UNPACK_SECONDS)


def _keep_what_guests_need(package: Package, tree: Path, folder: Path) -> None:
    release = package.name.removeprefix("linux-image-").removesuffix("-unsigned")
    shutil.copyfile(tree / "boot" / f"vmlinuz-{release}", folder / VMLINUZ)
    modules = load_order(WANTED, tree / "lib" / "modules" / release)
    (folder / MODULES).mkdir()
    for module in modules:
        shutil.copyfile(module, folder / MODULES / module.name)
    names = tuple(module.name for module in modules)
    digest = _digest([folder / VMLINUZ, *(folder / MODULES / name for name in names)])
    write_record(folder / KERNEL_RECORD, _Record(package.version, release, names, digest))


def _digest(files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def load_order(wanted: Iterable[str], tree: Path) -> list[Path]:
    """The module files of `wanted` and of all they depend on, each after what it needs.

    What is built into the kernel is left out. Raises BuildFailed for a module that is neither.
    """
    files = {_canonical(path.stem): path for path in tree.rglob("*.ko")}
    built_in = {_canonical(Path(line).stem) for line in (tree / "modules.builtin").read_text().split()}
    order: dict[str, Path] = {}
    for name in wanted:
        _add_with_dependencies(_canonical(name), files, built_in, order)
    return list(order.values())


def _add_with_dependencies(
    name: str, files: Mapping[str, Path], built_in: set[str], order: dict[str, Path]
) -> None:
    if name in order or name in built_in:
        return
    if name not in files:
        raise BuildFailed(f"The kernel's package has no module {name}; another kernel package is needed.")
    for dependency in dependencies(files[name].read_bytes()):
        _add_with_dependencies(_canonical(dependency), files, built_in, order)
    order[name] = files[name]


def _canonical(name: str) -> str:
    """The kernel takes `-` and `_` in a module's name for the same."""
    return name.replace("-", "_")


def dependencies(module: bytes) -> list[str]:
    """What a kernel module says it depends on.

    Packages carry no modules.dep: depmod makes it at installation from this very field of each module.
    """
    for entry in _section(module, b".modinfo").split(b"\0"):
        key, _, value = entry.partition(b"=")
        if key == b"depends":
            return value.decode().split(",") if value else []
    return []


def _section(elf: bytes, wanted: bytes) -> bytes:
    """The content of a section of a 64-bit little-endian ELF file."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise BuildFailed("A kernel module is not a 64-bit ELF file; is it compressed?")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names_index = struct.unpack_from("<3H", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + index * size) for index in range(count)]
    names_at = headers[names_index][4]
    for name, _, _, _, offset, length in headers:
        start = names_at + name
        if elf[start : elf.index(b"\0", start)] == wanted:
            return elf[offset : offset + length]
    return b""
