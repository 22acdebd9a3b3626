"""`AsyncClient`: one server, and the nouns it knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack
from weakref import WeakKeyDictionary

import httpx2

from pandastack.client import _wire
from pandastack.client._async.backups import AsyncBackupsAPI
from pandastack.client._async.connection import AsyncConnection
from pandastack.client._async.default import default_connection, set_default_connection
from pandastack.client._async.dev import AsyncDevMachines
from pandastack.client._async.sandbox import AsyncSandbox
from pandastack.client._async.snapshots import AsyncSnapshotsAPI
from pandastack.client._async.templates import AsyncTemplatesAPI
from pandastack.client._async.volumes import AsyncVolumesAPI
from pandastack.client._config import Surroundings, read_surroundings, settle
from pandastack.client._diff import Diff, Place, diff_call
from pandastack.client._lineage import ForkTree, Promotion
from pandastack.client._pair import AsyncCancelEvent, scope_async
from pandastack.client._retry import CreateRetryEvent
from pandastack.client._values import Token
from pandastack.client._wire import Call, CreateOptions


class AsyncSandboxAPI:
    """`client.sandboxes`: the sandboxes of one server."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(  # noqa: PLR0913  # the official SDK's signature
        self,
        template: str = AsyncSandbox.default_template,
        cpu: int | None = None,
        memory_mb: int | None = None,
        ttl_seconds: int | None = None,
        persistent: bool = False,
        metadata: Mapping[str, str] | None = None,
        from_snapshot: str | None = None,
        volumes: Sequence[Mapping[str, Any]] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cancel: AsyncCancelEvent | None = None,
        **times: Unpack[CreateOptions],
    ) -> AsyncSandbox:
        """Create a sandbox; see `AsyncSandbox.create`."""
        body = _wire.create_body(
            template=template,
            sizes=(cpu, memory_mb),
            metadata=metadata,
            ttl_seconds=ttl_seconds,
            persistent=persistent,
            from_snapshot=from_snapshot,
            volumes=volumes,
            env=env,
            times=times,
        )
        return await AsyncSandbox.create_on(self._connection, body, cancel=cancel)

    async def list(self) -> Sequence[AsyncSandbox]:
        """Every sandbox that the key may see."""
        return await AsyncSandbox.list_on(self._connection)

    async def get(self, sandbox_id: str) -> AsyncSandbox:
        """The sandbox with this id; NotFoundError when there is none."""
        return await AsyncSandbox.get_on(self._connection, sandbox_id)

    async def delete(self, sandbox_id: str) -> None:
        """Destroy the sandbox with this id; NotFoundError when there is none."""
        await self._named(sandbox_id).kill()

    async def fork(
        self,
        sandbox_id: str,
        metadata: Mapping[str, str] | None = None,
        *,
        cancel: AsyncCancelEvent | None = None,
        ttl_seconds: int | None = None,
        persistent: bool = False,
    ) -> AsyncSandbox:
        """Fork the sandbox with this id; see `AsyncSandbox.fork`."""
        parent = self._named(sandbox_id)
        return await parent.fork(metadata, ttl_seconds=ttl_seconds, persistent=persistent, cancel=cancel)

    async def fork_tree(
        self,
        sandbox_id: str,
        count: int = 2,
        metadata: Mapping[str, str] | None = None,
        *,
        cancel: AsyncCancelEvent | None = None,
        ttl_seconds: int | None = None,
        persistent: bool = False,
    ) -> ForkTree[AsyncSandbox]:
        """Fork the sandbox with this id several times; see `AsyncSandbox.fork_tree`."""
        parent = self._named(sandbox_id)
        return await parent.fork_tree(
            count, metadata, ttl_seconds=ttl_seconds, persistent=persistent, cancel=cancel
        )

    async def promote(
        self, sandbox_id: str, *, cleanup_siblings: bool = False, tree_id: str | None = None
    ) -> Promotion:
        """Make a child of a fork-tree a sandbox of its own; see `AsyncSandbox.promote`."""
        return await self._named(sandbox_id).promote(cleanup_siblings=cleanup_siblings, tree_id=tree_id)

    def _named(self, sandbox_id: str) -> AsyncSandbox:
        """The sandbox of this id, of which nothing else is known."""
        return AsyncSandbox.from_answer({"id": sandbox_id}, self._connection)


