"""Which QEMU runs the machines: the system's own when it is recent, else a newer one unpacked into a folder
of ours.

Under software emulation QEMU 10 answers a warm command several times faster than 7.2, so it is worth
fetching; nothing of the system is changed for it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from pandastack.errors import BuildFailed
from pandastack.host.kernel import unpack
from pandastack.host.packages import Archive, Package, Progress
from pandastack.host.paths import Cache
from pandastack.host.publish import locked, new_directory, sweep
from pandastack.host.record import read_record, write_record
from pandastack.host.sources import of_release, read_release, read_sources, with_backports
from pandastack.host.tool import run_tool

PROGRAM = "qemu-system-x86_64"
PARTS = ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "qemu-utils", "seabios")
GOOD_MAJOR = 10
INSTALLED = Path("/var/lib/dpkg/status")
SYSTEM_LISTS = Path("/var/lib/apt/lists")
"""Changes whenever this machine learns of new packages."""
FIRMWARE = ("usr/share/qemu", "usr/share/seabios")
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
UNNEEDED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/lintian",
    "usr/bin/qemu-system-i386",
    "usr/lib/systemd",
)
PROBE_SECONDS = 30


class QemuInstall(Struct, frozen=True, kw_only=True):
    """A QEMU that runs here."""

    binary: Path
    firmware: tuple[Path, ...]
    """Folders for `-L`, in order."""
    version: str
    """`10.0.2`"""
    build: str
    """What its builder calls it; two builds of one version may not share a snapshot."""
    env: dict[str, str] = {}
    """To add to its environment: where its own libraries are, when the system lacks them."""
    image_tool: Path | None = None
    """Its qemu-img, to be run with the same `env`."""
    note: str = ""
    """Why it is no better one, when it is older than it should be."""

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


class _Record(Struct, frozen=True):
    """`stamp` tells whether the binary is still the file that was looked at (the owner may upgrade the
    system's).
    """

    install: QemuInstall
    stamp: tuple[int, int]


def find_qemu(cache: Cache) -> QemuInstall | None:
    """The QEMU that was settled on last, or None when there is none or it has changed since."""
    record = read_record(cache.current_qemu, _Record)
    return record.install if record and record.stamp == _stamp(record.install.binary) else None


def _stamp(binary: Path) -> tuple[int, int]:
    try:
        status = binary.stat()
    except FileNotFoundError:
        return (0, 0)
    return status.st_mtime_ns, status.st_size


async def ensure_qemu(cache: Cache, progress: Progress) -> QemuInstall:
    """Have the best QEMU that this machine can run.

    A recent one of the system's own is taken as it is; else the newest of the package sources (backports
    included) is unpacked; when none is newer or none can be fetched, the system's own with a `note`. What was
    settled on stays, if it is old, until this machine's own package lists change. Raises BuildFailed when
    there is none at all.
    """
    async with locked(cache.lock("qemu")):
        sweep(cache.current_qemu.parent)
        known = find_qemu(cache)
        if known is not None and (known.major >= GOOD_MAJOR or not _is_news(cache, SYSTEM_LISTS)):
            return known
        install = await _choose(cache, progress)
        write_record(cache.current_qemu, _Record(install, _stamp(install.binary)))
        return install


def _is_news(cache: Cache, lists: Path) -> bool:
    """Whether this machine's package lists have changed since a QEMU was settled on."""
    return lists.is_dir() and lists.stat().st_mtime > cache.current_qemu.stat().st_mtime


async def _choose(cache: Cache, progress: Progress) -> QemuInstall:
    own = await of_the_system()
    if own is not None and own.major >= GOOD_MAJOR:
        return own
    try:
        newer = await _newest_unpacked(cache, progress, above=own.major if own else 0)
    except BuildFailed as error:
        if own is None:
            raise
        return _noted(own, f"a newer one could not be unpacked: {error}")
    if newer is not None:
        return newer
    if own is not None:
        return _noted(own, "the package sources have no newer one")
    raise BuildFailed(f"No {PROGRAM} is installed and the package sources offer none; install QEMU.")


