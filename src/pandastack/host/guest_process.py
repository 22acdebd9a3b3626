"""Commands in the guest: starting them, their streams, and finding them again."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from pandastack.errors import (
    Conflict,
    FileMissing,
    FileRefused,
    InvalidRequest,
    NotFound,
    PandastackError,
)
from pandastack.host import operations, refusals
from pandastack.host.fields import Fields, Shape, Tag, Value, decode_fields, encode_fields, environment
from pandastack.host.frames import Data, Frame, FrameType, malformed
from pandastack.host.operations import CloseMode, Op
from pandastack.host.plain import words_of
from pandastack.host.questions import Questions, absolute, nothing, user_name
from pandastack.host.stream import Stream
from pandastack.model.guest import Channel, Command, Exit, Output, Place, Process, ProcessInfo

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit codes of a shell for a program that is not there, and for one that cannot be executed."""

MAX_ID = 64
"""Bytes of a process id."""


class GuestProcess:
    """A command that runs. Its output is read by one task, at that task's pace."""

    def __init__(self, stream: Stream, process_id: str, pid: int, *, takes_input: bool, place: Place) -> None:
        self.id = process_id
        self.pid = pid
        self.place = place
        self._stream = stream
        self._takes_input = takes_input
        self._wanted = False

    async def output(self) -> AsyncIterator[Output]:
        """What it writes, until it has ended. Not reading on holds the process up, and nothing else."""
        self._wanted = True
        while True:
            item = await self._stream.receive()
            if isinstance(item, Data):
                yield Output(Channel(item.channel), item.content)
            elif item.type is FrameType.DONE:
                return

    async def write(self, data: bytes) -> None:
        """Write to its stdin as fast as it reads; what an ended process no longer reads is dropped."""
        if not self._takes_input:
            raise InvalidRequest("the command has no stdin, or it has been closed")
        await self._stream.write(data)

    async def close_stdin(self) -> None:
        """End its stdin; fine when it has none."""
        if self._takes_input:
            self._takes_input = False
            self._stream.send(FrameType.EOF, bytes((Channel.STDIN,)))

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal the new size."""
        rows, columns = _size(rows, columns)
        self._stream.send(FrameType.RESIZE, rows.to_bytes(2, "little") + columns.to_bytes(2, "little"))

    async def signal(self, number: int) -> None:
        """Send a signal to its process group; nothing happens when it has ended."""
        self._stream.send(FrameType.SIGNAL, bytes((_signal(number),)))

    async def wait(self) -> Exit:
        """How it ended. Output that nobody asked for is thrown away, so that the process can go on."""
        if not self._wanted:
            async for _ in self.output():
                pass
        done = decode_fields((await self._stream.done()).payload, operations.ENDED)
        if done.number(Tag.ERRNO):
            raise refusals.of_process(done, self.id)
        return Exit(
            done.number(Tag.EXIT_CODE), done.number(Tag.DURATION_US), bool(done.number(Tag.TIMED_OUT))
        )

    async def detach(self) -> None:
        """Let it go on without us; its stream is over."""
        self._stream.close(CloseMode.DETACH)

    async def kill(self) -> None:
        """Kill its process group; `wait` then tells 137."""
        await self.signal(9)


class NeverStarted:
    """A command whose program could not be executed, told as by a shell: on stderr, and by 127 or 126."""

    pid = 0
    place = Place()

    def __init__(self, process_id: str, exit_code: int, complaint: str) -> None:
        self.id = process_id
        self._exit = Exit(exit_code, 0)
        self._complaint = complaint

    async def output(self) -> AsyncIterator[Output]:
        """The complaint."""
        yield Output(Channel.STDERR, f"{self._complaint}\n".encode())

    async def write(self, data: bytes) -> None:
        """Dropped, as by any ended process."""

    async def close_stdin(self) -> None:
        """Nothing to do."""

    async def resize(self, rows: int, columns: int) -> None:
        """Nothing to do."""

    async def signal(self, number: int) -> None:
        """Nothing to do."""

    async def wait(self) -> Exit:
        """127 or 126, at once."""
        return self._exit

    async def detach(self) -> None:
        """Nothing to do."""

    async def kill(self) -> None:
        """Nothing to do."""


class Processes(Questions):
    """The verbs for commands and processes."""

    _user: str | None
    """As whom commands run that name nobody; None is root."""

    _workdir: str | None
    """Where commands start that name no directory; None is their user's home."""

    defaults: Mapping[str, str]
    """Variables of commands that do not set them themselves, over those of the machine."""

    @asynccontextmanager
    async def run(self, command: Command) -> AsyncIterator[Process]:
        """Start a command; leaving the block kills its process group, or detaches from a detached one.

        Without a directory it starts in the machine's own, or in its user's home when that cannot be entered.
        A program that is not there or cannot be executed is no error: the process ends with 127 or 126 and
        says why on stderr. FileMissing or FileRefused for the working directory, InvalidRequest for the user.
        """
        if command.user is None:
            command = msgspec.structs.replace(command, user=self._user)
        if self.defaults:
            command = msgspec.structs.replace(command, env={**self.defaults, **command.env})
        direct = without_shell(command)
        if direct is not None:
            async with self._placed(direct) as process:
                if not isinstance(process, NeverStarted):
                    yield process
                    return
        async with self._placed(command) as process:
            yield process

    @asynccontextmanager
    async def _placed(self, command: Command) -> AsyncIterator[Process]:
        async with AsyncExitStack() as stack:
            process = await self._in_workdir(stack, command)
            yield process if process is not None else await stack.enter_async_context(self._run(command))

    async def _in_workdir(self, stack: AsyncExitStack, command: Command) -> Process | None:
        """The command in the machine's own directory; None when it names one, or may not enter that one."""
        if command.cwd is not None or self._workdir is None:
            return None
        there = msgspec.structs.replace(command, cwd=self._workdir)
        try:
            return await stack.enter_async_context(self._run(there))
        except (FileMissing, FileRefused):
            return None

    @asynccontextmanager
    async def _run(self, command: Command) -> AsyncIterator[Process]:
        on_leave = CloseMode.DETACH if command.detached else CloseMode.KILL
        with self._link.open(Op.EXEC, encode_fields(_request(command)), on_leave=on_leave) as stream:
            first = await stream.answer(self._deadlines.answer)
            if isinstance(first, Frame) and first.type is FrameType.DONE:
                yield _never_started(command, decode_fields(first.payload, operations.ENDED))
            else:
                takes_input = command.stdin or command.terminal is not None
                yield _started(stream, command.process_id, first, takes_input=takes_input)

    @asynccontextmanager
    async def attach(self, process_id: str, *, quiet: bool = False) -> AsyncIterator[Process]:
        """Take part in a process that runs, its last 64 KiB of output first; leaving detaches. NotFound.

        With `quiet` there is no output, and `wait` tells the end as soon as it has come.
        """
        request = encode_fields([_known(process_id), (Tag.QUIET, 1 if quiet else None)])
        with self._link.open(Op.ATTACH, request, on_leave=CloseMode.DETACH) as stream:
            first = await self._welcome(stream, process_id, operations.ENDED)
            yield _started(stream, process_id, first, takes_input=True)

    async def feed(self, process_id: str, chunks: AsyncIterable[bytes], *, last: bool = False) -> None:
        """Write to the stdin of a process that runs, as fast as it reads, and with `last` end it.

        Returns when all of it is in the process's pipe. NotFound; Conflict for a process that takes no (more)
        input, or leaves it unread for longer than the deadline `unread`. When `chunks` raises or we are
        cancelled its stdin stays open, with what it has been given.
        """
        request = encode_fields([_known(process_id), (Tag.LAST, 1 if last else None)])
        with self._link.open(Op.INPUT, request, on_leave=CloseMode.DETACH) as stream:
            Questions.opened(await self._welcome(stream, process_id, operations.DONE), operations.NOTHING)
            async for chunk in chunks:
                async with self._read_by(process_id):
                    await stream.write(chunk)
                if stream.over:
                    break
            stream.send(FrameType.EOF, bytes((Channel.STDIN,)))
            async with self._read_by(process_id):
                frame = await stream.receive()
            if isinstance(frame, Data) or frame.type is not FrameType.DONE:
                raise malformed("an answer to INPUT without DONE")
            self.ended(frame, operations.DONE, lambda done: refusals.of_process(done, process_id))

    async def _welcome(self, stream: Stream, process_id: str, shape: Shape) -> Frame | Data:
        """The first answer about a process; the error of a DONE in its place."""
        first = await stream.answer(self._deadlines.answer)
        if isinstance(first, Frame) and first.type is FrameType.DONE:
            raise refusals.of_process(decode_fields(first.payload, shape), process_id)
        return first

    @asynccontextmanager
    async def _read_by(self, process_id: str) -> AsyncIterator[None]:
        limit = self._deadlines.unread
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError:
            raise Conflict(f"process {process_id} has not read its stdin for {limit:g} s") from None

    async def processes(self) -> list[ProcessInfo]:
        """The processes that were started through the agent and are still remembered."""
        return await self._items(Op.PROCESSES, b"", operations.PROCESS, _info, _refused_listing)

    async def process(self, process_id: str, *, wait_seconds: float = 0.0) -> ProcessInfo:
        """One of them, as soon as it has ended or after `wait_seconds`; NotFound."""
        if wait_seconds:
            await self._await_end(process_id, wait_seconds)
        found = next((info for info in await self.processes() if info.id == process_id), None)
        if found is None:
            raise NotFound(f"no such process in the sandbox: {process_id[:MAX_ID]!r}")
        return found

    async def _await_end(self, process_id: str, seconds: float) -> None:
        async with self.attach(process_id, quiet=True) as process:
            try:
                async with asyncio.timeout(seconds):
                    await process.wait()
            except TimeoutError:
                return

    async def kill(self, process_id: str, signal: int) -> None:
        """Send a signal to a process group; NotFound when it has ended."""
        request = encode_fields([_known(process_id), (Tag.SIGNAL_NUMBER, _signal(signal))])
        await self._items(
            Op.KILL, request, operations.NOTHING, nothing, lambda done: refusals.of_process(done, process_id)
        )


