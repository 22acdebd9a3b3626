"""Timelines over HTTP."""

from __future__ import annotations

from pandastack.api.calls import Api
from pandastack.api.keys import created, key_of
from pandastack.api.sandboxes import SandboxView, view
from pandastack.endpoint import Nothing, Reply
from pandastack.model.diff import Diff, DiffRequest
from pandastack.model.snapshot import AtRequest, RollbackRequest, Timeline


async def timeline(call: Api[None, Nothing]) -> Timeline:
    return await call.app.timelines.get(call.caller, call.path["sandbox_id"])


async def at(call: Api[AtRequest, Nothing]) -> Reply:
    made = await call.app.timelines.at(call.caller, call.path["sandbox_id"], call.body, key_of(call))
    return created(made, view(made.value))


async def rollback(call: Api[RollbackRequest, Nothing]) -> SandboxView:
    sandbox_id = call.path["sandbox_id"]
    target = await call.app.timelines.named(call.caller, sandbox_id, call.body)
    disk_only = call.body.disk_only
    return view(await call.app.rollbacks.rollback(call.caller, sandbox_id, target, disk_only=disk_only))


async def diff(call: Api[DiffRequest, Nothing]) -> Diff:
    return await call.app.diffs.diff(call.caller, call.body)
