"""Who one is, tokens and quotas over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from pandastack.api.calls import Api
from pandastack.endpoint import Nothing
from pandastack.model.account import Limits, Scope, SnapshotQuota, Token, Usage
from pandastack.model.volume import VolumeQuota
from pandastack.services.accounts import NewToken


class TokenRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A token to make; `name` is `label` again. `scope` is read, use or admin."""

    label: Annotated[str, Meta(max_length=128)] | None = None
    name: Annotated[str, Meta(max_length=128)] | None = None
    expires_in_days: Annotated[float, Meta(gt=0, le=36_500)] | None = None
    scope: Annotated[str, Meta(pattern="^(read|use|admin)$")] = "use"


class TokenView(Struct, frozen=True):
    """A token without its secret."""

    prefix: str
    label: str
    name: str
    scope: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class TokenList(Struct, frozen=True):
    """The workspace's tokens, oldest first."""

    items: list[TokenView]


class Org(Struct, frozen=True):
    """A workspace as an organisation."""

    id: str
    slug: str
    name: str
    role: str


class Me(Struct, frozen=True):
    """Who asks."""

    user_id: str
    email: str
    workspace: str
    current_org: str
    current_org_id: str
    orgs: list[Org]
    auth_method: str
    scope: str
    token_prefix: str


class Quotas(Struct, frozen=True):
    """What a workspace may hold and holds; a limit of null is none."""

    workspace: str
    limits: Limits
    used: Usage
    snapshots: SnapshotQuota
    volumes: VolumeQuota


async def me(call: Api[None, Nothing]) -> Me:
    caller = call.caller
    role = "owner" if caller.scope is Scope.ADMIN else "member"
    return Me(
        user_id=caller.actor,
        email="",
        workspace=caller.workspace,
        current_org=caller.workspace,
        current_org_id=caller.workspace,
        orgs=[Org(caller.workspace, caller.workspace, caller.workspace, role)],
        auth_method=caller.auth_method,
        scope=caller.scope.name.lower(),
        token_prefix=caller.actor,
    )


async def list_tokens(call: Api[None, Nothing]) -> TokenList:
    return TokenList([_view(token) for token in await call.app.accounts.list_tokens(call.caller)])


async def create_token(call: Api[TokenRequest, Nothing]) -> NewToken:
    body = call.body
    return await call.app.accounts.create_token(
        call.caller, body.label or body.name or "", Scope[body.scope.upper()], body.expires_in_days
    )


async def revoke_token(call: Api[None, Nothing]) -> None:
    await call.app.accounts.revoke(call.caller, call.path["prefix"])


async def quotas(call: Api[None, Nothing]) -> Quotas:
    used = await call.app.accounts.usage(call.caller)
    snapshots = await call.app.snapshots.quota(call.caller)
    volumes = await call.app.volumes.quota(call.caller)
    return Quotas(call.caller.workspace, call.app.limits, used, snapshots, volumes)


def _view(token: Token) -> TokenView:
    return TokenView(
        prefix=token.prefix,
        label=token.label,
        name=token.label,
        scope=token.scope,
        created_at=token.created_at,
        expires_at=token.expires_at,
        last_used_at=token.last_used_at,
    )
