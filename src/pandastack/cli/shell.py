"""`pandastack shell`: this terminal, connected to one in a sandbox."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer

from pandastack import (
    AsyncClient,
    AsyncSandbox,
    AsyncTerminal,
    ConnectionError,
    NotFoundError,
    PandastackError,
)
from pandastack.cli.session import SandboxId, Session, advise, session_of

app = typer.Typer(add_completion=False)

LEAVE = b""
"""What is typed when nobody can type any more, or does not want to."""
Orders = asyncio.Queue[bytes | os.terminal_size]

PLAIN = b"\x1b[?1047l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?1l\x1b>\x1b[?25h\x1b[0m"
"""A terminal as a shell expects it, whatever the program in it has asked for: the ordinary screen, no mouse,
plain keys, a cursor, no colours.
"""

QUESTIONS = re.compile(
    rb"\x1b\[[>=?]?[0-9;]*[cn]|\x1b\[>[0-9]*q|\x1b\[\?u|\x1b\[\?[0-9;]*\$p|\x1b\[(?:1[1-9]|2[01])t"
    rb"|\x1b\][0-9;]*;\?(?:\x07|\x1b\\)|\x1bP[+$]q[^\x1b]*\x1b\\|\x05"
)
"""What a program asks a terminal about itself. In old output it is left out: the answer would be typed."""

Name = Annotated[
    str | None, typer.Option("--attach", "-a", metavar="NAME", help="Come back to this terminal of it.")
]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Only look.")]
Program = Annotated[str | None, typer.Option("--cmd", help="Another program than the user's shell.")]
User = Annotated[str | None, typer.Option("--user", "-u", help="Its user; root by default.")]


@app.command("shell")
def open_shell(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    attach: Name = None,
    read_only: ReadOnly = False,
    cmd: Program = None,
    user: User = None,
) -> None:
    """Open a terminal in a sandbox, or come back to one.

    Enter ~ . leaves it, and it goes on, as it does when the connection breaks.
    """
    if not sys.stdin.isatty():
        raise typer.BadParameter("A shell needs a terminal; `sandbox exec` does not.")
    if attach is not None and (cmd is not None or user is not None):
        raise typer.BadParameter(
            "What runs in a terminal that is there is what runs there: no --cmd, --user."
        )
    visit = Visit(session_of(ctx), sandbox_id, attach, read_only=read_only, cmd=cmd, user=user)
    raise typer.Exit(asyncio.run(visit.whole()))


class Visit:
    """One stay at a terminal of a sandbox."""

    def __init__(
        self,
        session: Session,
        sandbox_id: str,
        name: str | None,
        *,
        read_only: bool,
        cmd: str | None,
        user: str | None,
    ) -> None:
        self._session = session
        self._sandbox_id = sandbox_id
        self._name = name
        self._read_only = read_only
        self._cmd = cmd
        self._user = user
        self._left = False

    async def whole(self) -> int:
        """The exit code: the program's, 0 for who left, 1 for a connection that broke."""
        async with AsyncClient(api_url=self._session.api, api_key=self._session.token) as client:
            sandbox = await client.sandboxes.get(self._sandbox_id)
            size = _size()
            if self._name is None:
                made = await sandbox.terminals.create(cmd=self._cmd, user=self._user, size=size)
                self._name = made["name"]
            try:
                code = await self._attached(sandbox, self._name, size)
            except NotFoundError:
                raise  # there is nothing to come back to
            except PandastackError as error:
                typer.echo(f"pandastack: {advise(error)} {self._way_back()}", err=True)
                return 1
        if code is not None:
            return code
        typer.echo(f"{'You left.' if self._left else 'The connection ended.'} {self._way_back()}", err=True)
        return 0 if self._left else 1

    def _way_back(self) -> str:
        return f"The terminal goes on: pandastack shell {self._sandbox_id} --attach {self._name}"

    async def _attached(self, sandbox: AsyncSandbox, name: str, size: tuple[int, int]) -> int | None:
        wanted = None if self._read_only else size
        async with sandbox.terminals.attach(name, size=wanted, read_only=self._read_only) as terminal:
            with raw_mode(sys.stdin.fileno()), typed() as orders:
                await self._converse(terminal, orders)
            return terminal.exit_code

    async def _converse(self, terminal: AsyncTerminal, orders: Orders) -> None:
        """Until the program has ended, the connection has, or the person leaves."""
        try:
            async with asyncio.TaskGroup() as group:
                showing = group.create_task(_show(terminal))
                typing = group.create_task(self._type(orders, terminal, showing))
                await asyncio.wait([showing])
                typing.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _type(self, orders: Orders, terminal: AsyncTerminal, showing: asyncio.Task[None]) -> None:
        keys = Keys()
        while not keys.leaving:
            order = await orders.get()
            try:
                await self._obey(order, keys, terminal)
            except ConnectionError:
                return  # who reads hears of it, and of all that came before
        self._left = True
        showing.cancel()

    async def _obey(self, order: bytes | os.terminal_size, keys: Keys, terminal: AsyncTerminal) -> None:
        data = b"" if isinstance(order, os.terminal_size) else keys.passed(order)
        if self._read_only:
            return
        if isinstance(order, os.terminal_size):
            await terminal.resize(order.lines, order.columns)
        elif data:
            await terminal.write(data)


