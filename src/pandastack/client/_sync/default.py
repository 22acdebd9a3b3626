# Made from `../_async/default.py` by `scripts/unasync`: change that file.
"""The default client's connection: made from the surroundings at its first use."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from pandastack.client._config import read_surroundings, settle
from pandastack.client._pair import scope
from pandastack.client._sync.connection import Connection

_connections: WeakKeyDictionary[object, Connection] = WeakKeyDictionary()


def default_connection() -> Connection:
    """The connection of every verb that was given no client."""
    here = scope()
    if here not in _connections:
        _connections[here] = Connection(settle(read_surroundings()))
    return _connections[here]


def set_default_connection(connection: Connection | None) -> None:
    """Use this one from now on; None forgets it, the next use reads the surroundings again."""
    if connection is None:
        _connections.pop(scope(), None)
    else:
        _connections[scope()] = connection
