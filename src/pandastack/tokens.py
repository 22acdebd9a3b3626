"""`pandastack.tokens`: the keys of the default client's server."""

from __future__ import annotations

from collections.abc import Sequence

from pandastack.client import Token, TokensAPI, get_default_client

__all__ = ["Token", "TokensAPI", "create", "list", "revoke"]


def list() -> Sequence[Token]:  # the official SDK's public name
    """Every token, without its secret."""
    return get_default_client().tokens.list()


def create(name: str, expires_in_days: int | None = None) -> Token:
    """Make a token; its `token` is the secret and is told only here."""
    return get_default_client().tokens.create(name, expires_in_days)


def revoke(prefix: str) -> None:
    """End a token, named by its prefix."""
    get_default_client().tokens.revoke(prefix)
