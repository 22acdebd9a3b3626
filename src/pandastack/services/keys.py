"""Idempotency-Keys: what comes with the same key again is not made again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from pandastack.errors import IdempotencyMismatch
from pandastack.model.account import Caller
from pandastack.services.turns import Turns
from pandastack.store import idempotency
from pandastack.store.db import Database
from pandastack.store.idempotency import Identity

T = TypeVar("T")


class Made(Struct, Generic[T], frozen=True):
    """What a request gave; `replayed` when an earlier one with the same key had made it."""

    value: T
    replayed: bool = False


def identify(key: str | None, request: Struct, *place: str) -> Identity | None:
    """The key and what it stands for: a request, and the place that it was sent to. None without a key."""
    if key is None:
        return None
    parts = msgspec.json.encode(request, order="deterministic"), *(part.encode() for part in place)
    return Identity(key, sha256(b"\0".join(parts)).hexdigest())


class Keys:
    """The keys of all workspaces. One server makes everything, so that who comes second can wait for the
    first.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turns = Turns()

    async def once(
        self,
        caller: Caller,
        identity: Identity | None,
        make: Callable[[], Awaitable[T]],
        find: Callable[[str], Awaitable[T]],
    ) -> Made[T]:
        """What `make` gives; when it was made with this key before, what `find` gives for its id.

        Whoever comes while it is made waits, and makes it if the first could not. `make` remembers the key in
        the transaction that begins what it makes, and frees it when that comes to nothing. Errors:
        IdempotencyMismatch, and those of both.
        """
        if identity is None:
            return Made(await make())
        async with self._turns.turn(f"{caller.workspace} {identity.key}"):
            query = partial(idempotency.find, workspace=caller.workspace, key=identity.key)
            used = await self._database.glance(query)
            if used is None:
                return Made(await make())
            if used.fingerprint != identity.fingerprint:
                raise IdempotencyMismatch(
                    f"The Idempotency-Key {identity.key!r} came before with another request."
                )
            return Made(await find(used.made_id), replayed=True)