def without_shell(command: Command) -> Command | None:
    """The same command as its program and arguments, when no shell has anything to do in it.

    Should the program not start, the shell is asked after all: it knows best how to complain.
    """
    if command.shell is None or command.terminal is not None or "BASH_ENV" in command.env:
        return None
    words = words_of(command.shell)
    return msgspec.structs.replace(command, shell=None, argv=words) if words else None


def _request(command: Command) -> Iterator[tuple[Tag, Value]]:
    """The fields of an EXEC; InvalidRequest for a command that cannot be one."""
    if bool(command.argv) == (command.shell is not None):
        raise InvalidRequest("a command is either a list of arguments or a line for the shell")
    if not _is_id(command.process_id):
        raise InvalidRequest(f"a process id must have 1 to {MAX_ID} bytes")
    yield Tag.PROCESS_ID, command.process_id
    for argument in command.argv:
        yield Tag.ARG, argument
    yield Tag.SHELL, command.shell
    yield Tag.CWD, absolute(command.cwd) if command.cwd is not None else None
    for pair in environment(command.env):
        yield Tag.ENV, pair
    yield Tag.USER, user_name(command.user)
    yield Tag.TIMEOUT_MS, command.timeout_ms
    yield Tag.STDIN, 1 if command.stdin else None
    if command.terminal:
        rows, columns = _size(*command.terminal)
        yield Tag.ROWS, rows
        yield Tag.COLS, columns
    yield Tag.DETACHED, 1 if command.detached else None