class AsyncTokensAPI:
    """`client.tokens`: the keys of the API."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self) -> Sequence[Token]:
        """Every token, without its secret."""
        answer = await self._connection.request(Call(method="GET", path="/me/tokens"))
        return [Token.from_dict(item) for item in _wire.items_of(answer)]

    async def create(self, name: str, expires_in_days: int | None = None) -> Token:
        """Make a token; its `token` is the secret and is told only here."""
        body = _wire.clean(label=name, expires_in_days=expires_in_days)
        call = Call(method="POST", path="/me/tokens", json=body)
        return Token.from_dict(await self._connection.request(call))

    async def revoke(self, prefix: str) -> None:
        """End a token, named by its prefix; NotFoundError when there is none."""
        path = f"/me/tokens/{_wire.segment(prefix)}"
        await self._connection.request(Call(method="DELETE", path=path))


class AsyncClient:
    """A PandaStack server.

    What is not given comes from the environment (`PANDASTACK_API`, `PANDASTACK_API_KEY`), else from
    `~/.config/pandastack/config.json`, else it is the server of this machine, http://127.0.0.1:8080. A key
    that the file names together with another server is not used.

    `timeout` is the longest silence, in seconds, of a server that owes an answer; commands may be silent for
    longer. A create that is refused for lack of room is repeated for `max_create_retry_seconds` (60, or
    `PANDASTACK_MAX_CREATE_RETRY_SECONDS`; 0 = never), after telling `on_create_retry`. `transport` replaces
    the network.
    """

    def __init__(
        self,
        api_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 30.0,
        api_base: str | None = None,
        max_create_retry_seconds: float | None = None,
        on_create_retry: Callable[[CreateRetryEvent], None] | None = None,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        settings = settle(
            surroundings or read_surroundings(),
            api_url=api_url if api_url is not None else api_base,
            api_key=api_key,
            timeout=timeout,
            create_retry_seconds=max_create_retry_seconds,
        )
        self._use(AsyncConnection(settings, transport=transport))
        self.connection.on_create_retry = on_create_retry

    @classmethod
    def over(cls, connection: AsyncConnection) -> Self:
        """A client that speaks over this connection."""
        client = cls.__new__(cls)
        client._use(connection)
        return client

    def _use(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self.sandboxes = AsyncSandboxAPI(connection)
        self.snapshots = AsyncSnapshotsAPI(connection)
        self.templates = AsyncTemplatesAPI(connection)
        self.tokens = AsyncTokensAPI(connection)
        self.volumes = AsyncVolumesAPI(connection)
        self.backups = AsyncBackupsAPI(connection)
        self.dev = AsyncDevMachines(connection)

    @property
    def api_url(self) -> str:
        """The server's address."""
        return self.connection.settings.api_url

    @property
    def api_base(self) -> str:
        """The server's address, by its older name."""
        return self.api_url

    @property
    def api_key(self) -> str | None:
        """The credential."""
        return self.connection.settings.api_key

    @property
    def max_create_retry_seconds(self) -> float:
        """For how long a create is repeated that is refused for lack of room."""
        return self.connection.settings.create_retry_seconds

    @property
    def timeout(self) -> float:
        """The longest silence of a server that owes an answer, in seconds."""
        return self.connection.timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self.connection.timeout = seconds

    @property
    def preview_host(self) -> str | None:
        """What the names of preview hosts end with; None for what follows from the server's address."""
        return self.connection.preview_host

    @preview_host.setter
    def preview_host(self, host: str | None) -> None:
        self.connection.preview_host = host

    async def me(self) -> dict[str, Any]:
        """Who the key belongs to."""
        return await self.connection.request(Call(method="GET", path="/me")) or {}

    async def capabilities(self) -> dict[str, Any]:
        """What this server can do, and what stands between its sandboxes and their host."""
        return await self.connection.request(Call(method="GET", path="/capabilities")) or {}

    async def boot_stats(self, limit: int = 50) -> dict[str, Any]:
        """How long the newest sandboxes took to come up, in milliseconds, by mode and template."""
        call = Call(method="GET", path="/stats/boot", params=_wire.query(limit=limit))
        return await self.connection.request(call) or {}

    async def diff(self, a: Place, b: Place, *, path: str = "/", limit: int | None = None) -> Diff:
        """What leads from one point to another: files below `path`, processes and listening ports.

        A point is a sandbox, its id, `"ID@STEP"` for a step of its timeline, or a `Point`. Of each list at
        most `limit` (10 000) are told. Steps and snapshots are restored to be looked at.
        """
        return Diff.from_dict(await self.connection.request(diff_call(a, b, path, limit)))

    async def aclose(self) -> None:
        """Close the connections; sandboxes live on."""
        await self.connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


_defaults: WeakKeyDictionary[object, AsyncClient] = WeakKeyDictionary()


def get_default_async_client() -> AsyncClient:
    """The client of every verb that was given none, made from the surroundings at its first use."""
    here = scope_async()
    if here not in _defaults:
        _defaults[here] = AsyncClient.over(default_connection())
    return _defaults[here]


def set_default_async_client(client: AsyncClient | None) -> None:
    """Use this client from now on (in this event loop); None forgets it."""
    set_default_connection(client.connection if client else None)
    if client is None:
        _defaults.pop(scope_async(), None)
    else:
        _defaults[scope_async()] = client
