"""Commands in sandboxes: run to their end, streamed, in a terminal, or left in the background.

A command, stream or terminal counts as use of its sandbox for as long as it lasts. A background process
counts when it is started and while somebody is attached; by itself it keeps nothing awake.
"""

from __future__ import annotations

import asyncio
import shlex
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from pandastack.errors import CommandTimeout, FileMissing, FileRefused, InvalidRequest, MachineError
from pandastack.model.account import Caller
from pandastack.model.clock import Clock
from pandastack.model.command import CommandRequest, ExecRequest, ExecResult, Started, StartRequest
from pandastack.model.guest import Channel, Command, Exit, Process, ProcessInfo
from pandastack.model.snapshot import Deed
from pandastack.services.activity import Use
from pandastack.services.recorder import Recorder
from pandastack.services.sandboxes import Sandboxes

GRACE_SECONDS = 15.0
"""How much longer than the command's own deadline its guest may take to say that it killed it."""

LOGIN_SHELL = 'exec "${SHELL:-/bin/sh}" -l'
"""The line that becomes the user's login shell."""

STDIN_PART = 64 << 10
TAIL_PART = 64 << 10
"""Bytes from which on a part of an output is kept as one: single bytes are joined, or they would cost a
hundred times as much.
"""


class Commands:
    """The verbs on commands. Errors of all: SandboxNotFound, Conflict, GuestUnreachable, MachineError."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        recorder: Recorder,
        clock: Clock,
        new_id: Callable[[], str],
        *,
        default_timeout: float | None,
        max_output: int,
    ) -> None:
        self._sandboxes = sandboxes
        self._recorder = recorder
        self._clock = clock
        self._new_id = new_id
        self._default_timeout = default_timeout
        self._max_output = max_output

    async def run(self, caller: Caller, sandbox_id: str, request: ExecRequest) -> ExecResult:
        """Run a command to its end and give all that it wrote.

        At its deadline it is killed with all that descends from it and CommandTimeout raised; when the caller
        is cancelled its process group is killed.
        """
        began = self._clock.steady()
        output = {Channel.STDOUT: Tail(self._max_output), Channel.STDERR: Tail(self._max_output)}
        async with self.open(caller, sandbox_id, request) as running:
            async for piece in running.process.output():
                output[piece.channel].add(piece.data)
            ended = await running.ended()
        stdout, stderr = output[Channel.STDOUT], output[Channel.STDERR]
        return ExecResult(
            stdout=stdout.text(),
            stderr=stderr.text(),
            exit_code=ended.exit_code,
            exit=ended.exit_code,
            duration_ms=round((self._clock.steady() - began) * 1000),
            guest_ms=ended.duration_us / 1000,
            truncated=stdout.cut or stderr.cut,
        )

    @asynccontextmanager
    async def open(
        self, caller: Caller, sandbox_id: str, request: ExecRequest, use: Use = Use.EXEC
    ) -> AsyncIterator[Running]:
        """A command while it runs; leaving the block kills its process group."""
        timeout, given = self._timeout(request), _input(request)
        command = self._command(request, timeout, stdin=given is not None)
        with directory_faults():
            async with (
                self._sandboxes.use(caller, sandbox_id, use) as guest,
                guest.run(command) as process,
                _fed(process, given),
                _bounded(timeout),
            ):
                yield Running(process, timeout, partial(self._note, caller, sandbox_id, request))

    async def _note(self, caller: Caller, sandbox_id: str, request: ExecRequest, ended: Exit) -> None:
        deed = Deed(_line(request), ended.exit_code, round(ended.duration_us / 1000))
        await self._recorder.note(caller, sandbox_id, deed)

    @asynccontextmanager
    async def terminal(
        self, caller: Caller, sandbox_id: str, size: tuple[int, int], *, user: str | None, shell: str | None
    ) -> AsyncIterator[Process]:
        """A login shell (or the line `shell`) in a terminal of `size` (rows, columns); leaving hangs up."""
        command = Command(
            process_id=self._new_id(),
            shell=shell or LOGIN_SHELL,
            env={"TERM": "xterm-256color"},
            user=user,
            terminal=size,
        )
        using = self._sandboxes.use(caller, sandbox_id, Use.TERMINAL)
        async with using as guest, guest.run(command) as process:
            yield process

    @asynccontextmanager
    async def attended(
        self,
        caller: Caller,
        sandbox_id: str,
        line: str | None,
        *,
        env: dict[str, str],
        user: str | None,
        size: tuple[int, int] | None,
    ) -> AsyncIterator[Running]:
        """A line for the user's shell, or without one its login shell, that somebody sits at: what it reads
        is given to the process as it comes. In a terminal when there is a `size`; leaving kills it, or hangs
        up.
        """
        command = Command(
            process_id=self._new_id(),
            shell=line if line is not None else LOGIN_SHELL,
            env=env,
            user=user,
            stdin=size is None,
            terminal=size,
        )
        note = None
        if line is not None and size is None:
            note = partial(self._note, caller, sandbox_id, ExecRequest(cmd=line))
        using = self._sandboxes.use(caller, sandbox_id, Use.EXEC if size is None else Use.TERMINAL)
        with directory_faults():
            async with using as guest, guest.run(command) as process:
                yield Running(process, None, note)

    async def start(self, caller: Caller, sandbox_id: str, request: StartRequest) -> Started:
        """Start a background process, which goes on by itself."""
        command = self._command(request, self._timeout(request), stdin=request.stdin, detached=True)
        with directory_faults():
            async with self._sandboxes.use(caller, sandbox_id) as guest, guest.run(command) as process:
                return Started(process.id, process.pid)

    async def processes(self, caller: Caller, sandbox_id: str) -> list[ProcessInfo]:
        """Those started by us that the guest remembers, ended ones included."""
        async with self._sandboxes.use(caller, sandbox_id) as guest:
            return await guest.processes()

    async def process(
        self, caller: Caller, sandbox_id: str, process_id: str, *, wait_seconds: float = 0.0
    ) -> ProcessInfo:
        """One of them, as soon as it has ended, or as it is after `wait_seconds`. Errors: NotFound."""
        async with self._sandboxes.use(caller, sandbox_id) as guest:
            return await guest.process(process_id, wait_seconds=wait_seconds)

    async def feed(
        self,
        caller: Caller,
        sandbox_id: str,
        process_id: str,
        chunks: AsyncIterable[bytes],
        *,
        last: bool = False,
    ) -> None:
        """Write to the stdin of a process as fast as it reads, and with `last` end it.

        Errors: NotFound; Conflict for one that was started without, has ended, or never reads.
        """
        async with self._sandboxes.use(caller, sandbox_id) as guest:
            await guest.feed(process_id, chunks, last=last)

    async def signal(self, caller: Caller, sandbox_id: str, process_id: str, number: int) -> None:
        """Send a signal to its process group. Errors: NotFound for one that ended or never was."""
        async with self._sandboxes.use(caller, sandbox_id) as guest:
            await guest.kill(process_id, number)

    @asynccontextmanager
    async def attach(self, caller: Caller, sandbox_id: str, process_id: str) -> AsyncIterator[Running]:
        """The stream of a background process, its last output first; leaving detaches. Errors: NotFound."""
        using = self._sandboxes.use(caller, sandbox_id, Use.STREAM)
        async with using as guest, guest.attach(process_id) as process:
            yield Running(process, None)

    def _timeout(self, request: CommandRequest) -> float | None:
        return self._default_timeout if request.timeout_seconds is None else request.timeout_seconds or None

    def _command(
        self, request: CommandRequest, timeout: float | None, *, stdin: bool, detached: bool = False
    ) -> Command:
        argv, shell = _words(request)
        return Command(
            process_id=self._new_id(),
            argv=argv,
            shell=shell,
            cwd=request.cwd,
            env=request.env,
            user=request.user,
            timeout_ms=None if timeout is None else max(1, round(timeout * 1000)),
            stdin=stdin,
            detached=detached,
        )


class Running:
    """A command that runs, the deadline that it was given, and who is told when it has ended."""

    def __init__(
        self, process: Process, timeout: float | None, note: Callable[[Exit], Awaitable[None]] | None = None
    ) -> None:
        self.process = process
        self._timeout = timeout
        self._note = note

    async def ended(self) -> Exit:
        """How it ended. Errors: CommandTimeout when that was its deadline."""
        ended = await self.process.wait()
        if self._note is not None:
            await self._note(ended)
        if ended.timed_out:
            raise exceeded(self._timeout)
        return ended


class Tail:
    """The last `limit` bytes of what is added, in whatever pieces."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: deque[bytearray] = deque()
        self._size = 0
        self.cut = False

    def add(self, part: bytes) -> None:
        """Keep the end of all that was added; `cut` tells that the beginning is gone."""
        if not part:
            return
        if not self._parts or len(self._parts[-1]) >= TAIL_PART:
            self._parts.append(bytearray())
        self._parts[-1] += part
        self._size += len(part)
        while self._size - len(self._parts[0]) >= self._limit:
            self._size -= len(self._parts.popleft())
            self.cut = True

    def text(self) -> str:
        """As text; bytes that are no UTF-8 become U+FFFD."""
        data = b"".join(self._parts)
        if len(data) > self._limit:
            self.cut, data = True, data[-self._limit :]
        return data.decode("utf-8", "replace")


