"""What a channel needs of the connection that it belongs to."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Protocol

from pandastack.model.account import Caller
from pandastack.services.certificates import Admission
from pandastack.sshd.door import House
from pandastack.sshd.line import Line


class Opener(Protocol):
    """Who opened a channel."""

    house: House
    line: Line

    async def admitted(self) -> Admission:
        """Who this is now. Errors: those of certificates."""
        ...

    def started(self, channel: object, work: Coroutine[None, None, None]) -> None:
        """Have a channel served until it is closed."""
        ...

    def close(self, channel: object) -> None:
        """A channel has been closed: whoever serves it stops. Twice is fine."""
        ...

    def note(self, caller: Caller, status: int) -> None:
        """Have the audit know of it."""
        ...
