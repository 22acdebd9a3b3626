"""Tokens and quotas of a workspace. A token is shown once; what is kept is its SHA-256."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256

from msgspec import Struct

from pandastack.errors import Forbidden, InvalidRequest, NotFound, PandastackError
from pandastack.model.account import Caller, Scope, Token, Usage
from pandastack.model.clock import Clock
from pandastack.store import accounts, audit
from pandastack.store.accounts import Credential
from pandastack.store.db import Connection, Database

PREFIX_LENGTH = len("pds_") + 8
CACHED_SECONDS = 10.0
"""How long another process's revocation may go unnoticed; our own take effect at once."""
CACHED_MOST = 4096


class NewToken(Struct, frozen=True):
    """A token as it is shown once."""

    token: str
    prefix: str
    label: str
    name: str
    scope: str
    created_at: datetime
    expires_at: datetime | None = None


class Accounts:
    """Credentials and what their workspaces hold."""

    def __init__(self, database: Database, clock: Clock, new_secret: Callable[[], str]) -> None:
        self._database = database
        self._clock = clock
        self._new_secret = new_secret
        self._known: dict[str, tuple[Credential, float]] = {}
        self._used: dict[str, datetime] = {}

    async def credential(self, secret: str) -> Credential | None:
        """What a token stands for; None for one that is unknown, revoked or expired."""
        return await self.standing(_digest(secret))

    async def standing(self, digest: str) -> Credential | None:
        """What the token with this SHA-256 stands for now; for who has shown it before."""
        found = self._remembered(digest) or await self._look_up(digest)
        if found is None or not hmac.compare_digest(found.digest, digest):
            return None
        now = self._clock.now()
        if found.expires_at is not None and found.expires_at <= now:
            return None
        self._used[digest] = now
        return found

    async def holder(self, workspace: str, prefix: str) -> Credential | None:
        """What the token of this prefix stands for now; None when it was revoked or has expired."""
        query = partial(accounts.holder, workspace=workspace, prefix=prefix)
        found = await self._database.glance(query)
        if found is None or (found.expires_at is not None and found.expires_at <= self._clock.now()):
            return None
        return found

    async def create_token(
        self, caller: Caller, label: str, scope: Scope, expires_in_days: float | None = None
    ) -> NewToken:
        """A new token, never with more rights than its maker's. Errors: Forbidden, InvalidRequest."""
        if scope > caller.scope:
            raise Forbidden(
                f"A token cannot be given the scope {scope.name.lower()!r}, which is above yours."
            )
        if scope is Scope.PUBLIC:
            raise InvalidRequest("A token has the scope 'read', 'use' or 'admin'.")
        secret = self._new_secret()
        now = self._clock.now()
        expires = None if expires_in_days is None else now + timedelta(days=expires_in_days)
        token = Token(secret[:PREFIX_LENGTH], label, scope.name.lower(), now, expires)
        await self._keep(caller, secret, token)
        return NewToken(secret, token.prefix, label, label, token.scope, now, expires)

    async def list_tokens(self, caller: Caller) -> list[Token]:
        """All of the workspace, oldest first, with when each was last used."""
        await self.flush()
        return await self._database.read(partial(accounts.list_tokens, workspace=caller.workspace))

    async def revoke(self, caller: Caller, prefix: str) -> None:
        """The token is refused from now on. Errors: NotFound."""

        def transaction(connection: Connection) -> bool:
            if not accounts.delete_token(connection, caller.workspace, prefix):
                return False
            audit.add(connection, audit.Deed(caller, self._clock.now(), 204, {"prefix": prefix}))
            return True

        if not await self._database.write(transaction):
            raise NotFound(f"There is no token with the prefix {prefix!r}.")
        self._known.clear()

    async def bootstrap(self, workspace: str, secret: str | None) -> str | None:
        """Make sure that somebody can get in: returns the first admin token when it had to be made.

        A given `secret` is made an admin token when it is unknown, and is not returned.
        """
        root = Caller(workspace, "bootstrap", Scope.ADMIN, method="POST", path="/v1/me/tokens")
        if secret is not None:
            if len(secret) < 16:
                raise InvalidRequest("The bootstrap token is too short: it has at least 16 characters.")
            if await self._look_up(_digest(secret)) is None:
                token = Token(secret[:PREFIX_LENGTH], "bootstrap", "admin", self._clock.now())
                await self._keep(root, secret, token)
            return None
        if await self._database.read(accounts.count_tokens):
            return None
        return (await self.create_token(root, "first", Scope.ADMIN)).token

    async def usage(self, caller: Caller) -> Usage:
        """What the workspace holds."""
        return await self._database.read(partial(accounts.usage, workspace=caller.workspace))

    async def flush(self) -> None:
        """Write down when tokens were last used."""
        if used := self._used:
            self._used = {}
            try:
                await self._database.write_aside(partial(accounts.note_use, used=used))
            except PandastackError:
                self._used = used | self._used
                raise

    async def _keep(self, caller: Caller, secret: str, token: Token) -> None:
        def transaction(connection: Connection) -> None:
            accounts.insert_token(connection, _digest(secret), caller.workspace, token)
            meta: dict[str, object] = {"prefix": token.prefix, "scope": token.scope}
            audit.add(connection, audit.Deed(caller, self._clock.now(), 200, meta))

        await self._database.write(transaction)

    def _remembered(self, digest: str) -> Credential | None:
        credential, until = self._known.get(digest, (None, 0.0))
        return credential if self._clock.steady() < until else None

    async def _look_up(self, digest: str) -> Credential | None:
        found = await self._database.glance(partial(accounts.credential, digest=digest))
        if found is not None:
            if len(self._known) >= CACHED_MOST:
                self._known.clear()
            self._known[digest] = found, self._clock.steady() + CACHED_SECONDS
        return found


def _digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
