"""QEMU's monitor, spoken for as long as one order takes.

The monitor of a machine is a listening socket in its home; nobody stays connected, so ten thousand idle
machines cost this program nothing, and a restarted program finds the monitor free. Protocol: QEMU's qmp-spec,
one JSON object a line.
"""

from __future__ import annotations

import asyncio
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


class Qmp:
    """A negotiated monitor. One order at a time; events in between are passed over."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:  # noqa: ANN401  # any JSON value
        """The value that QEMU returns. QmpRefused with QEMU's own sentence, MachineError when it went
        away.
        """
        order = {"execute": command} if arguments is None else {"execute": command, "arguments": arguments}
        self._writer.write(msgspec.json.encode(order) + b"\n")
        while True:
            answer = await self._receive()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise QmpRefused(f"QEMU refused {command}: {answer['error'].get('desc', answer['error'])}")

    async def greet(self) -> dict[str, Any]:
        """Read the greeting and leave negotiation mode; returns QEMU's version object.

        An event that was meant for the connection before this one may come first.
        """
        while "QMP" not in (greeting := await self._receive()):
            pass
        await self.execute("qmp_capabilities")
        version: dict[str, Any] = greeting["QMP"]["version"]
        return version

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
async def monitor(path: Path, *, deadline: float = DEADLINE) -> AsyncIterator[Qmp]:
    """The monitor behind `path` for the length of the block, all of which must end within `deadline` seconds.

    MachineError when nobody listens, when QEMU goes away and when the deadline passes; what else fails in the
    block, as on a full disk, is its own.
    """
    try:
        async with asyncio.timeout(deadline):
            reader, writer = await _connected(path)
            try:
                qmp = Qmp(reader, writer)
                await qmp.greet()
                yield qmp
            finally:
                writer.close()
    except TimeoutError as error:
        raise MachineError(f"QEMU's monitor did not answer within {deadline:g} s") from error
    except ConnectionError as error:
        raise MachineError(f"QEMU's monitor was lost: {error.strerror}") from error


async def _connected(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_unix_connection(sock=unix.connect(path), limit=_LINE_LIMIT)
    except OSError as error:
        raise MachineError(f"QEMU's monitor cannot be reached: {error.strerror}") from error
