"""A line to one kernel: its shell, control and output sockets, and the cells that run over them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Protocol

from pandastack.carrying import carried_through
from pandastack.errors import PandastackError, PortClosed
from pandastack.jupyter.mailbox import Mailbox
from pandastack.jupyter.messages import (
    ConnectionFile,
    Heard,
    Reply,
    Speech,
    event_of,
    is_idle,
    milliseconds,
    read,
    state_of,
)
from pandastack.jupyter.zmtp import Kind, Oversized, Peer
from pandastack.model.code import CellEnd, CellError, CellEvent, Missed
from pandastack.model.guest import Guest

Said = Heard | Oversized

GREET_SECONDS = 30.0
"""For a kernel to take connections; it may have just been started."""
ANSWER_SECONDS = 0.25
"""After which is asked again whether its output is heard: what it said before it knew us is lost."""
ANSWER_MOST = 8.0
"""Up to which it is given more and more: a busy machine would else be asked faster than it answers."""
ASK_MOST = 16
"""A minute, in all."""
AFTER_SECONDS = 5.0
"""How long output may still come behind the answer that a cell has ended."""


class Deadline(Protocol):
    """How long a cell may take."""

    def left(self) -> float | None:
        """Seconds; None for as long as it takes."""
        ...

    async def pass_(self) -> None:
        """Called when none are left: it gives some more, or raises."""
        ...


class Line:
    """Open while `open_line` is. One cell runs at a time; `lock` is for those who want to."""

    def __init__(self, shell: Peer, control: Peer, output: Peer, speech: Speech) -> None:
        self._shell = shell
        self._control = control
        self._output = output
        self._speech = speech
        self._boxes: dict[str, Mailbox[Said]] = {}
        self._running: str | None = None
        self._broken: PandastackError | None = None
        self.lock = asyncio.Lock()
        self.cells = 0

    @property
    def broken(self) -> bool:
        """Nothing comes over it any more."""
        return self._broken is not None

    async def serve(self) -> None:
        """Read all sockets, until one of them breaks, which is raised: PandastackError."""
        try:
            async with asyncio.TaskGroup() as group:
                for peer in (self._shell, self._control, self._output):
                    group.create_task(self._read(peer))
        except* PandastackError as errors:
            found = errors.exceptions[0]
            self._broken = found if isinstance(found, PandastackError) else PortClosed("the kernel left")
        finally:
            self._broken = self._broken or PortClosed("the connection to the kernel was closed")
            for box in list(self._boxes.values()):
                await box.fail(self._broken)

    async def _read(self, peer: Peer) -> None:
        while True:
            parts = await peer.receive()
            if isinstance(parts, Oversized):
                if box := self._boxes.get(self._running or ""):
                    await box.put(parts, 0)
                continue
            heard = self._speech.hear(parts)
            if heard is not None and (box := self._boxes.get(heard.parent_id)):
                await box.put(heard, sum(map(len, parts)))

    async def meet(self) -> None:
        """Return when it answers and its output is heard. Errors: TimeoutError, PandastackError."""
        for attempt in range(ASK_MOST):
            # Control is heard while a cell runs, but there may be kernels that do not answer this there.
            peer = self._shell if attempt % 2 else self._control
            async with self._asked(peer, "kernel_info_request", {}) as box:
                if await _is_met(box, min(ANSWER_SECONDS * 2 ** (attempt // 2), ANSWER_MOST)):
                    return
        raise TimeoutError

    async def run(self, code: str, deadline: Deadline) -> AsyncGenerator[CellEvent, None]:
        """Run a cell and give what it shows, CellEnd last. Errors: those of the deadline, and PandastackError
        when the line broke.
        """
        order = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        async with self._asked(self._shell, "execute_request", order, runs=True) as box:
            reply: Reply | None = None
            busy: Heard | None = None
            idle: Heard | None = None
            failed = False
            while reply is None or idle is None:
                try:
                    said = await box.take(deadline.left() if reply is None else AFTER_SECONDS)
                except TimeoutError:
                    if reply is not None:
                        break  # some of its output was lost, and the end of it too
                    await deadline.pass_()
                    continue
                if isinstance(said, Oversized):
                    yield Missed(said.size)
                elif said.kind == "execute_reply":
                    reply = read(said.content, Reply) or Reply("error")
                elif state := state_of(said):
                    busy, idle = (said if state == "busy" else busy), (said if state == "idle" else idle)
                elif event := event_of(said):
                    failed = failed or isinstance(event, CellError)
                    yield event
            self.cells += 1
            kernel_ms = milliseconds(busy, idle)
            yield CellEnd(_exit_code(reply, failed=failed), reply.execution_count or 0, kernel_ms=kernel_ms)

    async def interrupt(self, seconds: float) -> None:
        """Ask it to stop the cell that runs, and wait until it has understood. Errors: TimeoutError."""
        async with self._asked(self._control, "interrupt_request", {}) as box:
            async with asyncio.timeout(seconds):
                while True:
                    said = await box.take()
                    if isinstance(said, Heard) and said.kind == "interrupt_reply":
                        return

    @asynccontextmanager
    async def _asked(
        self, peer: Peer, kind: str, content: object, *, runs: bool = False
    ) -> AsyncIterator[Mailbox[Said]]:
        """Send an order; what is said about it is in the box while the block lasts."""
        if self._broken is not None:
            raise self._broken
        message_id, parts = self._speech.say(kind, content)
        box: Mailbox[Said] = Mailbox()
        self._boxes[message_id] = box
        if runs:
            self._running = message_id
        try:
            await peer.send(parts)
            yield box
        finally:
            del self._boxes[message_id]
            await carried_through(box.close())


async def _is_met(box: Mailbox[Said], seconds: float) -> bool:
    """Both its answer and its output came in time."""
    replied = idle = False
    with suppress(TimeoutError):
        while not (replied and idle):
            said = await box.take(seconds)
            if isinstance(said, Heard):
                replied, idle = replied or said.kind.endswith("_reply"), idle or is_idle(said)
    return replied and idle


def _exit_code(reply: Reply, *, failed: bool) -> int:
    """0 without an error; else what a shell's kernel tells beside the answer, or 1."""
    if not failed and reply.status == "ok":
        return 0
    told = reply.exit_code
    return told if told is not None and 0 < told < 256 else 1


@asynccontextmanager
async def open_line(guest: Guest, file: ConnectionFile, new_id: Callable[[], str]) -> AsyncIterator[Line]:
    """A line to the kernel of this connection file. Errors: PortClosed, TimeoutError, those of the guest."""
    async with AsyncExitStack() as stack:
        peers: list[Peer] = []
        async with asyncio.timeout(GREET_SECONDS):
            for kind, port in (
                (Kind.DEALER, file.shell_port),
                (Kind.DEALER, file.control_port),
                (Kind.SUB, file.iopub_port),
            ):
                connection = await stack.enter_async_context(guest.dial(port))
                peers.append(await Peer.connect(connection, kind))
            await peers[-1].subscribe()
        shell, control, output = peers
        yield Line(shell, control, output, Speech(file.key, new_id))
