"""Language servers in sandboxes: programs that speak the Language Server Protocol on their standard streams.

Each is a process of the guest for as long as somebody listens to it. Nothing is installed when it is started:
a sandbox whose template has none says so, and how that is mended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import MappingProxyType

from msgspec import Struct

from pandastack.errors import InvalidRequest
from pandastack.model.account import Caller
from pandastack.model.guest import Command, Process
from pandastack.services.activity import Use
from pandastack.services.sandboxes import Sandboxes

NOT_FOUND = 127
"""How a program ends that is not there."""
IDLE_SECONDS = 600.0
ALIASES = MappingProxyType({"py": "python", "python3": "python"})


class Installed(Struct, frozen=True):
    """The program that knows a language, and what to do where it is not installed."""

    program: str
    hint: str


SERVERS = MappingProxyType(
    {
        "python": Installed(
            "pylsp",
            "The template code-interpreter has it. In a template of your own install it with "
            "`apt-get install python3-pylsp` or `pip install python-lsp-server`.",
        )
    }
)


class LanguageServers:
    """The verbs on language servers. Errors of all: SandboxNotFound, Conflict, GuestUnreachable,
    MachineError, and those of a wake.
    """

    def __init__(
        self, sandboxes: Sandboxes, new_id: Callable[[], str], idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._sandboxes = sandboxes
        self._new_id = new_id
        self.idle_seconds = idle_seconds
        """After so long without a word in either direction whoever listens is taken to have left."""

    @asynccontextmanager
    async def open(self, caller: Caller, sandbox_id: str, language: str) -> AsyncIterator[Process]:
        """A language server while it runs, for whoever writes to it and reads what it says; leaving kills it.

        One that is not installed ends with NOT_FOUND. Errors: InvalidRequest for a language that has none.
        """
        words = (server_of(language).program,)
        command = Command(process_id=self._new_id(), argv=words, stdin=True)
        using = self._sandboxes.use(caller, sandbox_id, Use.STREAM)
        async with using as guest, guest.run(command) as process:
            yield process


def server_of(language: str) -> Installed:
    """The program for a language, by any of its names. Errors: InvalidRequest."""
    lower = language.lower()
    found = SERVERS.get(ALIASES.get(lower, lower))
    if found is None:
        raise InvalidRequest(
            f"There is no language server for {language[:32]!r}: there are those for {', '.join(SERVERS)}."
        )
    return found