class Keys:
    """What is typed, as it is passed on: `~.` at the beginning of a line leaves, `~~` is a `~`."""

    def __init__(self) -> None:
        self.leaving = False
        self._at_start = True
        self._held = False

    def passed(self, data: bytes) -> bytes:
        """What of it goes to the program."""
        out = bytearray()
        self.leaving = data == LEAVE
        for key in data:
            if self._held:
                self._held = False
                if key == ord("."):
                    self.leaving = True
                    break
                out += b"~" if key == ord("~") else bytes((ord("~"), key))
            elif self._at_start and key == ord("~"):
                self._held = True
                continue
            else:
                out.append(key)
            self._at_start = key in b"\r\n"
        return bytes(out)


async def _show(terminal: AsyncTerminal) -> None:
    old = bytearray()
    gaps = 0
    try:
        async for piece in terminal:
            if terminal.gaps > gaps:
                gaps, old = terminal.gaps, bytearray(PLAIN + b"\x1b[2J\x1b[H")
            if terminal.is_live:
                _write(QUESTIONS.sub(b"", old) + piece)
                old.clear()
            else:
                old += piece
        _write(QUESTIONS.sub(b"", old))
    finally:
        if terminal.exit_code is None:
            _write(PLAIN + b"\r\n")


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


def _size() -> tuple[int, int]:
    """Rows and columns of this terminal, whatever the environment says."""
    size = os.get_terminal_size(sys.stdin.fileno())
    return (size.lines, size.columns) if size.lines and size.columns else (24, 80)


@contextmanager
def raw_mode(descriptor: int) -> Iterator[None]:
    """Every key goes through as it is; afterwards the terminal is as it was."""
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSADRAIN)  # what was typed ahead is kept
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def typed() -> Iterator[Orders]:
    """What is typed here, and every new size of this terminal, as it happens; LEAVE when it is gone."""
    loop = asyncio.get_running_loop()
    orders: Orders = asyncio.Queue()
    descriptor = sys.stdin.fileno()

    def read() -> None:
        try:
            data = os.read(descriptor, 65_536)
        except OSError:  # the other end of this terminal has been closed
            data = LEAVE
        if data == LEAVE:
            loop.remove_reader(descriptor)
        orders.put_nowait(data)

    def measure() -> None:
        with suppress(OSError):
            orders.put_nowait(os.get_terminal_size(descriptor))

    loop.add_reader(descriptor, read)
    loop.add_signal_handler(signal.SIGWINCH, measure)
    try:
        yield orders
    finally:
        loop.remove_reader(descriptor)
        loop.remove_signal_handler(signal.SIGWINCH)
