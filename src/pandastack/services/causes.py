"""Why something could not be done: what fails because a machine ended is told as its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pandastack.errors import Conflict, MachineError, PandastackError, SandboxNotFound
from pandastack.model.account import Caller
from pandastack.model.sandbox import Sandbox, SandboxState
from pandastack.services.ledger import Ledger

CAUSE_SECONDS = 1.0
"""How long a broken conversation waits to hear that, and why, the machine died."""


class Causes:
    """What became of machines, as the rows tell it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @asynccontextmanager
    async def explaining(
        self, caller: Caller, sandbox_id: str, before: Sandbox | None = None
    ) -> AsyncIterator[None]:
        """What fails in the block because the machine ended is told as its end: MachineError when it died,
        Conflict when somebody ended it, put it to sleep, or (told by how it was `before`) rolled it back.
        """
        try:
            yield
        except (MachineError, SandboxNotFound) as error:
            raise await self._explained(caller, sandbox_id, error, before) from error

    async def _explained(
        self, caller: Caller, sandbox_id: str, error: PandastackError, before: Sandbox | None
    ) -> PandastackError:
        """The same error, or what became of the machine, for which a moment is waited."""
        found = await self._ledger.await_cause(caller, sandbox_id, CAUSE_SECONDS)
        if found.status is SandboxState.HIBERNATED:
            return Conflict(f"Sandbox {sandbox_id} was hibernated meanwhile.", state=found.status)
        if found.cause is None and before is not None and found.restore_proof != before.restore_proof:
            slept = found.awake_since != before.awake_since
            what = "hibernated and woken" if slept else "rolled back"
            return Conflict(f"Sandbox {sandbox_id} was {what} meanwhile.", state=found.status)
        if found.cause is None:
            return error if isinstance(error, MachineError) else MachineError(error.message)
        return ended(found)


def ended(sandbox: Sandbox) -> PandastackError:
    """What is told of a change whose sandbox has ended while it was made: MachineError when it died, Conflict
    when somebody ended it.
    """
    if sandbox.status is SandboxState.FAILED:
        return MachineError(f"The sandbox ended meanwhile: {sandbox.cause}", sandbox_id=sandbox.id)
    return Conflict(f"Sandbox {sandbox.id} was ended meanwhile: {sandbox.cause}.", state=sandbox.status)


def wrong_state(sandbox: Sandbox, wanted: SandboxState) -> Conflict:
    """The refusal of a verb that a sandbox in this state does not take, with what to do first."""
    hint = {
        SandboxState.PAUSED: "; resume it first",
        SandboxState.HIBERNATED: "; wake it first",
        SandboxState.FAILED: f": {sandbox.cause}",
        SandboxState.CREATING: "; wait until it runs",
    }.get(sandbox.status, "")
    return Conflict(
        f"Sandbox {sandbox.id} is {sandbox.status}, and this needs it {wanted}{hint}.", state=sandbox.status
    )
