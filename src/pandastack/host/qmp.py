"""QEMU's monitor, spoken for as long as one order takes.

The monitor of a machine is a listening socket in its home; nobody stays connected, so ten thousand idle
machines cost this program nothing, and a restarted program finds the monitor free. Protocol: QEMU's qmp-spec,
one JSON object a line.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from pandastack.errors import MachineError
from pandastack.host import unix

DEADLINE = 20.0
"""Seconds an order may take; the longest one writes the device state."""

_LINE_LIMIT = 1 << 20


class QmpRefused(MachineError):
    """QEMU understood the order and said no."""

    code = "machine.refused"


Order = tuple[str, dict[str, Any] | None]
"""A command and its arguments."""

NEGOTIATE: Order = ("qmp_capabilities", None)


class Qmp:
    """A monitor. Its greeting is passed over, like events, which may come before it: those that were on their
    way to the connection before this one. So what it is asked first can be sent at once.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._before: list[Order] = [NEGOTIATE]

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:  # noqa: ANN401  # any JSON value
        """The value that QEMU returns. QmpRefused with QEMU's own sentence, MachineError when it went
        away.
        """
        return (await self.execute_all((command, arguments)))[-1]

    async def execute_all(self, *orders: Order) -> list[Any]:
        """What QEMU returns to orders that are sent together, which it takes one after the other, also behind
        one that it refuses. Errors: as `execute`, of the first.
        """
        sent, self._before = [*self._before, *orders], []
        self._writer.write(b"".join(_line(order) for order in sent))
        answers = [(command, await self._answer()) for command, _ in sent]
        for command, answer in answers:
            if "error" in answer:
                raise QmpRefused(f"QEMU refused {command}: {answer['error'].get('desc', answer['error'])}")
        return [answer["return"] for _, answer in answers[-len(orders) :]]

    async def _answer(self) -> dict[str, Any]:
        while True:
            said = await self._receive()
            if "return" in said or "error" in said:
                return said

    async def _receive(self) -> dict[str, Any]:
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise MachineError("QEMU closed its monitor")
        try:
            answer: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise MachineError(f"QEMU's monitor sent no JSON object: {error}") from error
        return answer


@asynccontextmanager
async def monitor(
    path: Path, *, deadline: float = DEADLINE, descriptor: int | None = None
) -> AsyncIterator[Qmp]:
    """The monitor behind `path` for the length of the block, all of which must end within `deadline` seconds.
    A `descriptor` that comes with it is the one that the next `add-fd` takes.

    MachineError when nobody listens, when QEMU goes away and when the deadline passes; what else fails in the
    block, as on a full disk, is its own.
    """
    try:
        async with asyncio.timeout(deadline):
            reader, writer = await _connected(path, descriptor)
            try:
                yield Qmp(reader, writer)
            finally:
                writer.close()
    except TimeoutError as error:
        raise MachineError(f"QEMU's monitor did not answer within {deadline:g} s") from error
    except ConnectionError as error:
        raise MachineError(f"QEMU's monitor was lost: {error.strerror}") from error


def _line(order: Order) -> bytes:
    command, arguments = order
    words = {"execute": command} if arguments is None else {"execute": command, "arguments": arguments}
    return msgspec.json.encode(words) + b"\n"


async def _connected(path: Path, descriptor: int | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        connection = unix.connect(path)
        if descriptor is not None:
            socket.send_fds(connection, [b"\n"], [descriptor])  # white space is nothing to a reader of JSON
        return await asyncio.open_unix_connection(sock=connection, limit=_LINE_LIMIT)
    except OSError as error:
        raise MachineError(f"QEMU's monitor cannot be reached: {error.strerror}") from error