def _started(stream: Stream, process_id: str, first: Frame | Data, *, takes_input: bool) -> GuestProcess:
    """The process of an OPENED, which knows better than we do whether it takes input."""
    opened = Questions.opened(first, operations.STARTED)
    takes_input = bool(opened.number(Tag.STDIN, takes_input))
    pid = opened.number(Tag.PID)
    return GuestProcess(stream, process_id, pid, takes_input=takes_input, place=_place(opened))


def _place(opened: Fields) -> Place:
    rows, columns = opened.number(Tag.ROWS), opened.number(Tag.COLS)
    size = (rows, columns) if 0 < rows < 1 << 16 and 0 < columns < 1 << 16 else None
    return Place(opened.number(Tag.OFFSET), opened.number(Tag.SIZE), size)


def _never_started(command: Command, done: Fields) -> NeverStarted:
    """The outcome of a command that was refused before it ran; raises unless it is the program's fault."""
    number, message = done.number(Tag.ERRNO), refusals.message_of(done)
    if number == errno.E2BIG:
        raise InvalidRequest("the command's arguments and environment are too long")
    if command.cwd is not None and _tells_of(message, command.cwd):
        raise _no_entry(command.cwd, done)
    # A line for the shell names no program: the shell's own path does.
    if _tells_of(message, command.argv[0] if command.argv else "/"):
        return NeverStarted(
            command.process_id, NOT_FOUND if number == errno.ENOENT else NOT_EXECUTABLE, message
        )
    raise refusals.of_process(done, command.process_id)


def _tells_of(message: str, name: str) -> bool:
    """Whether the agent's words begin with this path; a very long one is not told whole."""
    return message.startswith(name[:200])


def _no_entry(cwd: str, done: Fields) -> PandastackError:
    error = refusals.of_file(done, cwd)
    return type(error)(f"the working directory cannot be entered: {error}", **error.details)


def _info(item: Fields) -> ProcessInfo:
    return ProcessInfo(
        id=item.text(Tag.PROCESS_ID),
        pid=item.number(Tag.PID),
        command=item.text(Tag.COMMAND),
        started_ns=item.number(Tag.STARTED_NS),
        running=bool(item.number(Tag.RUNNING)),
        exit_code=item.number(Tag.EXIT_CODE) if Tag.EXIT_CODE in item else None,
        tty=bool(item.number(Tag.TTY)),
        stdin=bool(item.number(Tag.STDIN)),
    )


def _size(rows: int, columns: int) -> tuple[int, int]:
    if not (0 < rows < 1 << 16 and 0 < columns < 1 << 16):
        raise InvalidRequest(f"a terminal cannot have {rows} rows and {columns} columns")
    return rows, columns


def _is_id(process_id: str) -> bool:
    return 1 <= len(process_id.encode(errors="replace")) <= MAX_ID


def _known(process_id: str) -> tuple[Tag, str]:
    """An id to ask for; what cannot be one is not known, and need not be asked."""
    if not _is_id(process_id) or "\0" in process_id:
        raise NotFound(f"no such process in the sandbox: {process_id[:MAX_ID]!r}")
    return Tag.PROCESS_ID, process_id


def _signal(number: int) -> int:
    if not 0 < number <= 64:
        raise InvalidRequest(f"there is no signal {number}")
    return number


def _refused_listing(done: Fields) -> PandastackError:
    return refusals.of_process(done, "list")
