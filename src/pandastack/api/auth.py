"""Who asks: a token from the `Authorization` header, `X-API-Key`, or, where a browser cannot set headers, the
query, or a subprotocol `bearer.TOKEN`.

No cookie counts here, so a page of another origin can do nothing that it was not given a token for.
"""

from __future__ import annotations

from starlette.requests import HTTPConnection

from pandastack.errors import Forbidden, Unauthorized
from pandastack.model.account import Caller, Scope
from pandastack.services.accounts import Accounts
from pandastack.store.accounts import Credential

BEARER = "bearer."
"""What a subprotocol of a WebSocket begins with that is a key."""

ANYONE = Caller("", "", Scope.PUBLIC, "none")


class Authenticator:
    """Turns a connection into a caller."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def __call__(self, connection: HTTPConnection, needed: Scope) -> Caller:
        """The caller, who may do what `needed` says. Errors: Unauthorized, Forbidden."""
        if needed is Scope.PUBLIC:
            return ANYONE
        secret = _secret(connection)
        if not secret:
            raise Unauthorized("No API key came with the request: send Authorization: Bearer <key>.")
        credential = await self._accounts.credential(secret)
        if credential is None:
            raise Unauthorized("The API key is unknown, revoked or expired.")
        return caller_of(credential, connection, needed)


def caller_of(credential: Credential, connection: HTTPConnection, needed: Scope) -> Caller:
    """Whoever holds this credential, who may do what `needed` says. Errors: Forbidden."""
    if credential.scope < needed:
        has, needs = credential.scope.name.lower(), needed.name.lower()
        raise Forbidden(f"This key has the scope {has!r}, and this needs {needs!r}.")
    return Caller(
        credential.workspace,
        credential.prefix,
        credential.scope,
        request_id=connection.scope.get("pandastack.request_id", ""),
        method=connection.scope.get("method", "GET"),
        path=connection.scope["path"],
    )


def _secret(connection: HTTPConnection) -> str:
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value:
        return value.strip()
    if key := connection.headers.get("x-api-key"):
        return key
    if connection.scope.get("method", "GET") == "GET":
        return connection.query_params.get("access_token") or _offered(connection)
    return ""


def _offered(connection: HTTPConnection) -> str:
    """The key among the subprotocols of a WebSocket that is ours: another one's go to the sandbox."""
    endpoint = connection.scope.get("pandastack.endpoint")
    if endpoint is None or endpoint.subprotocol is None:
        return ""
    offered: list[str] = connection.scope.get("subprotocols", [])
    return next((name.removeprefix(BEARER) for name in offered if name.startswith(BEARER)), "")
