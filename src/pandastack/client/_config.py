"""Where a client finds its server: arguments before environment before configuration file before default.

`read_surroundings` is the only place of the SDK that looks at the environment and the home directory.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

DEFAULT_API_URL = "http://127.0.0.1:8080"
"""The server of this machine: PandaStack is self-hosted, so no address outside is ever assumed."""

DEFAULT_CREATE_RETRY_SECONDS = 60.0

_log = logging.getLogger("pandastack.client")


class ConfigFile(Struct, frozen=True, omit_defaults=True):
    """`~/.config/pandastack/config.json`, as `pandastack up` writes it and every client reads it."""

    api_url: str = ""
    token: str = ""
    api_key: str = ""


class Surroundings(Struct, frozen=True):
    """What the environment and the configuration file say."""

    environ: Mapping[str, str]
    file: ConfigFile = ConfigFile()


class Settings(Struct, frozen=True):
    """Which server, with which credential; times are seconds."""

    api_url: str
    api_key: str | None
    timeout: float = 30.0
    create_retry_seconds: float = DEFAULT_CREATE_RETRY_SECONDS
    preview_host: str | None = None
    """The suffix of preview hosts; None for what follows from the API's address."""


def config_path(home: Path) -> Path:
    """The configuration file of the user whose home directory this is."""
    return home / ".config" / "pandastack" / "config.json"


def read_config(path: Path) -> ConfigFile:
    """The file's content; an absent, unreadable or broken file is an empty one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ConfigFile)
    except (OSError, msgspec.MsgspecError):
        return ConfigFile()


def read_surroundings() -> Surroundings:
    """The environment and the file of this process; for the outermost call only."""
    environ = dict(os.environ)
    home = environ.get("HOME")
    return Surroundings(environ, read_config(config_path(Path(home) if home else Path.home())))


def settle(
    around: Surroundings,
    *,
    api_url: str | None = None,
    api_key: str | None = None,
    timeout: float = 30.0,
    create_retry_seconds: float | None = None,
) -> Settings:
    """Combine arguments and surroundings; ValueError for a budget that is negative or no number."""
    url = (
        api_url
        if api_url is not None
        else around.environ.get("PANDASTACK_API") or around.file.api_url or DEFAULT_API_URL
    )
    return Settings(
        api_url=url.rstrip("/"),
        api_key=api_key if api_key is not None else _credential(around, url),
        timeout=timeout,
        create_retry_seconds=_budget(around.environ, create_retry_seconds),
        preview_host=around.environ.get("PANDASTACK_PREVIEW_HOST") or None,
    )


def _credential(around: Surroundings, url: str) -> str | None:
    """The key for `url`; a key that the file names together with another server is never sent to this one."""
    from_environ = around.environ.get("PANDASTACK_API_KEY")
    if from_environ:
        return from_environ
    if around.file.api_url and _origin(around.file.api_url) != _origin(url):
        return None
    return around.file.token or around.file.api_key or None


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _budget(environ: Mapping[str, str], explicit: float | None) -> float:
    if explicit is not None:
        if not _is_budget(explicit):
            raise ValueError("max_create_retry_seconds is a finite number of seconds, at least 0 (0 = never)")
        return float(explicit)
    text = environ.get("PANDASTACK_MAX_CREATE_RETRY_SECONDS", "").strip()
    if not text:
        return DEFAULT_CREATE_RETRY_SECONDS
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not _is_budget(value):
        _log.warning(
            "PANDASTACK_MAX_CREATE_RETRY_SECONDS=%r is no number of seconds; using %g",
            text,
            DEFAULT_CREATE_RETRY_SECONDS,
        )
        return DEFAULT_CREATE_RETRY_SECONDS
    return value


def _is_budget(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0
