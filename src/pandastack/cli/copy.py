"""`pandastack sandbox cp` and `volume cp`: files and directories between this machine and those."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import typer

from pandastack import Files
from pandastack.cli.session import console


class Remote(NamedTuple):
    """A path in a sandbox, or on a volume."""

    name: str
    path: str


def between(files_of: Callable[[str], Files], source: str, target: str) -> None:
    """Copy a file or a tree; exactly one of the two is `ID:/path`."""
    here, there = parse(source), parse(target)
    if isinstance(here, Path) and isinstance(there, Remote):
        _in(files_of(there.name), here, there.path)
    elif isinstance(here, Remote) and isinstance(there, Path):
        _out(files_of(here.name), here.path, there)
    else:
        raise typer.BadParameter("One of SRC and DST is ID:/path, the other a path of this machine.")


def parse(text: str) -> Remote | Path:
    """`ID:/path` or a local path; a local path with a colon in it is written `./a:b`."""
    name, colon, path = text.partition(":")
    if colon and path.startswith("/") and "/" not in name:
        return Remote(name, path)
    return Path(text)


def _in(files: Files, source: Path, target: str) -> None:
    if not source.exists():
        raise typer.BadParameter(f"{source} does not exist.")
    if target.endswith("/") or _is_directory(files, target):
        target = str(PurePosixPath(target) / source.resolve().name)
    if source.is_file():
        _send(files, source, target)
        return
    for directory, _, names in os.walk(source):
        below = PurePosixPath(target) / Path(directory).relative_to(source).as_posix()
        files.mkdir(str(below))
        for name in names:
            _send(files, Path(directory) / name, str(below / name))


def _out(files: Files, source: str, target: Path) -> None:
    info = files.stat(source)
    if target.is_dir():
        target /= info.name
    if not info.is_dir:
        _fetch(files, source, target)
        return
    for directory, _, found in files.walk(source):
        below = target / PurePosixPath(directory).relative_to(source)
        below.mkdir(parents=True, exist_ok=True)
        for file in found:
            if file.mode == "f":
                _fetch(files, file.path, below / safe_name(file.name))


def safe_name(name: str) -> str:
    """A name that the guest gave, as a single local one: it never leads out of the directory."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise typer.BadParameter(f"It holds a file named {name!r}, which is not copied.")
    return name


def _is_directory(files: Files, path: str) -> bool:
    return files.exists(path) and files.stat(path).is_dir


def _send(files: Files, source: Path, target: str) -> None:
    with console(stderr=True).status(f"{source} → {target}"), source.open("rb") as file:
        files.upload(file, target, mode=source.stat().st_mode & 0o777)


def _fetch(files: Files, source: str, target: Path) -> None:
    with console(stderr=True).status(f"{source} → {target}"):
        files.download(source, target)
