"""Templates and their builds over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import cast

import msgspec
from msgspec import Struct, structs
from starlette.datastructures import FormData
from starlette.requests import Request

from pandastack.api.calls import Api
from pandastack.api.forms import fields_of, files_of, form_of, kept, packed, typed
from pandastack.api.streams import READY, EventStream
from pandastack.endpoint import Endpoint, Nothing, Reply
from pandastack.errors import InvalidRequest
from pandastack.model.account import Scope
from pandastack.model.build import Build, BuildForm, BuildWish, Credentials, OwnTemplate, VerifyWish
from pandastack.model.comparison import Package
from pandastack.model.image import Template
from pandastack.model.spdx import Document, document

ALL, ONE = "/v1/templates", "/v1/templates/{name}"
BUILDS, BUILD = f"{ALL}/builds", f"{ALL}/builds/{{build_id}}"
SSE = "text/event-stream"
REGISTRY = "registry_"
"""How fields of the form begin that tell how to come in at a registry."""
STRUCTURED = ("build_args", "egress")


class TemplateView(Template, frozen=True, kw_only=True):
    """A template on the wire."""

    rootfs_path: str = ""
    meta: dict[str, str] = msgspec.field(default_factory=dict)


class BuildView(Build, frozen=True, kw_only=True):
    """A build on the wire."""

    owner_workspace: str = ""


class Follow(Struct, frozen=True):
    """Whether to go on with what is said until it ends."""

    follow: str = ""

    @property
    def is_wanted(self) -> bool:
        return self.follow.lower() in {"1", "true", "yes"}


class Pointer(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PUT /v1/templates/{name}/tags/{tag}`: the version that it is to lead to."""

    version: int


class Bill(Struct, frozen=True, kw_only=True):
    """What is in a template: where it comes from, one hash over all its files, and its packages. `bases` are
    the digests of the images that it was built on; it is `verifiable` while what it was built of is kept.
    """

    name: str
    version: int
    created_at: datetime
    form: BuildForm
    source: str
    content: str
    bases: dict[str, str]
    verifiable: bool
    packages: list[Package]


async def list_all(call: Api[None, Nothing]) -> list[TemplateView]:
    return [_view(template) for template in await call.app.templates.all(call.caller)]


async def get(call: Api[None, Nothing]) -> TemplateView:
    return _view(await call.app.templates.get(call.caller, call.path["name"]))


async def bake(call: Api[None, Nothing]) -> TemplateView:
    return _view(await call.app.templates.bake(call.path["name"]))


async def delete(call: Api[None, Nothing]) -> None:
    await call.app.templates.delete(call.caller, call.path["name"])


async def versions(call: Api[None, Nothing]) -> list[TemplateView]:
    return [_view(each) for each in await call.app.templates.versions(call.caller, call.path["name"])]


async def tag(call: Api[Pointer, Nothing]) -> TemplateView:
    where = call.path
    return _view(await call.app.templates.point(call.caller, where["name"], where["tag"], call.body.version))


async def bill(call: Api[None, Nothing]) -> Bill:
    found: OwnTemplate = await call.app.templates.kept(call.caller, call.path["name"])
    inputs = await call.app.inputs.find(found.workspace, found.name, found.version)
    fields = {name: getattr(found, name) for name in ("name", "version", "created_at", "form", "source")}
    return Bill(
        **fields,
        content=found.content,
        bases={} if inputs is None else inputs.bases,
        verifiable=inputs is not None,
        packages=found.packages,
    )


async def sbom(call: Api[None, Nothing]) -> Document:
    found = await call.app.templates.kept(call.caller, call.path["name"])
    return document(found, call.app.version)


async def verify(call: Api[VerifyWish, Nothing]) -> Reply:
    found = await call.app.templates.kept(call.caller, call.path["name"])
    return Reply(_told(await call.app.builds.verify(call.caller, found, call.body)), 202)


async def build(call: Api[None, Nothing]) -> Reply:
    request = cast(Request, call.connection)  # POST is no WebSocket
    async with form_of(request, call.app.sizes["max_upload_bytes"]) as form:
        fields = fields_of(form)
        told = {name: fields.pop(name) for name in [*fields] if name.startswith(REGISTRY)}
        wish = typed(fields, BuildWish, STRUCTURED)
        credentials = _credentials(told, wish)
        archive = await _archive(call, form, wish)
    begun = await call.app.builds.request(call.caller, wish, credentials, archive)
    return Reply(_told(begun), 202)


async def list_builds(call: Api[None, Nothing]) -> list[BuildView]:
    return [_told(each) for each in await call.app.builds.all(call.caller)]


