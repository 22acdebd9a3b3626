"""Secrets of a sandbox, as their owner writes and sees them. How they are put in is in `model/egress.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

from pandastack.errors import InvalidRequest

SECRETS = 64
"""Most secrets of a sandbox."""
VALUES = 64 << 10
"""Most characters of all their values together: what hosts answer is looked through for each of them."""

_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]{0,127}")


class SecretWish(Struct, frozen=True, forbid_unknown_fields=True):
    """A secret to be: its `value`, which nobody is told again, and the names of the `hosts` whose requests it
    is put into, `*.example.com` for all below `example.com`. With `headers` only there, else in whichever
    header the placeholder stands.
    """

    value: str
    hosts: tuple[str, ...]
    headers: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without the value, so that no log can have it."""
        return f"SecretWish(hosts={self.hosts!r}, headers={self.headers!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The same for tracebacks on a terminal."""
        return [("hosts", self.hosts), ("headers", self.headers)]


class Secret(Struct, frozen=True):
    """A secret as it is told: without its value. Commands of the sandbox have `placeholder` in the variable
    `name`.
    """

    name: str
    hosts: tuple[str, ...]
    placeholder: str
    created_at: datetime
    changed_at: datetime
    headers: tuple[str, ...] = ()


def check_names(names: Mapping[str, object], env: Mapping[str, str]) -> None:
    """Errors: InvalidRequest for what cannot be the name of a variable, or is the name of another one too,
    and for too many.
    """
    for name in names:
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"{name!r} cannot be the name of a secret: it becomes a variable, so write letters, digits "
                "and underscores, a letter first, 128 at most."
            )
        if name in env:
            raise InvalidRequest(f"{name!r} is in env and in secrets; a variable is one of both.")
    if len(names) > SECRETS:
        raise InvalidRequest(f"A sandbox has at most {SECRETS} secrets; got {len(names)}.")


def check_values(values: Iterable[str]) -> None:
    """Errors: InvalidRequest for too much in all; it does not hold the values."""
    size = sum(map(len, values))
    if size > VALUES:
        raise InvalidRequest(
            f"The values of all secrets of a sandbox have {VALUES} characters at most; got {size}."
        )
