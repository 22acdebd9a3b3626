"""Sandboxes over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from pandastack.api.calls import Api, Services
from pandastack.api.keys import created, key_of
from pandastack.endpoint import Nothing, Reply
from pandastack.model.account import Caller
from pandastack.model.sandbox import (
    Lifecycle,
    LifecycleChange,
    Lineage,
    Sandbox,
    SandboxCreate,
    SandboxState,
    WhyAwake,
)
from pandastack.services.vitals import SandboxMetrics

SECRET = "secret."  # noqa: S105  # the prefix of metadata keys, no password
REDACTED = "[redacted]"


class SandboxView(Sandbox, frozen=True, kw_only=True):
    """A sandbox on the wire. `state` is `status` again; metadata under `secret.` keys is redacted. At
    `expires_at` its lifetime is over, if it has one and is awake.
    """

    state: SandboxState
    expires_at: datetime | None


class WhichOne(Struct, frozen=True):
    """`deleted=1` finds a sandbox that is no more, for as long as it is remembered."""

    deleted: bool = False


class WhichOnes(Struct, frozen=True):
    """Only those in this state, of this template."""

    state: SandboxState | None = None
    template: Annotated[str, Meta(max_length=128)] | None = None


def view(sandbox: Sandbox) -> SandboxView:
    """What its owner is shown."""
    fields = {name: getattr(sandbox, name) for name in sandbox.__struct_fields__}
    fields["metadata"] = {
        key: REDACTED if key.startswith(SECRET) else value for key, value in sandbox.metadata.items()
    }
    return SandboxView(**fields, state=sandbox.status, expires_at=sandbox.ends_by())


async def create(call: Api[SandboxCreate, Nothing]) -> Reply:
    made = await call.app.births.create(call.caller, call.body, key_of(call))
    return created(made, view(made.value))


async def list_all(call: Api[None, WhichOnes]) -> list[SandboxView]:
    query = call.query
    return [
        sandbox
        for sandbox in await listed(call.app, call.caller)
        if query.state in (None, sandbox.status) and query.template in (None, sandbox.template)
    ]


async def listed(services: Services, caller: Caller) -> list[SandboxView]:
    """All that its owner is shown, oldest first."""
    before = services.glimpses.there()  # some may be over by the time that the rows have come
    found = await services.sandboxes.list(caller)
    hidden = before | services.glimpses.there()
    return [view(sandbox) for sandbox in found if sandbox.id not in hidden]


async def get(call: Api[None, WhichOne]) -> SandboxView:
    sandbox_id = call.path["sandbox_id"]
    return view(await call.app.sandboxes.get(call.caller, sandbox_id, deleted=call.query.deleted))


async def delete(call: Api[None, Nothing]) -> None:
    await call.app.endings.delete(call.caller, call.path["sandbox_id"])


async def pause(call: Api[None, Nothing]) -> None:
    await call.app.sandboxes.pause(call.caller, call.path["sandbox_id"])


async def resume(call: Api[None, Nothing]) -> None:
    await call.app.sandboxes.resume(call.caller, call.path["sandbox_id"])


async def lifecycle(call: Api[None, Nothing]) -> Lifecycle:
    return await call.app.lifecycles.get(call.caller, call.path["sandbox_id"])


async def change_lifecycle(call: Api[LifecycleChange, Nothing]) -> Lifecycle:
    return await call.app.lifecycles.change(call.caller, call.path["sandbox_id"], call.body)


async def why_awake(call: Api[None, Nothing]) -> WhyAwake:
    return await call.app.lifecycles.why_awake(call.caller, call.path["sandbox_id"])


async def tree(call: Api[None, Nothing]) -> Lineage:
    return await call.app.lineages.tree(call.caller, call.path["sandbox_id"])


async def merge_metadata(call: Api[dict[str, str], Nothing]) -> SandboxView:
    sandbox_id = call.path["sandbox_id"]
    return view(await call.app.sandboxes.merge_metadata(call.caller, sandbox_id, call.body))


async def metrics(call: Api[None, Nothing]) -> SandboxMetrics:
    return await call.app.vitals.metrics(call.caller, call.path["sandbox_id"])
