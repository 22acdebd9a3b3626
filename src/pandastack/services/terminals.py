"""Terminals by name. Each lives in the guest: it goes on while nobody looks, through hibernation and a
restart of the server, and every fork has its own.

A terminal is a process of the guest that is called `terminal/NAME/N`, N being how many of this name there
were before. A viewer is a use of the sandbox; a terminal that nobody looks at keeps nothing awake.
"""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

from msgspec import Struct

from pandastack.carrying import beside
from pandastack.errors import Conflict, NotFound
from pandastack.model.account import Caller
from pandastack.model.guest import Command, Guest, Process, ProcessInfo
from pandastack.model.terminal import NAME, Terminal, TerminalRequest
from pandastack.services.activity import Use
from pandastack.services.commands import LOGIN_SHELL, directory_faults
from pandastack.services.sandboxes import Sandboxes
from pandastack.services.viewers import Audiences, Viewer

KIND = "terminal"
RUNNING_MOST = 32
"""Terminals of a sandbox that run at a time."""
GRACE_SECONDS = 2.0
"""How long a program may take to end when its terminal hangs up."""


class _Life(Struct, frozen=True):
    """A process of the guest that is a terminal: the `number`th of its name, from 0 on."""

    name: str
    number: int
    info: ProcessInfo


class Terminals:
    """The verbs on terminals. Errors of all: SandboxNotFound, Conflict, GuestUnreachable, MachineError."""

    def __init__(self, sandboxes: Sandboxes, new_id: Callable[[], str]) -> None:
        self._sandboxes = sandboxes
        self._new_id = new_id
        self._audiences = Audiences()

    async def create(self, caller: Caller, sandbox_id: str, request: TerminalRequest) -> Terminal:
        """Start one, which nobody looks at yet. Errors: Conflict when one of this name runs or there are
        RUNNING_MOST, InvalidRequest for a user or a directory that is not there.
        """
        name = request.name or self._new_id()[:8]
        async with self._sandboxes.use(caller, sandbox_id) as guest:
            lives = await _lives(guest)
            number = _next_number(lives, name)
            command = _command(request, f"{KIND}/{name}/{number}")
            with directory_faults():
                async with guest.run(command) as process:
                    pid = process.pid
            info = next((each for each in await guest.processes() if each.id == command.process_id), None)
            if info is None:
                raise NotFound(f"The terminal {name!r} (process {pid}) has ended and is forgotten.")
            return self._told(sandbox_id, _Life(name, number, info))

    async def list(self, caller: Caller, sandbox_id: str) -> Sequence[Terminal]:
        """Those that run, and the last of each name that has ended and is remembered; in order of start."""
        async with self._sandboxes.use(caller, sandbox_id) as guest:
            return self._latest(sandbox_id, await _lives(guest))

    async def seen(self, caller: Caller, sandbox_id: str) -> Sequence[Terminal]:
        """The same of one that runs; looking is no use of it."""
        guest = await self._sandboxes.glance(caller, sandbox_id)
        return self._latest(sandbox_id, await _lives(guest))

    def _latest(self, sandbox_id: str, lives: Sequence[_Life]) -> Sequence[Terminal]:
        newest = {life.name: life for life in lives}
        told = [self._told(sandbox_id, life) for life in newest.values()]
        return sorted(told, key=lambda terminal: terminal.started_at)

    async def get(self, caller: Caller, sandbox_id: str, name: str) -> Terminal:
        """One of them. Errors: NotFound."""
        async with self._sandboxes.use(caller, sandbox_id) as guest:
            return self._told(sandbox_id, await _found(guest, name))

    async def end(self, caller: Caller, sandbox_id: str, name: str) -> None:
        """Hang up, and kill what is still there GRACE_SECONDS later; fine when it has ended. NotFound."""
        async with self._sandboxes.use(caller, sandbox_id) as guest:
            process_id = (await _found(guest, name)).info.id
            try:
                await guest.kill(process_id, signal.SIGHUP)
                if (await guest.process(process_id, wait_seconds=GRACE_SECONDS)).running:
                    await guest.kill(process_id, signal.SIGKILL)
            except NotFound:
                return  # it ended by itself meanwhile

    @asynccontextmanager
    async def view(
        self,
        caller: Caller,
        sandbox_id: str,
        name: str,
        *,
        size: tuple[int, int] | None = None,
        read_only: bool = False,
    ) -> AsyncIterator[Viewer]:
        """Look at one, also at one that has ended; leaving leaves it running. It is given the `size` (rows,
        columns) first, if there is one. Errors: NotFound; RateLimited when too many look.
        """
        async with self._sandboxes.use(caller, sandbox_id, Use.TERMINAL) as guest:
            found = (await _found(guest, name)).info
            async with self._seat(guest, sandbox_id, found, read_only=read_only) as viewer:
                if size is not None and not read_only:
                    await viewer.resize(*size)
                async with beside(viewer.follow()):
                    yield viewer

    @asynccontextmanager
    async def _seat(
        self, guest: Guest, sandbox_id: str, found: ProcessInfo, *, read_only: bool
    ) -> AsyncIterator[Viewer]:
        """A viewer among the others, who does not follow yet."""
        with self._audiences.of(sandbox_id, found.id) as audience:
            async with _hand(guest, found, read_only) as hand:
                viewer = Viewer(partial(guest.attach, found.id), audience, hand)
                with audience.seat(viewer):
                    yield viewer

    def _told(self, sandbox_id: str, life: _Life) -> Terminal:
        info = life.info
        return Terminal(
            name=life.name,
            command="login shell" if info.command == LOGIN_SHELL else info.command,
            pid=info.pid,
            started_at=datetime.fromtimestamp(info.started_ns / 1e9, UTC),
            running=info.running,
            exit_code=info.exit_code,
            viewers=self._audiences.count(sandbox_id, info.id),
        )


