"""The guest's agent as the host speaks to it: `model.guest.Guest` over one connection."""

from __future__ import annotations

import socket
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Self

from pandastack.errors import GuestUnreachable, PandastackError
from pandastack.host import operations, refusals
from pandastack.host.fields import Fields, Tag
from pandastack.host.frames import malformed
from pandastack.host.guest_dial import Dialling
from pandastack.host.guest_files import Files
from pandastack.host.guest_mounts import Mounting
from pandastack.host.guest_process import Processes
from pandastack.host.link import Entry, GateFacts, GateProof, GuestNetwork, Link
from pandastack.host.operations import Op
from pandastack.host.questions import Deadlines
from pandastack.model.guest import GuestMetrics

__all__ = ["Deadlines", "Entry", "GateFacts", "GateProof", "GuestLink", "GuestNetwork"]

CONNECT_SECONDS = 5.0


class GuestLink(Processes, Files, Dialling, Mounting):
    """Everything that a guest can be asked.

    A lost connection fails all that waits, with GuestUnreachable or the MachineError of a broken protocol;
    the link stays lost, and its owner makes a new one. Use it as `async with`, or `close` it.
    """

    def __init__(self, link: Link, deadlines: Deadlines, workdir: str | None, user: str | None) -> None:
        self._link = link
        self._deadlines = deadlines
        self._workdir = workdir
        self._user = user
        self.defaults = {}

    @classmethod
    async def connect(
        cls,
        where: Path | socket.socket,
        *,
        deadline: float = CONNECT_SECONDS,
        deadlines: Deadlines | None = None,
        workdir: str | None = None,
        user: str | None = None,
    ) -> Self:
        """Connect to the machine's socket, or take one that is connected; GuestUnreachable.

        `workdir` is where commands start that name no directory; None is their user's home. `user` is as whom
        they run when they name nobody; None is root.
        """
        return cls(await Link.connect(where, deadline=deadline), deadlines or Deadlines(), workdir, user)

    def announce(self, nonce: bytes, facts: GateFacts | None = None) -> None:
        """Write HELLO, and GATE when there are facts, at once: the guest need not run yet.

        Repeated until the guest answers; `entered` waits for that. `nonce` is 16 fresh random bytes.
        """
        self._link.announce(nonce, facts)

    async def entered(self, *, deadline: float) -> Entry:
        """The answer to `announce`.

        GuestUnreachable after `deadline` seconds, MachineError for a failed gate.
        """
        return await self._link.entered(deadline=deadline)

    async def hello(self, nonce: bytes, *, deadline: float) -> Entry:
        """Greet alone; `adopted` tells whether the gate is open."""
        self._link.announce(nonce)
        return await self._link.entered(deadline=deadline)

    async def gate(self, facts: GateFacts, *, deadline: float) -> int:
        """Open the gate after a greeting; the microseconds that it took in the guest, 0 if it was open."""
        return await self._link.gate(facts, deadline=deadline)

    async def seal(self, *, deadline: float) -> None:
        """Close the gate: the machine is about to become a snapshot."""
        await self._link.seal(deadline=deadline)

    def hold(self) -> AbstractAsyncContextManager[None]:
        """Write nothing within the block but what `freeze`, `thaw`, `still`, `go` and `ping` send.

        Requests made meanwhile wait, in order, and are sent at its end; writers of content wait. Behind the
        answer to one of these within the block the guest has taken in everything that was sent before it.
        """
        return self._link.hold()

    async def freeze(self, ttl_ms: int, *, deadline: float) -> int:
        """Flush the guest's disk and freeze it for at most `ttl_ms` (1 to 30,000); how long it took, in µs.

        MachineError when it cannot be frozen, GuestUnreachable after `deadline` seconds; the guest thaws by
        itself in any case.
        """
        return await self._link.freeze(ttl_ms, deadline=deadline)

    async def thaw(self, *, deadline: float) -> None:
        """Let the guest write to its disk again; fine when nothing is frozen."""
        await self._link.thaw(deadline=deadline)

    async def still(self, ttl_ms: int, *, deadline: float) -> int:
        """Let none of the guest's programs run, from the return on: until `go`, a gate that passes, or
        `ttl_ms` (1 to 900) of the guest's time are over. Nanoseconds since 1970 by the guest's clock, then.

        MachineError when they cannot be held, GuestUnreachable after `deadline` seconds.
        """
        return await self._link.still(ttl_ms, deadline=deadline)

    def go(self) -> None:
        """Let the guest's programs run; fine when they do. GuestUnreachable."""
        self._link.go()

    async def ping(self, *, deadline: float) -> None:
        """Return when the agent has answered; GuestUnreachable after `deadline` seconds."""
        await self._link.ping(deadline=deadline)

    async def metrics(self) -> GuestMetrics:
        """The guest's own view of its resources."""
        items = await self._items(Op.METRICS, b"", operations.METRICS, _metrics, _refusal)
        if len(items) != 1:
            raise malformed(f"METRICS with {len(items)} items")
        return items[0]

    @property
    def lost(self) -> PandastackError | None:
        """Why nothing can be asked any more; None while the connection stands."""
        return self._link.lost

    async def wait_lost(self) -> None:
        """Return when the connection is lost or closed."""
        await self._link.wait_lost()

    async def close(self) -> None:
        """End the connection: what still waits fails, processes in the guest go on. Twice is fine."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _metrics(item: Fields) -> GuestMetrics:
    return GuestMetrics(
        uptime_ms=item.number(Tag.UPTIME_MS),
        load1=item.number(Tag.LOAD1),
        memory_total=item.number(Tag.MEMORY_TOTAL),
        memory_available=item.number(Tag.MEMORY_AVAILABLE),
        disk_total=item.number(Tag.DISK_TOTAL),
        disk_free=item.number(Tag.DISK_FREE),
        process_count=item.number(Tag.PROCESS_COUNT),
        cpu_busy_ms=item.number(Tag.CPU_BUSY_MS),
    )


def _refusal(done: Fields) -> PandastackError:
    return GuestUnreachable(f"the guest cannot tell its metrics: {refusals.message_of(done)}")