def _noted(install: QemuInstall, reason: str) -> QemuInstall:
    note = f"QEMU {install.version} works, {GOOD_MAJOR} is faster; {reason}"
    return msgspec.structs.replace(install, note=note)


async def of_the_system() -> QemuInstall | None:
    """The QEMU that is installed on this machine, if there is one. BuildFailed when it does not run."""
    binary = shutil.which(PROGRAM)
    if binary is None:
        return None
    return await _examine(Path(binary), Path("/"), {})


async def _examine(binary: Path, root: Path, env: dict[str, str]) -> QemuInstall:
    said = await run_tool([binary, "--version"], timeout=PROBE_SECONDS, settings=env)
    match = re.search(r"version (\d+(?:\.\d+)+)(?: \(([^)]*)\))?", said)
    if match is None:
        raise BuildFailed(f"{binary} does not say its version: {said.strip()[:200]}")
    image_tool = binary.with_name("qemu-img")
    return QemuInstall(
        binary=binary,
        firmware=tuple(root / folder for folder in FIRMWARE if (root / folder).is_dir()),
        version=match[1],
        build=match[2] or match[1],
        env=env,
        image_tool=image_tool if image_tool.exists() else None,
    )


async def _newest_unpacked(cache: Cache, progress: Progress, *, above: int) -> QemuInstall | None:
    """Unpack the newest QEMU of the package sources, if its major version is above `above`."""
    progress("looking for a newer QEMU", None)
    archive = await _archive_with_backports(cache)
    versions = await archive.versions(PARTS[0])
    version = max(versions, key=_major, default=None)
    if version is None or _major(version) <= above:
        return None
    folder = cache.qemu(version.replace(":", "_"))
    if not folder.exists():
        packages = await _with_missing_libraries(archive, version)
        await archive.download(packages, progress)
        progress(f"unpacking QEMU {version}", None)
        with new_directory(folder) as draft:
            await unpack([archive.path(package) for package in packages], draft)
            _prune(draft)
    return await _examine(folder / "usr" / "bin" / PROGRAM, folder, _library_env(folder))


async def _archive_with_backports(cache: Cache) -> Archive:
    """A private apt over the system's own release; its backports are taken in where its mirror has them."""
    release = read_release()
    own = of_release(read_sources(), release.codename)
    home = cache.packages(f"{release.distribution}-{release.codename}")
    archive = Archive(home, cache.downloads, with_backports(own, release.codename), installed=INSTALLED)
    try:
        await archive.update()
    except BuildFailed:
        archive = Archive(home, cache.downloads, own, installed=INSTALLED)
        await archive.update()
    return archive


def _major(version: str) -> int:
    """`1:10.0.2+ds-2` is of major version 10."""
    match = re.match(r"(?:\d+:)?(\d+)", version)
    return int(match[1]) if match else 0


async def _with_missing_libraries(archive: Archive, version: str) -> list[Package]:
    """QEMU's own packages, and what they need that the system has not."""
    pinned = [f"{part}={version}" if part.startswith("qemu") else part for part in PARTS]
    release = f"{read_release().codename}-backports" if "bpo" in version else None
    needed = await archive.resolve(pinned, release=release)
    own = [await archive.locate(part) for part in pinned]
    return sorted({*needed, *own})


def _prune(root: Path) -> None:
    """Drop what running machines never read: most of the space."""
    for name in UNNEEDED:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _library_env(root: Path) -> dict[str, str]:
    folders: Sequence[Path] = [root / name for name in LIBRARIES]
    with_libraries = [str(folder) for folder in folders if any(folder.glob("lib*.so*"))]
    return {"LD_LIBRARY_PATH": ":".join(with_libraries)} if with_libraries else {}
