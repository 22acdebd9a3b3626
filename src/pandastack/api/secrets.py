"""Secrets of sandboxes, over HTTP. No answer has a value in it."""

from __future__ import annotations

from msgspec import Struct

from pandastack.api.calls import Api
from pandastack.endpoint import Endpoint, Nothing
from pandastack.model.account import Scope
from pandastack.model.secret import Secret, SecretWish

ALL = "/v1/sandboxes/{sandbox_id}/secrets"
ONE = f"{ALL}/{{name}}"


class SecretList(Struct, frozen=True):
    """The secrets of a sandbox, without their values."""

    secrets: list[Secret]


async def list_all(call: Api[None, Nothing]) -> SecretList:
    return SecretList(await call.app.secrets.list(call.caller, call.path["sandbox_id"]))


async def put(call: Api[SecretWish, Nothing]) -> Secret:
    return await call.app.secrets.set(call.caller, call.path["sandbox_id"], call.path["name"], call.body)


async def delete(call: Api[None, Nothing]) -> None:
    await call.app.secrets.remove(call.caller, call.path["sandbox_id"], call.path["name"])


SECRETS: tuple[Endpoint, ...] = (
    Endpoint("GET", ALL, list_all, "List the secrets of a sandbox", scope=Scope.READ, answer=SecretList),
    Endpoint("PUT", ONE, put, "Set a secret", body=SecretWish, answer=Secret, audited=True),
    Endpoint("DELETE", ONE, delete, "Remove a secret", status=204, audited=True),
)
