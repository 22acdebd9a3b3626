"""Volumes over HTTP."""

from __future__ import annotations

from pandastack.api.calls import Api
from pandastack.endpoint import Endpoint, Nothing, Reply
from pandastack.model.account import Scope
from pandastack.model.volume import Volume, VolumeChange, VolumeCreate, VolumeSnapshot

ALL = "/v1/volumes"
ONE = "/v1/volumes/{name}"


async def create(call: Api[VolumeCreate, Nothing]) -> Reply:
    if call.body.from_backup is not None:
        return Reply(await call.app.backups.restore(call.caller, call.body), status=201)
    return Reply(await call.app.volumes.create(call.caller, call.body), status=201)


async def list_all(call: Api[None, Nothing]) -> list[Volume]:
    return await call.app.volumes.all(call.caller)


async def get(call: Api[None, Nothing]) -> Volume:
    return await call.app.volumes.get(call.caller, call.path["name"])


async def change(call: Api[VolumeChange, Nothing]) -> Volume:
    return await call.app.volumes.grow(call.caller, call.path["name"], call.body.size_mb)


async def snapshot(call: Api[VolumeSnapshot, Nothing]) -> Reply:
    return Reply(await call.app.volumes.snapshot(call.caller, call.path["name"], call.body), status=201)


async def delete(call: Api[None, Nothing]) -> None:
    await call.app.volumes.delete(call.caller, call.path["name"])


VOLUMES: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        ALL,
        create,
        "Make a volume: empty, as a copy, or from a backup",
        body=VolumeCreate,
        answer=Volume,
        status=201,
        audited=True,
        patient=True,
    ),
    Endpoint("GET", ALL, list_all, "List volumes", scope=Scope.READ, answer=list[Volume]),
    Endpoint("GET", ONE, get, "Get a volume", scope=Scope.READ, answer=Volume),
    Endpoint(
        "PATCH", ONE, change, "Grow a volume", body=VolumeChange, answer=Volume, audited=True, patient=True
    ),
    Endpoint(
        "POST",
        f"{ONE}/snapshots",
        snapshot,
        "Keep what is on a volume now as one that is never written",
        body=VolumeSnapshot,
        answer=Volume,
        status=201,
        audited=True,
        patient=True,
    ),
    Endpoint("DELETE", ONE, delete, "Delete a volume and what is in it", status=204, audited=True),
)