async def get_build(call: Api[None, Nothing]) -> BuildView:
    return _told(await call.app.builds.get(call.caller, call.path["build_id"]))


async def cancel(call: Api[None, Nothing]) -> BuildView:
    return _told(await call.app.builds.cancel(call.caller, call.path["build_id"]))


async def logs(call: Api[None, Follow]) -> EventStream:
    await call.app.builds.get(call.caller, call.path["build_id"])
    return EventStream(_lines(call), call.app.beat_seconds)


async def _lines(call: Api[None, Follow]) -> AsyncGenerator[bytes, None]:
    yield READY
    said = call.app.builds.lines(call.caller, call.path["build_id"], follow=call.query.is_wanted)
    async with aclosing(cast("AsyncGenerator[str, None]", said)) as lines:
        async for line in lines:
            yield b"data: %b\n\n" % line.encode()
    yield b"data: end\n\n"


async def _archive(call: Api[None, Nothing], form: FormData, wish: BuildWish) -> Path | None:
    """What came with the form, as one file. Errors: InvalidRequest."""
    files = files_of(form)
    if wish.form is BuildForm.ROOTFS:
        rootfs = next((file for name, file in files if name == "rootfs"), None)
        if rootfs is None:
            raise InvalidRequest("rootfs file required: or say image_ref, or a dockerfile.")
        path = call.app.builds.new_archive()
        await kept(rootfs, path)
        return path
    if wish.form is BuildForm.IMAGE or not files:
        return None
    path = call.app.builds.new_archive()
    if wish.context_format == "tar":
        if len(files) != 1:
            raise InvalidRequest("With context_format=tar the form has one file, which is the context.")
        await kept(files[0][1], path)
    else:
        await packed(files, path)
    return path


def _credentials(told: dict[str, str], wish: BuildWish) -> Credentials:
    fields = {name.removeprefix(REGISTRY): value for name, value in told.items()}
    credentials = typed(fields, Credentials, ())
    if credentials.registry is None and wish.image_ref is not None:
        host = wish.image_ref.split("/")[0]
        named = "." in host or ":" in host or host == "localhost"
        return structs.replace(credentials, registry=host if named and "/" in wish.image_ref else "docker.io")
    return credentials


def _view(template: Template) -> TemplateView:
    return TemplateView(**{name: getattr(template, name) for name in template.__struct_fields__})


def _told(build: Build) -> BuildView:
    fields = {name: getattr(build, name) for name in build.__struct_fields__}
    return BuildView(**fields, owner_workspace=build.workspace)


READ, ADMIN = Scope.READ, Scope.ADMIN
TEMPLATES: tuple[Endpoint, ...] = (
    Endpoint("GET", ALL, list_all, "List templates", scope=READ, answer=list[TemplateView]),
    Endpoint(
        "POST",
        f"{ALL}/build",
        build,
        "Build a template of a root file system, an OCI image or a Dockerfile",
        raw_body=True,
        answer=BuildView,
        status=202,
        audited=True,
    ),
    Endpoint("GET", BUILDS, list_builds, "List builds", scope=READ, answer=list[BuildView]),
    Endpoint("GET", BUILD, get_build, "Get a build", scope=READ, answer=BuildView),
    Endpoint("POST", f"{BUILD}/cancel", cancel, "End a build", answer=BuildView),
    Endpoint("GET", f"{BUILD}/logs", logs, "What a build says", scope=READ, query=Follow, media=SSE),
    Endpoint("GET", ONE, get, "Get a template", scope=READ, answer=TemplateView),
    Endpoint("DELETE", ONE, delete, "Delete a template of one's own", status=204, audited=True),
    Endpoint(
        "GET",
        f"{ONE}/versions",
        versions,
        "The versions of a template",
        scope=READ,
        answer=list[TemplateView],
    ),
    Endpoint(
        "PUT",
        f"{ONE}/tags/{{tag}}",
        tag,
        "Have a tag lead to a version",
        body=Pointer,
        answer=TemplateView,
        audited=True,
    ),
    Endpoint("GET", f"{ONE}/bill", bill, "What is in a template", scope=READ, answer=Bill),
    Endpoint("GET", f"{ONE}/sbom", sbom, "The same as SPDX", scope=READ, answer=Document),
    Endpoint(
        "POST",
        f"{ONE}/verify",
        verify,
        "Build a template again and compare",
        body=VerifyWish,
        answer=BuildView,
        status=202,
        audited=True,
    ),
    Endpoint(
        "POST",
        f"{ONE}/bake",
        bake,
        "Make sure that a template has a snapshot",
        scope=ADMIN,
        answer=TemplateView,
        patient=True,
    ),
)
