"""Programs as users of the official SDK write them; run as `python -m programs NAME DIRECTORY`.

They use nothing that the official SDK 0.10.0 does not have, so the same text runs with it and with ours.
DIRECTORY is a path in the sandbox that a program may fill.
"""

from __future__ import annotations

from . import basics, code, ports, state, templates, volumes
from .registry import PROGRAMS

__all__ = ["PROGRAMS", "basics", "code", "ports", "state", "templates", "volumes"]