def exceeded(timeout: float | None) -> CommandTimeout:
    """The error by which the SDK knows that a command was killed at its deadline."""
    return CommandTimeout(f"command timeout: exceeded {timeout or 0:g}s")


def _line(request: CommandRequest) -> str:
    """The command as a person would type it."""
    if isinstance(request.cmd, str) and not request.args:
        return request.cmd
    return shlex.join(_words(request)[0])


def _words(request: CommandRequest) -> tuple[tuple[str, ...], str | None]:
    if isinstance(request.cmd, str) and not request.args:
        if not request.cmd.strip():
            raise InvalidRequest("cmd required: a command line, or a list of words.")
        return (), request.cmd
    words = [request.cmd] if isinstance(request.cmd, str) else request.cmd
    if not words or not words[0]:
        raise InvalidRequest("cmd required: the first word names the program.")
    return (*words, *request.args), None


def _input(request: ExecRequest) -> bytes | None:
    """What the command reads. None for nothing."""
    if request.stdin is None or request.stdin_base64 is None:
        return request.stdin_base64 if request.stdin is None else request.stdin.encode()
    raise InvalidRequest("stdin and stdin_base64 are two ways to say one thing: give one of them.")


@contextmanager
def directory_faults() -> Iterator[None]:
    """A working directory that cannot be entered is a fault of the request."""
    try:
        yield
    except (FileMissing, FileRefused) as error:
        raise InvalidRequest(error.message) from error


@asynccontextmanager
async def _fed(process: Process, stdin: bytes | None) -> AsyncIterator[None]:
    """Write `stdin` into the process while the block reads; the block's end ends the writing."""
    if stdin is None:
        yield
        return
    try:
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(_feed(process, stdin))
            yield
            feeding.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _feed(process: Process, data: bytes) -> None:
    for start in range(0, len(data), STDIN_PART):
        await process.write(data[start : start + STDIN_PART])
    await process.close_stdin()


@asynccontextmanager
async def _bounded(timeout: float | None) -> AsyncIterator[None]:
    """Should the guest not end the command at its deadline, we do."""
    if timeout is None:
        yield
        return
    try:
        async with asyncio.timeout(timeout + GRACE_SECONDS) as bound:
            yield
    except TimeoutError as error:
        if not bound.expired():
            raise MachineError("The guest's stream broke.") from error
        raise exceeded(timeout) from error
