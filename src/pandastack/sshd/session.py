"""A session: a command, a shell in a terminal, or files."""

from __future__ import annotations

import asyncio
import re
import signal
from collections import deque
from contextlib import suppress

import asyncssh

from pandastack.carrying import unless_cancelled
from pandastack.errors import PandastackError
from pandastack.model.guest import Channel, Output, Process
from pandastack.services.certificates import Admission
from pandastack.sshd.channel import Opener
from pandastack.sshd.files import serve_files
from pandastack.telemetry import logger

log = logger("sshd")

FAILED = 255
"""What `ssh` ends with when it is at fault, and so do we."""
SFTP = "sftp"
PIECE = 64 << 10
ORDERS_MOST = 64
VALUE_MOST = 256
ROWS, COLUMNS = 24, 80

_TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_WORD = re.compile(r"LANG|LC_[A-Z]{1,32}")

Order = tuple[int, int] | int
"""A new size, or a signal."""


class Answers(asyncssh.SSHWriter[bytes]):
    """What SFTP answers. `scp` takes it for a failure when it ends without a status."""

    def close(self) -> None:
        chan = self.channel
        if isinstance(chan, asyncssh.SSHServerChannel):
            chan.exit(0)


class Session(asyncssh.SSHServerProcess[bytes]):
    """One channel. What its client does not take is not read from the guest, and the other way round."""

    def __init__(self, visitor: Opener) -> None:
        super().__init__(self._begin, None, 3, False)
        self._visitor = visitor
        self._waits = True
        self._orders: deque[Order] = deque(maxlen=ORDERS_MOST)
        self._ordered = asyncio.Event()
        self._taken = asyncio.Event()
        self._taken.set()

    # -- called by asyncssh

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == SFTP

    def session_started(self) -> None:
        """As asyncssh does it for commands, also for SFTP: a task of the listener serves it."""
        chan = self.channel
        stderr = asyncssh.SSHWriter(self, chan, asyncssh.EXTENDED_DATA_STDERR)
        stdout = Answers(self, chan) if chan.get_subsystem() == SFTP else asyncssh.SSHWriter(self, chan)
        self._start_process(asyncssh.SSHReader(self, chan), stdout, stderr)

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        self._orders.append(_size(height, width))
        self._ordered.set()

    def signal_received(self, signal: str) -> None:
        if (number := _number(signal)) is not None:
            self._orders.append(number)
            self._ordered.set()

    def break_received(self, msec: int) -> bool:
        return False

    def soft_eof_received(self) -> None:
        """What a terminal types is no end to us: the guest's terminal knows."""

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taken.clear()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._taken.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._start_counted()
        self._visitor.close(self)

    # -- ours

    async def clear(self) -> None:
        """Return once more can be written without keeping much of it here."""
        await self._taken.wait()
        await self._visitor.line.clear()

    def _begin(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self._start_counted()
        self._visitor.started(self, self._serve())

    def _start_counted(self) -> None:
        if self._waits:
            self._waits = False
            self._visitor.line.unstarted -= 1

    async def _serve(self) -> None:
        status = FAILED
        try:
            admission = await self._visitor.admitted()
            self._visitor.note(admission.caller, 101)
            status = await self._answered(admission)
        except PandastackError as error:
            unless_cancelled(error)
            await self._complain(str(error))
        except (asyncssh.Error, OSError, EOFError) as error:  # the client has left
            unless_cancelled(error)
        except Exception as error:  # a bug of ours: the log has it, the visitor a sentence
            unless_cancelled(error)
            log.exception("session.crashed")
            await self._complain("Something went wrong on our side.")
        finally:
            with suppress(OSError):
                self.exit(status)

    async def _answered(self, admission: Admission) -> int:
        """What was asked for, done to its end: the exit status."""
        if self.subsystem == SFTP:
            house = self._visitor.house
            await serve_files(self, house.sandboxes, admission, clear=self.clear, new_id=house.new_id)
            return 0
        size = None if self.term_type is None else _size(self.term_size[1], self.term_size[0])
        opened = self._visitor.house.commands.attended(
            admission.caller,
            admission.sandbox_id,
            self.command,
            env=self._environment(),
            user=admission.user,
            size=size,
        )
        async with opened as running:
            await self._attend(running.process)
            return (await running.ended()).exit_code

    async def _attend(self, process: Process) -> None:
        """Both directions, until the process has ended."""
        try:
            async with asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(self._feed(process)),
                    group.create_task(self._obey(process)),
                ]
                async for piece in process.output():
                    await self._say(piece)
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _feed(self, process: Process) -> None:
        while data := await self.stdin.read(PIECE):
            await process.write(data)
        await process.close_stdin()

    async def _obey(self, process: Process) -> None:
        while True:
            await self._ordered.wait()
            self._ordered.clear()
            while self._orders:
                order = self._orders.popleft()
                if isinstance(order, int):
                    await process.signal(order)
                elif self.term_type is not None:
                    await process.resize(*order)

    async def _say(self, piece: Output) -> None:
        await self.clear()
        (self.stderr if piece.channel is Channel.STDERR else self.stdout).write(piece.data)

    async def _complain(self, sentence: str) -> None:
        end = "\r\n" if self.term_type is not None else "\n"
        with suppress(OSError, asyncssh.Error):
            self.stderr.write(f"pandastack: {sentence}{end}".encode())

    def _environment(self) -> dict[str, str]:
        given = {
            name: value
            for name, value in self.env.items()
            if _WORD.fullmatch(name) and len(value) <= VALUE_MOST and value.isprintable()
        }
        if self.term_type is not None:
            given["TERM"] = self.term_type if _TERM.fullmatch(self.term_type) else "xterm-256color"
        return given


def _size(rows: int, columns: int) -> tuple[int, int]:
    """As a guest's terminal takes it; a client that does not know sends noughts."""
    return min(rows, 0xFFFF) or ROWS, min(columns, 0xFFFF) or COLUMNS


def _number(name: str) -> int | None:
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        return None
