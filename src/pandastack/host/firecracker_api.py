"""The requests to a Firecracker: JSON over HTTP on a Unix socket, each within a deadline.

The socket lies where the jailed process may write, so it is never found by its path alone: what is not a
socket of the machine's own user is refused, and the connection is made to exactly what was looked at.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from pandastack.errors import MachineError

DEADLINE = 10.0
"""Seconds for what Firecracker answers at once."""
_WORDS = 500


class Order(Struct, frozen=True):
    """One request."""

    method: str
    path: str
    body: dict[str, Any]


class Refused(MachineError):
    """Firecracker has said no, and why."""


class Api:
    """An open connection to one Firecracker."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def give(self, *orders: Order, deadline: float = DEADLINE) -> None:
        """Have it do these, in this order; the first that is refused ends it. Refused, MachineError."""
        for order in orders:
            await self._ask(order.method, order.path, order.body, deadline)

    async def state(self, *, deadline: float = DEADLINE) -> str:
        """`Not started`, `Running` or `Paused`. MachineError."""
        told = await self._ask("GET", "/", None, deadline)
        return str(told.get("state", ""))

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, deadline: float
    ) -> dict[str, Any]:
        data = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.request(
                method,
                f"http://firecracker{path}",
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=deadline),
            ) as answer:
                told = await answer.read()
                status = answer.status
        except TimeoutError as error:
            raise MachineError(f"Firecracker does not answer {method} {path} in {deadline:g} s.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise MachineError(f"Firecracker cannot be asked {method} {path}: {error}") from error
        if status >= 400:
            raise Refused(f"Firecracker refuses {method} {path}: {_fault(told)}")
        return _decoded(told)


@asynccontextmanager
async def api(path: Path, owner: int) -> AsyncIterator[Api]:
    """A connection to the Firecracker that listens at `path` and runs as `owner`. MachineError."""
    with own_socket(path, owner) as address:
        connector = aiohttp.UnixConnector(path=address)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield Api(session)


@contextmanager
def own_socket(path: Path, owner: int) -> Iterator[str]:
    """An address of the socket at `path`, as short as the kernel wants it, for the length of the block.

    MachineError when there is none, when it is not a socket or somebody else's: no link is followed.
    """
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise MachineError(f"Nobody listens at {path}: {error.strerror}.") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != owner:
            raise MachineError(f"{path} is not the machine's own socket.")
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def answers(path: Path, owner: int) -> bool:
    """Whether somebody listens at this socket: it is there shortly before."""
    try:
        with own_socket(path, owner) as address, socket.socket(socket.AF_UNIX) as connection:
            connection.setblocking(False)
            connection.connect(address)
    except (MachineError, OSError):
        return False
    return True


def _decoded(told: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(told, type=dict[str, Any]) if told else {}
    except msgspec.MsgspecError as error:
        raise MachineError("Firecracker's answer is no JSON.") from error


def _fault(told: bytes) -> str:
    try:
        return str(_decoded(told).get("fault_message", ""))[:_WORDS]
    except MachineError:
        return told[:_WORDS].decode(errors="replace")
