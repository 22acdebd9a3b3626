"""The ports of a sandbox: which there are, links to them, and connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

from websockets.exceptions import ConnectionClosed

from pandastack.client._async.handle import AsyncHandle
from pandastack.client._async.terminal import open_socket
from pandastack.client._errors import ConnectionError
from pandastack.client._pair import AsyncSocket
from pandastack.client._ports import PortInfo, Preview, SshCertificate, ports_of, preview_address


class AsyncPortConnection:
    """A TCP connection to a port of a sandbox, through the API."""

    def __init__(self, socket: AsyncSocket) -> None:
        self._socket = socket
        self._heard = False

    async def read(self) -> bytes:
        """The next bytes; none at the end. ConnectionError when the connection broke."""
        if self._heard:
            return b""
        try:
            data = await self._socket.recv()
        except ConnectionClosed as error:
            raise ConnectionError(f"The connection broke: {error}") from error
        self._heard = not data
        return data if isinstance(data, bytes) else data.encode()

    async def write(self, data: bytes) -> None:
        """Send bytes, as fast as the service takes them."""
        if data:
            await self._send(data)

    async def end(self) -> None:
        """Send no more; what the service says can still be read."""
        await self._send(b"")

    async def _send(self, data: bytes) -> None:
        try:
            await self._socket.send(data)
        except ConnectionClosed as error:
            raise ConnectionError(f"The connection broke: {error}") from error


class AsyncPortVerbs(AsyncHandle):
    """The verbs of a sandbox that are about its ports."""

    async def ports(self) -> Sequence[PortInfo]:
        """The ports that have names and those that are listened on. Asking does not wake it."""
        return ports_of(await self._verb("GET", "ports"))

    async def expose(self, port: int, label: str = "service") -> PortInfo:
        """Give a port a name, which is kept whether or not somebody listens there."""
        return ports_of([await self._verb("POST", "ports", {"port": port, "label": label})])[0]

    async def hide(self, port: int) -> None:
        """Take its name off a port. Fine when it has none; what listens goes on."""
        await self._verb("DELETE", f"ports/{port}")

    def preview_url(self, port: int, scheme: str | None = None) -> str:
        """The address of a port for browsers. Whoever knows it may go there, unless previews are shut.

        Nothing is asked: the server's previews are taken to be at `preview_host` of the client, at
        PANDASTACK_PREVIEW_HOST, or at the API's own host without a leading `api.`.
        """
        connection = self._connection
        host = connection.preview_host
        return preview_address(port, self.id, connection.settings.api_url, host, scheme)

    async def preview_urls(self) -> dict[int, str]:
        """The addresses of all ports that are there."""
        return {each["port"]: self.preview_url(each["port"]) for each in await self.ports()}

    async def preview(self, port: int, *, ttl_seconds: int = 3600, paths: Sequence[str] = ()) -> Preview:
        """A link to a port for so many seconds, good for these paths and all below them, or for all."""
        body = {"port": port, "ttl_seconds": ttl_seconds, "paths": list(paths)}
        return cast("Preview", await self._verb("POST", "preview", body))

    async def visit_url(self, port: int, *, ttl_seconds: int = 3600, scheme: str | None = None) -> str:
        """A link for browsers that opens a port at its preview host, for so many seconds.

        There a service may keep cookies and open WebSockets, which it cannot behind the link of `preview`.
        It lets in whoever has it, also with the metadata `preview` "private", where the name alone does not.
        """
        made = await self.preview(port, ttl_seconds=ttl_seconds)
        return f"{self.preview_url(port, scheme)}/.pandastack/enter/{made['token']}/"

    async def ssh_certificate(
        self, public_key: str, *, user: str | None = None, ttl_seconds: int = 600
    ) -> SshCertificate:
        """A certificate to come by SSH with, for so many seconds: for the key of this line, as one of the
        sandbox's users (root when None).
        """
        body = {"public_key": public_key, "user": user, "ttl_seconds": ttl_seconds}
        return cast("SshCertificate", await self._verb("POST", "ssh", body))

    def connect(self, port: int) -> AbstractAsyncContextManager[AsyncPortConnection]:
        """A TCP connection to a port, also one on loopback; leaving the block closes it."""
        return self._connected(port)

    @asynccontextmanager
    async def _connected(self, port: int) -> AsyncIterator[AsyncPortConnection]:
        async with open_socket(self._connection, f"{self._path}/tcp/{port}", {}) as socket:
            yield AsyncPortConnection(socket)
