"""`devcontainer.json` as a Dockerfile: what of it a template is built of.

The format is that of the Development Container Specification. Taken are `image` or `build` (or the older
`dockerFile`), `containerEnv`, `remoteUser` or `containerUser`, `workspaceFolder`, `onCreateCommand`,
`updateContentCommand` and `postCreateCommand`, which run once in the build, and `forwardPorts`. Features are
not.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import json5
from msgspec import Struct

from pandastack.errors import InvalidRequest

PLACES = (".devcontainer/devcontainer.json", ".devcontainer.json")
COMMANDS = ("onCreateCommand", "updateContentCommand", "postCreateCommand")
NOT_TAKEN = ("features", "dockerComposeFile")


class DevContainer(Struct, frozen=True):
    """What is to be built."""

    dockerfile: str
    build_args: dict[str, str] = {}
    target: str | None = None
    ports: list[int] = []


def find(folder: Path) -> Path | None:
    """The file of a folder, if it has one."""
    return next((folder / place for place in PLACES if (folder / place).is_file()), None)


def read(path: Path, folder: Path) -> DevContainer:
    """What a file says of the folder that it is for. Errors: InvalidRequest for what it asks that nobody
    does here.
    """
    try:
        told = json5.loads(path.read_text())
    except ValueError as error:
        raise InvalidRequest(f"{path} cannot be read: {error}.") from error
    if not isinstance(told, dict):
        raise InvalidRequest(f"{path} holds no object.")
    for name in NOT_TAKEN:
        if told.get(name):
            raise InvalidRequest(f"{path} has `{name}`, which is not taken here: say `image` or `build`.")
    build = told.get("build") or {}
    return DevContainer(
        dockerfile="\n".join(_lines(told, build, path, folder)) + "\n",
        build_args={str(name): str(value) for name, value in (build.get("args") or {}).items()},
        target=build.get("target"),
        ports=[int(port) for port in told.get("forwardPorts") or [] if str(port).isdigit()],
    )


def _lines(told: dict[str, Any], build: dict[str, Any], path: Path, folder: Path) -> list[str]:
    place = str(told.get("workspaceFolder") or f"/workspaces/{folder.resolve().name}")
    lines = [_beginning(told, build, path)]
    for name, value in (told.get("containerEnv") or {}).items():
        lines.append(f"ENV {name}={_quoted(str(value))}")
    lines += [f"COPY . {place}", f"WORKDIR {place}"]
    if user := told.get("remoteUser") or told.get("containerUser"):
        lines += [f"RUN chown -R {shlex.quote(user)} {shlex.quote(place)}", f"USER {user}"]
    for name in COMMANDS:
        lines += [f"RUN {line}" for line in _commands(told.get(name))]
    return lines


def _beginning(told: dict[str, Any], build: dict[str, Any], path: Path) -> str:
    dockerfile = build.get("dockerfile") or told.get("dockerFile")
    if dockerfile:
        return (path.parent / str(dockerfile)).read_text().rstrip()
    if told.get("image"):
        return f"FROM {told['image']}"
    raise InvalidRequest(f"{path} says neither `image` nor `build`, so there is nothing to build on.")


def _commands(told: object) -> list[str]:
    """A line, the words of one, or several of these by name."""
    if not told:
        return []
    if isinstance(told, dict):
        return [line for each in told.values() for line in _commands(each)]
    if isinstance(told, list):
        return [shlex.join(map(str, told))]
    return [" ".join(str(told).split("\n"))]


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'