@asynccontextmanager
async def _hand(guest: Guest, found: ProcessInfo, read_only: bool) -> AsyncIterator[Process | None]:
    """What a viewer types through: a stream without output, so that it works also while the viewer lags."""
    if read_only:
        yield None
        return
    async with guest.attach(found.id, quiet=True) as hand:
        yield hand


def _command(request: TerminalRequest, process_id: str) -> Command:
    return Command(
        process_id=process_id,
        shell=request.cmd or LOGIN_SHELL,
        cwd=request.cwd,
        env={"TERM": "xterm-256color", **request.env},
        user=request.user,
        terminal=(request.rows, request.cols),
        detached=True,
    )


def _next_number(lives: list[_Life], name: str) -> int:
    """How many of this name there were. Errors: Conflict when one runs, or too many of any."""
    running = [life for life in lives if life.info.running]
    if any(life.name == name for life in running):
        raise Conflict(f"A terminal {name!r} runs in this sandbox: attach to it, or choose another name.")
    if len(running) >= RUNNING_MOST:
        raise Conflict(f"{RUNNING_MOST} terminals run in this sandbox, which is all it may have: end one.")
    return max((life.number + 1 for life in lives if life.name == name), default=0)


async def _lives(guest: Guest) -> list[_Life]:
    """All that were terminals, of each name the last one last."""
    found = []
    for info in await guest.processes():
        kind, _, rest = info.id.partition("/")
        name, _, number = rest.partition("/")
        if kind == KIND and re.match(NAME, name) and re.fullmatch("[0-9]{1,9}", number):
            found.append(_Life(name, int(number), info))
    return sorted(found, key=lambda life: life.number)


async def _found(guest: Guest, name: str) -> _Life:
    lives = [life for life in await _lives(guest) if life.name == name]
    if not lives:
        raise NotFound(f"There is no terminal {name[:32]!r} in this sandbox.")
    return lives[-1]
