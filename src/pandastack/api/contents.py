"""What is on volumes, over HTTP, while no sandbox writes it."""

from __future__ import annotations

from dataclasses import dataclass
from posixpath import join
from typing import Annotated

from msgspec import Meta, Struct
from starlette.types import Message, Receive, Scope, Send

from pandastack.api.calls import Api, Services
from pandastack.api.files import OCTETS, Download, Entry, Listing, Mode, Written, body_of, entry_of, mode_of
from pandastack.endpoint import Endpoint, Nothing, Reply
from pandastack.model.account import Caller
from pandastack.model.account import Scope as Right

ROOT = "/v1/volumes/{name}/fs"


class On(Struct, frozen=True):
    """A path of the volume, absolute from its root."""

    path: str


class WriteOn(On, frozen=True):
    """Where a file is written, with the permissions `mode` (octal) if given."""

    mode: Mode | None = None


class ListOn(Struct, frozen=True):
    """The directory to list, so many levels deep."""

    path: str = "/"
    depth: Annotated[int, Meta(ge=1, le=64)] = 1


class DirectoryOn(Struct, frozen=True, forbid_unknown_fields=True):
    """A directory to make, with its missing parents."""

    path: str
    mode: Mode | None = None


class MoveOn(Struct, frozen=True, forbid_unknown_fields=True):
    """A file to rename, on the same volume."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """A file of a volume as an answer. The look into it lasts as long as the answer, whose last bytes wait
    for its end: who has all of them may delete the volume.
    """

    services: Services
    caller: Caller
    name: str
    path: str
    wanted: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        looking = self.services.contents.at(self.caller, self.name, self.path, read_only=True)
        waiting: list[Message] = []

        async def held(message: Message) -> None:
            if message.get("body"):
                await _send_all(send, waiting)
            waiting.append(message)

        async with looking as place:
            await Download(self.services.files, place, self.wanted)(scope, receive, held)
        await _send_all(send, waiting)


async def _send_all(send: Send, waiting: list[Message]) -> None:
    for message in waiting:
        await send(message)
    waiting.clear()


async def read(call: Api[None, On]) -> Fetch:
    wanted = call.connection.headers.get("range", "")
    return Fetch(call.app, call.caller, call.path["name"], call.query.path, wanted)


async def write(call: Api[None, WriteOn]) -> Written:
    body, path = body_of(call, call.app.sizes["max_upload_bytes"]), call.query.path
    async with call.app.contents.at(call.caller, call.path["name"], path, read_only=False) as place:
        size = await call.app.files.write(place, body, mode=mode_of(call.query.mode))
    return Written(path, size)


async def remove(call: Api[None, On]) -> None:
    looking = call.app.contents.at(call.caller, call.path["name"], call.query.path, read_only=False)
    async with looking as place:
        await call.app.files.remove(place)


async def list_directory(call: Api[None, ListOn]) -> Listing:
    path = call.query.path
    async with call.app.contents.at(call.caller, call.path["name"], path, read_only=True) as place:
        entries = await call.app.files.list(place, call.query.depth)
    return Listing(path, [entry_of(entry, join(path, entry.name)) for entry in entries])


async def stat(call: Api[None, On]) -> Entry:
    path = call.query.path
    async with call.app.contents.at(call.caller, call.path["name"], path, read_only=True) as place:
        return entry_of(await call.app.files.stat(place), path)


async def make_directory(call: Api[DirectoryOn, Nothing]) -> Reply:
    path = call.body.path
    async with call.app.contents.at(call.caller, call.path["name"], path, read_only=False) as place:
        await call.app.files.make_directory(place, mode_of(call.body.mode))
        made = entry_of(await call.app.files.stat(place), path)
    return Reply(made, 201)


async def move(call: Api[MoveOn, Nothing]) -> None:
    name, body = call.path["name"], call.body
    target = call.app.contents.within(body.target)
    async with call.app.contents.at(call.caller, name, body.path, read_only=False) as place:
        await call.app.files.move(place, target)


CONTENTS: tuple[Endpoint, ...] = (
    Endpoint("GET", ROOT, read, "Read a file of a volume", scope=Right.READ, query=On, media=OCTETS),
    Endpoint("PUT", ROOT, write, "Write a file of a volume", query=WriteOn, raw_body=True, answer=Written),
    Endpoint("DELETE", ROOT, remove, "Remove a path of a volume and all below it", query=On, status=204),
    Endpoint(
        "POST",
        f"{ROOT}/mkdir",
        make_directory,
        "Make a directory on a volume",
        body=DirectoryOn,
        answer=Entry,
        status=201,
    ),
    Endpoint("POST", f"{ROOT}/move", move, "Rename a path of a volume", body=MoveOn, status=204),
    Endpoint(
        "GET",
        f"{ROOT}/dir",
        list_directory,
        "List a directory of a volume",
        scope=Right.READ,
        query=ListOn,
        answer=Listing,
    ),
    Endpoint(
        "GET", f"{ROOT}/stat", stat, "What a path of a volume is", scope=Right.READ, query=On, answer=Entry
    ),
)
