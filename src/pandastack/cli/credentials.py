"""The first key, written where every client of this user finds it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pandastack.client import ConfigFile, read_config


def remember(path: Path, api_url: str, token: str) -> ConfigFile:
    """Write server and key where every client of this user finds them, readable by nobody else.

    What stood there for another server is kept beside it as `….old`, and returned.
    """
    before = read_config(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if before.token or before.api_key:
        path.replace(path.with_name(f"{path.name}.old"))
    fresh = path.with_name(f".{path.name}.new")
    fresh.touch(mode=0o600)
    fresh.chmod(0o600)
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(ConfigFile(api_url, token))) + b"\n")
    fresh.replace(path)
    return before
