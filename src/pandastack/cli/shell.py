"""`pandastack sandbox shell`: this terminal, connected to one in a sandbox."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from pandastack import AsyncClient, AsyncTerminal

Orders = asyncio.Queue[bytes | os.terminal_size]


def interact(
    api: str | None, token: str | None, sandbox_id: str, *, cmd: str | None, user: str | None
) -> int:
    """Connect until the program in the sandbox ends; its exit code."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("A shell needs a terminal; `sandbox exec` does not.")
    return asyncio.run(_session(api, token, sandbox_id, cmd, user))


async def _session(
    api: str | None, token: str | None, sandbox_id: str, cmd: str | None, user: str | None
) -> int:
    columns, rows = shutil.get_terminal_size()
    async with AsyncClient(api_url=api, api_key=token) as client:
        sandbox = await client.sandboxes.get(sandbox_id)
        async with sandbox.terminal(rows, columns, cmd=cmd, user=user) as terminal:
            with raw_mode(sys.stdin.fileno()), typed() as orders:
                await _converse(terminal, orders)
            return terminal.exit_code or 0


async def _converse(terminal: AsyncTerminal, orders: Orders) -> None:
    async with asyncio.TaskGroup() as group:
        forwarding = group.create_task(_forward(orders, terminal))
        async for piece in terminal:
            os.write(sys.stdout.fileno(), piece)
        forwarding.cancel()


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
    """What is typed here, and every new size of this terminal, as it happens."""
    loop = asyncio.get_running_loop()
    orders: Orders = asyncio.Queue()
    descriptor = sys.stdin.fileno()
    loop.add_reader(descriptor, lambda: orders.put_nowait(os.read(descriptor, 65_536)))
    loop.add_signal_handler(signal.SIGWINCH, lambda: orders.put_nowait(shutil.get_terminal_size()))
    try:
        yield orders
    finally:
        loop.remove_reader(descriptor)
        loop.remove_signal_handler(signal.SIGWINCH)


async def _forward(orders: Orders, terminal: AsyncTerminal) -> None:
    while order := await orders.get():
        if isinstance(order, os.terminal_size):
            await terminal.resize(order.lines, order.columns)
        else:
            await terminal.write(order)
