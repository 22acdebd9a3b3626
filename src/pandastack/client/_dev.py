"""What a machine of the template `dev` is made of."""

from __future__ import annotations

TEMPLATE, NAME, USER = "dev", "dev", "dev"
HOME = "/home/dev"
PROGRAMS = "/usr/local/lib/pandastack/dev/"
EDITOR_PORT = 13337
EDITOR_ANSWERS = (
    f"until curl --silent --fail --output /dev/null http://127.0.0.1:{EDITOR_PORT}/healthz; "
    "do sleep 0.2; done"
)
EDITOR_SECONDS = 180.0
HOME_MB = 8192
IDLE_SECONDS = 900
TOLD_BYTES = 2000
"""So much of what failed dotfiles have said is told."""
MARK = "dev_machine"
"""The metadata key that holds a machine's name."""


def home_of(name: str) -> str:
    """The volume with a machine's home."""
    return f"{name}-home"
