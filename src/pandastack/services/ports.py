"""Ports of sandboxes: which there are, by which names, and connections to them.

A connection counts as use of its sandbox for as long as it lasts, and wakes one that sleeps. Whoever comes
meanwhile is held until it runs; of those there is a limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Literal

from msgspec import Struct

from pandastack.errors import InvalidRequest, MachineError, NoCapacity, PandastackError, PortClosed
from pandastack.jupyter import places as kernels
from pandastack.model.account import Caller
from pandastack.model.guest import Connection, Port
from pandastack.model.sandbox import Sandbox, SandboxState
from pandastack.services.activity import Use
from pandastack.services.ground import Ground
from pandastack.services.ledger import Story
from pandastack.services.requests import check_metadata
from pandastack.services.sandboxes import Sandboxes

LABEL = "port."
"""Begins the metadata keys under which ports have names."""
DEFAULT_LABEL = "service"
LABEL_MOST = 64
PORT_MOST = 65_535
SSH = 22
"""Nobody comes to it through a proxy."""
DEVTOOLS = 9222
"""Whoever reaches it controls the browser there: a link leads to it, which is made for somebody; a name,
which many may know, does not.
"""


class PortInfo(Struct, frozen=True):
    """A port that has a name or is listened on."""

    port: int
    label: str | None
    listening: bool
    source: Literal["user", "detected"]
    proxy_url: str


class Crowd(Struct, frozen=True):
    """How many may wait at a time until they are connected."""

    of_one: int = 128
    of_all: int = 1024


class Ports:
    """The verbs on ports. Errors of all: SandboxNotFound, Conflict, GuestUnreachable, MachineError."""

    def __init__(self, ground: Ground, sandboxes: Sandboxes, crowd: Crowd | None = None) -> None:
        self._ledger = ground.ledger
        self._activity = ground.activity
        self._sandboxes = sandboxes
        self._crowd = crowd or Crowd()
        self._held: Counter[str] = Counter()

    async def listing(self, caller: Caller, sandbox_id: str) -> list[PortInfo]:
        """Those that have names and those that are listened on, in order. It wakes nobody."""
        found = await self._ledger.find(caller, sandbox_id)
        names = _names(found)
        heard = {port.number for port in await self._heard(caller, found) if not _is_own(port)}
        return [_info(sandbox_id, number, names, heard) for number in sorted(heard | set(names))]

    async def expose(
        self, caller: Caller, sandbox_id: str, port: int, label: str = DEFAULT_LABEL
    ) -> PortInfo:
        """Give a port a name. Errors: InvalidRequest."""
        check_port(port)
        if not 0 < len(label) <= LABEL_MOST or not label.isprintable():
            raise InvalidRequest(f"A port's label has 1 to {LABEL_MOST} letters that can be shown.")
        await self._ledger.find(caller, sandbox_id)
        more = {f"{LABEL}{port}": label}
        after = await self._ledger.annotate(sandbox_id, more, Story(caller=caller), check=check_metadata)
        self._activity.touch(sandbox_id)
        heard = {listening.number for listening in await self._heard(caller, after)}
        return _info(sandbox_id, port, _names(after), heard)

    async def hide(self, caller: Caller, sandbox_id: str, port: int) -> None:
        """Take its name off a port; fine when it has none. What listens goes on."""
        await self._ledger.find(caller, sandbox_id)
        await self._ledger.annotate(sandbox_id, {}, Story(caller=caller, status=204), drop=f"{LABEL}{port}")

    @asynccontextmanager
    async def reach(self, caller: Caller, sandbox_id: str, port: int) -> AsyncIterator[Connection]:
        """A connection to a port while the block lasts; a sandbox that sleeps is woken first.

        Errors: InvalidRequest for a port that nobody is let to, PortClosed, also when the machine dies
        meanwhile, NoCapacity when too many wait already, and those of a wake.
        """
        check_port(port)
        with _upstream():
            async with AsyncExitStack() as stack:
                with self._waiting(sandbox_id):
                    use = self._sandboxes.use(caller, sandbox_id, Use.CONNECTION)
                    guest = await stack.enter_async_context(use)
                    connection = await stack.enter_async_context(guest.dial(port))
                yield connection

    @contextmanager
    def _waiting(self, sandbox_id: str) -> Iterator[None]:
        held, crowd = self._held, self._crowd
        if held[sandbox_id] >= crowd.of_one or held.total() >= crowd.of_all:
            raise NoCapacity(f"Too many wait already until sandbox {sandbox_id} takes connections.")
        held[sandbox_id] += 1
        try:
            yield
        finally:
            held[sandbox_id] -= 1
            if not held[sandbox_id]:
                del held[sandbox_id]

    async def _heard(self, caller: Caller, sandbox: Sandbox) -> tuple[Port, ...]:
        if sandbox.status is not SandboxState.RUNNING:
            return ()
        host = await self._sandboxes.host_for(caller, sandbox.id)
        try:
            return await host.guest(sandbox.id).ports()
        except PandastackError:
            if (await self._ledger.find(caller, sandbox.id)).status is SandboxState.RUNNING:
                raise
            return ()  # it went to sleep while it was asked


@contextmanager
def _upstream() -> Iterator[None]:
    """What is behind a proxy and has died is no fault of the proxy's."""
    try:
        yield
    except MachineError as error:
        if type(error) is not MachineError:  # those of a wake, and of an agent that is silent, say what to do
            raise
        raise PortClosed(f"upstream: {error.message}", **error.details) from error


def _is_own(port: Port) -> bool:
    """Of the SSH front, or of a code context's kernel: nobody asked for those."""
    return port.number == SSH or (port.loopback and port.number in kernels.PORTS)


def check_port(port: int) -> None:
    """Errors: InvalidRequest for what is no port, and for those that are reserved."""
    if not 0 < port <= PORT_MOST:
        raise InvalidRequest(f"A port is 1 to {PORT_MOST}; got {port}.")
    if port == SSH:
        raise InvalidRequest("port 22 is reserved (ssh bridge)")


def port_of(text: str) -> int:
    """The port that a path or host name tells. Errors: InvalidRequest, also for other ways to write it."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(PORT_MOST)) and text[0] != "0"):
        raise InvalidRequest(f"A port is a plain number from 1 to {PORT_MOST}.")
    check_port(int(text))
    return int(text)


def proxy_path(sandbox_id: str, port: int) -> str:
    """Where the API answers for a port."""
    return f"/v1/sandboxes/{sandbox_id}/proxy/{port}/"


def _names(sandbox: Sandbox) -> dict[int, str]:
    keys = (
        (key.removeprefix(LABEL), label) for key, label in sandbox.metadata.items() if key.startswith(LABEL)
    )
    return {int(number): label for number, label in keys if number.isdigit() and len(number) <= 5}


def _info(sandbox_id: str, number: int, names: dict[int, str], heard: set[int]) -> PortInfo:
    source: Literal["user", "detected"] = "user" if number in names else "detected"
    return PortInfo(number, names.get(number), number in heard, source, proxy_path(sandbox_id, number))
