"""Backups of volumes over HTTP."""

from __future__ import annotations

from msgspec import Struct

from pandastack.api.calls import Api
from pandastack.api.volumes import ONE as VOLUME
from pandastack.endpoint import Endpoint, Nothing, Reply
from pandastack.model.account import Scope
from pandastack.model.backup import Backup
from pandastack.model.volume import VolumeName

ALL = "/v1/backups"
ONE = f"{ALL}/{{backup_id}}"


class WhichBackups(Struct, frozen=True):
    """Those of one volume alone, which need not be there any more."""

    volume: VolumeName | None = None


async def create(call: Api[None, Nothing]) -> Reply:
    return Reply(await call.app.backups.request(call.caller, call.path["name"]), status=202)


async def list_of_volume(call: Api[None, Nothing]) -> list[Backup]:
    return await call.app.backups.all(call.caller, call.path["name"])


async def list_all(call: Api[None, WhichBackups]) -> list[Backup]:
    return await call.app.backups.all(call.caller, call.query.volume)


async def get(call: Api[None, Nothing]) -> Backup:
    return await call.app.backups.get(call.caller, call.path["backup_id"])


async def cancel(call: Api[None, Nothing]) -> Backup:
    return await call.app.backups.cancel(call.caller, call.path["backup_id"])


async def verify(call: Api[None, Nothing]) -> Backup:
    return await call.app.backups.verify(call.caller, call.path["backup_id"])


async def delete(call: Api[None, Nothing]) -> None:
    await call.app.backups.delete(call.caller, call.path["backup_id"])


READ = Scope.READ
BACKUPS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        f"{VOLUME}/backups",
        create,
        "Begin a backup of what a volume has now",
        answer=Backup,
        status=202,
        audited=True,
        patient=True,
    ),
    Endpoint(
        "GET",
        f"{VOLUME}/backups",
        list_of_volume,
        "List backups of a volume, there or not",
        scope=READ,
        answer=list[Backup],
    ),
    Endpoint("GET", ALL, list_all, "List backups", scope=READ, query=WhichBackups, answer=list[Backup]),
    Endpoint("GET", ONE, get, "Get a backup, with how far it is", scope=READ, answer=Backup),
    Endpoint("POST", f"{ONE}/cancel", cancel, "Give up a backup that is being saved", answer=Backup),
    Endpoint("POST", f"{ONE}/verify", verify, "Read all of a backup", answer=Backup, patient=True),
    Endpoint("DELETE", ONE, delete, "Delete a backup", status=204, audited=True),
)
