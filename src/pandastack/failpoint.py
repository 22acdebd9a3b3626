"""Named places at which a test makes a server fail; inert unless the configuration arms one.

A failpoint stands between two steps of a change, where a crash would leave the first done and the second not.
What is armed is said as `name=action` joined by `;`: `exit` ends the process at once as a kill would, `error`
raises, `sleep:S` waits S seconds, so that somebody can be killed meanwhile. The log tells which was reached.
"""

from __future__ import annotations

import asyncio
import os
from typing import NoReturn

import structlog

from pandastack.errors import InternalError, InvalidRequest

log = structlog.get_logger(noun="failpoint")

EXIT_STATUS = 86
"""With which `exit` ends the process."""

POINTS = (
    "create.reserved", "create.started", "create.running",
    "delete.stopping", "delete.stopped",
    "snapshot.drafted", "snapshot.taken", "snapshot.published",
    "import.drafted", "import.arrived",
    "fork.taken", "fork.child", "fork.borne",
    "hibernate.taken", "hibernate.committed", "hibernate.stopped",
    "wake.started", "wake.committed",
    "rollback.replaced", "rollback.committed",
    "drop.marked", "drop.dropped",
    "egress.ordered", "egress.written",
    "build.laid_out", "build.baked",
    "verify.laid_out", "verify.compared",
    "backup.aside", "backup.saved", "backup.sealed", "backup.dropped",
    "restore.begun", "restore.filled", "restore.published",
)  # fmt: skip
"""Every name that the services pass."""


class Failpoints:
    """The failpoints of one server. Errors: InvalidRequest for an order that names none of ours."""

    def __init__(self, armed: str = "") -> None:
        orders = [order.strip().partition("=") for order in armed.split(";") if order.strip()]
        self._armed = {name: action for name, _, action in orders}
        for name, action in self._armed.items():
            if name not in POINTS:
                raise InvalidRequest(f"There is no failpoint {name!r}.")
            if action not in {"exit", "error"} and not _seconds(action):
                raise InvalidRequest(f"A failpoint does exit, error or sleep:S; got {action!r}.")

    async def __call__(self, name: str) -> None:
        """Do here what was ordered; nothing, almost always."""
        if self._armed and (action := self._armed.get(name)):
            await _act(name, action)


async def _act(name: str, action: str) -> None:
    log.warning("failpoint.reached", point=name, action=action)
    if action == "exit":
        _end()
    if action == "error":
        raise InternalError(f"The failpoint {name} was hit.")
    await asyncio.sleep(_seconds(action) or 0)


def _seconds(action: str) -> float | None:
    kind, _, number = action.partition(":")
    return float(number) if kind == "sleep" and number.replace(".", "", 1).isdigit() else None


def _end() -> NoReturn:
    os._exit(EXIT_STATUS)
