"""The gateway's own socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pandastack.config import split_address
from pandastack.errors import Conflict, InvalidRequest
from pandastack.gateway.visitor import Door, Handler, Limits

BACKLOG = 1024
GRACE_SECONDS = 5.0


@asynccontextmanager
async def listening(
    front: Handler, listen: str, limits: Limits, *, grace_seconds: float = GRACE_SECONDS
) -> AsyncIterator[str]:
    """Answer visitors at `listen` (host:port, port 0 for any) while the block lasts: the base URL.

    Behind it no visitor is left. Errors: InvalidRequest for an address that is none, Conflict for one that is
    taken.
    """
    host, port = split_address(listen)
    door = Door(front, limits)
    try:
        server = await asyncio.get_running_loop().create_server(door, host, port, backlog=BACKLOG)
    except socket.gaierror as error:
        raise InvalidRequest(f"{host!r} is no address to listen on.") from error
    except OSError as error:
        reason = error.strerror or "the address is not this machine's"
        raise Conflict(
            f"The gateway cannot listen on {listen}: {reason}. Choose another with --gateway."
        ) from error
    try:
        bound = server.sockets[0].getsockname()
        yield f"http://[{host}]:{bound[1]}" if ":" in host else f"http://{host}:{bound[1]}"
    finally:
        server.close()
        door.pre_shutdown()
        await door.shutdown(grace_seconds)
        await server.wait_closed()
