"""`pandastack sandbox cp`: files and directories between this machine and a sandbox."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import typer

from pandastack import Sandbox
from pandastack.cli.session import Session, console


class Remote(NamedTuple):
    """A path in a sandbox."""

    sandbox_id: str
    path: str


def between(session: Session, source: str, target: str) -> None:
    """Copy a file or a tree; exactly one of the two is `ID:/path`."""
    here, there = parse(source), parse(target)
    if isinstance(here, Path) and isinstance(there, Remote):
        _in(session.sandbox(there.sandbox_id), here, there.path)
    elif isinstance(here, Remote) and isinstance(there, Path):
        _out(session.sandbox(here.sandbox_id), here.path, there)
    else:
        raise typer.BadParameter("One of SRC and DST is ID:/path, the other a path of this machine.")


def parse(text: str) -> Remote | Path:
    """`ID:/path` or a local path; a local path with a colon in it is written `./a:b`."""
    sandbox_id, colon, path = text.partition(":")
    if colon and path.startswith("/") and "/" not in sandbox_id:
        return Remote(sandbox_id, path)
    return Path(text)


def _in(sandbox: Sandbox, source: Path, target: str) -> None:
    if not source.exists():
        raise typer.BadParameter(f"{source} does not exist.")
    if target.endswith("/") or _is_directory(sandbox, target):
        target = str(PurePosixPath(target) / source.resolve().name)
    if source.is_file():
        _send(sandbox, source, target)
        return
    for directory, _, names in os.walk(source):
        below = PurePosixPath(target) / Path(directory).relative_to(source).as_posix()
        sandbox.files.mkdir(str(below))
        for name in names:
            _send(sandbox, Path(directory) / name, str(below / name))


def _out(sandbox: Sandbox, source: str, target: Path) -> None:
    info = sandbox.files.stat(source)
    if target.is_dir():
        target /= info.name
    if not info.is_dir:
        _fetch(sandbox, source, target)
        return
    for directory, _, files in sandbox.files.walk(source):
        below = target / PurePosixPath(directory).relative_to(source)
        below.mkdir(parents=True, exist_ok=True)
        for file in files:
            if file.mode == "f":
                _fetch(sandbox, file.path, below / safe_name(file.name))


def safe_name(name: str) -> str:
    """A name that the guest gave, as a single local one: it never leads out of the directory."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise typer.BadParameter(f"The sandbox holds a file named {name!r}, which is not copied.")
    return name


def _is_directory(sandbox: Sandbox, path: str) -> bool:
    return sandbox.files.exists(path) and sandbox.files.stat(path).is_dir


def _send(sandbox: Sandbox, source: Path, target: str) -> None:
    with console(stderr=True).status(f"{source} → {target}"), source.open("rb") as file:
        sandbox.files.upload(file, target, mode=source.stat().st_mode & 0o777)


def _fetch(sandbox: Sandbox, source: str, target: Path) -> None:
    with console(stderr=True).status(f"{source} → {target}"):
        sandbox.files.download(source, target)
