"""The guest's first file system: the agent as `/init`, the kernel modules it loads, and nothing else.

Written here in the kernel's own format (cpio "newc"), always the same bytes for the same inputs,
uncompressed: unpacking costs an emulated processor more than reading.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from pandastack.host.kernel import Kernel
from pandastack.host.paths import Cache
from pandastack.host.publish import write_whole

LAYOUT = 1
"""Counts changes of what is inside, so that an initramfs of an older layout is not taken for a current
one.
"""

FOLDERS = ("dev", "disk", "lib", "lib/modules", "proc", "run", "sys", "tmp")
ALIGNMENT = 4


class Entry(Struct, frozen=True):
    """One file of an archive; `device` is the (major, minor) of a device node."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def ensure_initramfs(cache: Cache, kernel: Kernel, agent: Path) -> Path:
    """The initramfs of this kernel and this agent; made when it is not there, which takes milliseconds."""
    path = cache.initramfs(_digest(kernel, agent))
    if not path.exists():
        write_whole(path, archive(contents(kernel.modules, agent)))
    return path


def _digest(kernel: Kernel, agent: Path) -> str:
    inputs = f"{LAYOUT} {kernel.digest} {hashlib.sha256(agent.read_bytes()).hexdigest()}"
    return hashlib.sha256(inputs.encode()).hexdigest()


def contents(modules: Sequence[Path], agent: Path) -> Iterator[Entry]:
    """The files of the initramfs. `/modules` names the modules in loading order, one path a line."""
    for folder in FOLDERS:
        yield Entry(folder, stat.S_IFDIR | 0o755)
    # The kernel opens the console for init before init can make the node.
    yield Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    yield Entry("dev/null", stat.S_IFCHR | 0o666, device=(1, 3))
    yield Entry("init", stat.S_IFREG | 0o755, agent.read_bytes())
    paths = [f"lib/modules/{module.name}" for module in modules]
    for path, module in zip(paths, modules, strict=True):
        yield Entry(path, stat.S_IFREG | 0o644, module.read_bytes())
    yield Entry("modules", stat.S_IFREG | 0o644, "".join(f"/{path}\n" for path in paths).encode())


def archive(entries: Iterable[Entry]) -> bytes:
    """A cpio archive of `entries` in the format "newc" (SVR4 without checksums)."""
    output = bytearray()
    for number, entry in enumerate(entries, start=1):
        _append(output, entry, inode=number)
    _append(output, Entry("TRAILER!!!", 0), inode=0)
    return bytes(output)


def _append(output: bytearray, entry: Entry, *, inode: int) -> None:
    name = entry.name.encode() + b"\0"
    major, minor = entry.device
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, major, minor, len(name), 0)
    output += b"070701" + "".join(f"{field:08X}" for field in fields).encode() + name
    _pad(output)
    output += entry.data
    _pad(output)


def _pad(output: bytearray) -> None:
    output += bytes(-len(output) % ALIGNMENT)
