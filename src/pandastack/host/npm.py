"""Packages of the npm registry: trees of modules exactly as their locks say, to be laid into a root file
system.

The owner's own npm fetches them, with its settings (registry, proxy, credentials, certificates), and checks
each against the SHA-512 of the lock. Nothing of them is run here: what is to be compiled, a step compiles.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from pandastack.errors import BuildFailed, InvalidRequest
from pandastack.host.packages import DOWNLOAD_SECONDS, Progress
from pandastack.host.publish import full_disk_said, locked
from pandastack.host.tool import run_tool
from pandastack.host.uses import mark_used

WANTED, LOCK = "package.json", "package-lock.json"
MODULES = "node_modules"
FLAGS = ("--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--no-update-notifier")


class NpmTree(Struct, frozen=True):
    """A folder with a `package.json` and its lock, and the directory of the guest below which what they name
    is to be, as `node_modules`.
    """

    folder: Path
    target: str


def check(tree: NpmTree) -> None:
    """Raise InvalidRequest unless the lock pins every package by its content."""
    for path, entry in _entries(tree.folder / LOCK):
        if not str(entry.get("integrity", "")).startswith("sha512-"):
            raise InvalidRequest(f"{tree.folder / LOCK}: {path} has no sha512 of its content.")


def listed(tree: NpmTree) -> list[str]:
    """`npm:name version` of each package that the lock names."""
    entries = _entries(tree.folder / LOCK)
    return sorted({f"npm:{path.rpartition(f'{MODULES}/')[2]} {entry['version']}" for path, entry in entries})


def _entries(lock: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a lock says, less the tree itself and what is inside of another package's file."""
    try:
        packages = msgspec.json.decode(lock.read_bytes())["packages"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{lock} is no lock of npm: {error}.") from error
    for path, entry in packages.items():
        if path and not entry.get("inBundle"):
            yield path, entry


async def fetch(trees: Sequence[NpmTree], work: Path, cache: Path, progress: Progress) -> list[Path]:
    """A folder below `work` for each tree, which holds its `node_modules`; `cache` keeps what has arrived.

    Raises BuildFailed when there is no npm here or a package cannot be had, or is another one than the lock
    says; NoSpace.
    """
    if not trees:
        return []
    for tree in trees:
        check(tree)
    if shutil.which("npm") is None:
        raise BuildFailed(
            "This template has packages of the npm registry, and there is no `npm` here to fetch them: "
            "install Node.js with npm (apt-get install npm), then try again."
        )
    made = []
    with full_disk_said():
        cache.mkdir(parents=True, exist_ok=True)
        mark_used(cache)
    async with locked(cache.with_name(f"{cache.name}.lock")):
        for number, tree in enumerate(trees):
            progress(f"fetching {len(listed(tree))} packages of npm ({tree.folder.name})", None)
            made.append(await _fetch(tree, work / f"npm-{number}", cache))
    return made


async def _fetch(tree: NpmTree, folder: Path, cache: Path) -> Path:
    with full_disk_said():
        folder.mkdir()
        for name in (WANTED, LOCK):
            shutil.copy(tree.folder / name, folder / name)
    try:
        command = ["npm", "ci", *FLAGS, f"--cache={cache}"]
        await run_tool(command, timeout=DOWNLOAD_SECONDS, cwd=folder)
    except BuildFailed as error:
        raise BuildFailed(
            "The packages of npm could not be fetched; look at the network and at npm's settings, then try "
            f"again: what has arrived is kept.\n{error}"
        ) from error
    return folder
