# Made from `../_async/client.py` by `scripts/unasync`: change that file.
"""`Client`: one server, and the nouns it knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack
from weakref import WeakKeyDictionary

import httpx2

from pandastack.client import _wire
from pandastack.client._config import Surroundings, read_surroundings, settle
from pandastack.client._diff import Diff, Place, diff_call
from pandastack.client._lineage import ForkTree, Promotion
from pandastack.client._pair import CancelEvent, scope
from pandastack.client._retry import CreateRetryEvent
from pandastack.client._sync.backups import BackupsAPI
from pandastack.client._sync.connection import Connection
from pandastack.client._sync.default import default_connection, set_default_connection
from pandastack.client._sync.dev import DevMachines
from pandastack.client._sync.sandbox import Sandbox
from pandastack.client._sync.snapshots import SnapshotsAPI
from pandastack.client._sync.templates import TemplatesAPI
from pandastack.client._sync.volumes import VolumesAPI
from pandastack.client._values import Token
from pandastack.client._wire import Call, CreateOptions


class SandboxAPI:
    """`client.sandboxes`: the sandboxes of one server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(  # noqa: PLR0913  # the official SDK's signature
        self,
        template: str = Sandbox.default_template,
        cpu: int | None = None,
        memory_mb: int | None = None,
        ttl_seconds: int | None = None,
        persistent: bool = False,
        metadata: Mapping[str, str] | None = None,
        from_snapshot: str | None = None,
        volumes: Sequence[Mapping[str, Any]] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cancel: CancelEvent | None = None,
        **times: Unpack[CreateOptions],
    ) -> Sandbox:
        """Create a sandbox; see `Sandbox.create`."""
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
        return Sandbox.create_on(self._connection, body, cancel=cancel)

    def list(self) -> Sequence[Sandbox]:
        """Every sandbox that the key may see."""
        return Sandbox.list_on(self._connection)

    def get(self, sandbox_id: str) -> Sandbox:
        """The sandbox with this id; NotFoundError when there is none."""
        return Sandbox.get_on(self._connection, sandbox_id)

    def delete(self, sandbox_id: str) -> None:
        """Destroy the sandbox with this id; NotFoundError when there is none."""
        self._named(sandbox_id).kill()

    def fork(
        self,
        sandbox_id: str,
        metadata: Mapping[str, str] | None = None,
        *,
        cancel: CancelEvent | None = None,
        ttl_seconds: int | None = None,
        persistent: bool = False,
    ) -> Sandbox:
        """Fork the sandbox with this id; see `Sandbox.fork`."""
        parent = self._named(sandbox_id)
        return parent.fork(metadata, ttl_seconds=ttl_seconds, persistent=persistent, cancel=cancel)

    def fork_tree(
        self,
        sandbox_id: str,
        count: int = 2,
        metadata: Mapping[str, str] | None = None,
        *,
        cancel: CancelEvent | None = None,
        ttl_seconds: int | None = None,
        persistent: bool = False,
    ) -> ForkTree[Sandbox]:
        """Fork the sandbox with this id several times; see `Sandbox.fork_tree`."""
        parent = self._named(sandbox_id)
        return parent.fork_tree(
            count, metadata, ttl_seconds=ttl_seconds, persistent=persistent, cancel=cancel
        )

    def promote(
        self, sandbox_id: str, *, cleanup_siblings: bool = False, tree_id: str | None = None
    ) -> Promotion:
        """Make a child of a fork-tree a sandbox of its own; see `Sandbox.promote`."""
        return self._named(sandbox_id).promote(cleanup_siblings=cleanup_siblings, tree_id=tree_id)

    def _named(self, sandbox_id: str) -> Sandbox:
        """The sandbox of this id, of which nothing else is known."""
        return Sandbox.from_answer({"id": sandbox_id}, self._connection)


class TokensAPI:
    """`client.tokens`: the keys of the API."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> Sequence[Token]:
        """Every token, without its secret."""
        answer = self._connection.request(Call(method="GET", path="/me/tokens"))
        return [Token.from_dict(item) for item in _wire.items_of(answer)]

    def create(self, name: str, expires_in_days: int | None = None) -> Token:
        """Make a token; its `token` is the secret and is told only here."""
        body = _wire.clean(label=name, expires_in_days=expires_in_days)
        call = Call(method="POST", path="/me/tokens", json=body)
        return Token.from_dict(self._connection.request(call))

    def revoke(self, prefix: str) -> None:
        """End a token, named by its prefix; NotFoundError when there is none."""
        path = f"/me/tokens/{_wire.segment(prefix)}"
        self._connection.request(Call(method="DELETE", path=path))


class Client:
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
        transport: httpx2.BaseTransport | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        settings = settle(
            surroundings or read_surroundings(),
            api_url=api_url if api_url is not None else api_base,
            api_key=api_key,
            timeout=timeout,
            create_retry_seconds=max_create_retry_seconds,
        )
        self._use(Connection(settings, transport=transport))
        self.connection.on_create_retry = on_create_retry

    @classmethod
    def over(cls, connection: Connection) -> Self:
        """A client that speaks over this connection."""
        client = cls.__new__(cls)
        client._use(connection)
        return client

    def _use(self, connection: Connection) -> None:
        self.connection = connection
        self.sandboxes = SandboxAPI(connection)
        self.snapshots = SnapshotsAPI(connection)
        self.templates = TemplatesAPI(connection)
        self.tokens = TokensAPI(connection)
        self.volumes = VolumesAPI(connection)
        self.backups = BackupsAPI(connection)
        self.dev = DevMachines(connection)

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

    def me(self) -> dict[str, Any]:
        """Who the key belongs to."""
        return self.connection.request(Call(method="GET", path="/me")) or {}

    def capabilities(self) -> dict[str, Any]:
        """What this server can do, and what stands between its sandboxes and their host."""
        return self.connection.request(Call(method="GET", path="/capabilities")) or {}

    def boot_stats(self, limit: int = 50) -> dict[str, Any]:
        """How long the newest sandboxes took to come up, in milliseconds, by mode and template."""
        call = Call(method="GET", path="/stats/boot", params=_wire.query(limit=limit))
        return self.connection.request(call) or {}

    def diff(self, a: Place, b: Place, *, path: str = "/", limit: int | None = None) -> Diff:
        """What leads from one point to another: files below `path`, processes and listening ports.

        A point is a sandbox, its id, `"ID@STEP"` for a step of its timeline, or a `Point`. Of each list at
        most `limit` (10 000) are told. Steps and snapshots are restored to be looked at.
        """
        return Diff.from_dict(self.connection.request(diff_call(a, b, path, limit)))

    def close(self) -> None:
        """Close the connections; sandboxes live on."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_defaults: WeakKeyDictionary[object, Client] = WeakKeyDictionary()


def get_default_client() -> Client:
    """The client of every verb that was given none, made from the surroundings at its first use."""
    here = scope()
    if here not in _defaults:
        _defaults[here] = Client.over(default_connection())
    return _defaults[here]


def set_default_client(client: Client | None) -> None:
    """Use this client from now on; None forgets it."""
    set_default_connection(client.connection if client else None)
    if client is None:
        _defaults.pop(scope(), None)
    else:
        _defaults[scope()] = client
