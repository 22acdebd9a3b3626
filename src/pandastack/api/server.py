"""The HTTP server: a bound socket and uvicorn over it, with no say in signals, logging or the loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

from pandastack.api.interim import InterimProtocol
from pandastack.config import split_address
from pandastack.errors import Conflict, InvalidRequest

KEEP_ALIVE_SECONDS = 120
"""How long an idle connection is kept: longer than clients do, so that they never write into a closed one."""
PING_SECONDS = 20.0
FRAME_BYTES = 1 << 20
GRACE_SECONDS = 5
"""How long requests under way may take to end when the server does; then they are cancelled."""
UNDO_SECONDS = 60
"""How long those that were cancelled may take to leave nothing half done."""


@asynccontextmanager
async def serving(app: ASGIApp, listen: str, *, grace_seconds: int = GRACE_SECONDS) -> AsyncIterator[str]:
    """Serve `app` at `listen` (host:port, port 0 for any) while the block lasts: the base URL.

    Behind it no request is under way: those that take longer than `grace_seconds` are cancelled. Errors:
    InvalidRequest for an address that is none, Conflict for one that is taken.
    """
    with _bound(listen) as bound:
        server = _Server(_config(app, grace_seconds))
        running = asyncio.create_task(server.serve(sockets=[bound]), name="http")
        try:
            await server.accepting.wait()
            host, port = bound.getsockname()[:2]
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            server.should_exit = True
            await running
            if cancelled := [*server.server_state.tasks]:  # what they stand on is closed next
                await asyncio.wait(cancelled, timeout=UNDO_SECONDS)


def _config(app: ASGIApp, grace_seconds: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=InterimProtocol,
        ws="websockets-sansio",
        ws_max_size=FRAME_BYTES,
        ws_ping_interval=PING_SECONDS,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace_seconds,
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As ever, and tells when connections are accepted."""
        await super().startup(sockets)
        self.accepting.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the program that serves."""
        yield


@contextmanager
def _bound(listen: str) -> Iterator[socket.socket]:
    host, port = split_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except socket.gaierror as error:
            raise InvalidRequest(f"{host!r} is no address to listen on.") from error
        except OSError as error:
            reason = error.strerror or "the address is not this machine's"
            raise Conflict(
                f"{listen} cannot be listened on: {reason}. Choose another with --listen."
            ) from error
        bound.setblocking(False)
        yield bound
