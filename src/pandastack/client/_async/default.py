"""The default client's connection: made from the surroundings at its first use."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from pandastack.client._async.connection import AsyncConnection
from pandastack.client._config import read_surroundings, settle
from pandastack.client._pair import scope_async

_connections: WeakKeyDictionary[object, AsyncConnection] = WeakKeyDictionary()


def default_connection() -> AsyncConnection:
    """The connection of every verb that was given no client."""
    here = scope_async()
    if here not in _connections:
        _connections[here] = AsyncConnection(settle(read_surroundings()))
    return _connections[here]


def set_default_connection(connection: AsyncConnection | None) -> None:
    """Use this one from now on; None forgets it, the next use reads the surroundings again."""
    if connection is None:
        _connections.pop(scope_async(), None)
    else:
        _connections[scope_async()] = connection
