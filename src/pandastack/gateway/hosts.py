"""The names by which visitors come: `<port>-<sandbox id>.<suffix>`, nothing that only looks like one."""

from __future__ import annotations

import re

from msgspec import Struct

from pandastack.errors import PandastackError
from pandastack.services.ports import port_of

_HOST = re.compile(r"([a-z0-9.-]+?)(?::[0-9]{1,5})?", re.IGNORECASE | re.ASCII)
_LABEL = re.compile(r"([1-9][0-9]{0,4})-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


class Named(Struct, frozen=True):
    """A port of a sandbox, as a host name tells it."""

    port: int
    sandbox_id: str


def plain_host(host: bytes) -> str:
    """The name in a Host header, lower case and without port; nothing when it is no plain name."""
    found = _HOST.fullmatch(host.decode("latin-1"))
    return found[1].lower() if found else ""


def named(host: str, suffix: str) -> Named | None:
    """The port and sandbox that a plain name stands for; None for every other name."""
    label, dot, rest = host.partition(".")
    found = _LABEL.fullmatch(label)
    if not dot or rest != suffix.lower() or found is None:
        return None
    try:
        return Named(port_of(found[1]), found[2])
    except PandastackError:
        return None
