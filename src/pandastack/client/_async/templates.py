"""`client.templates`: what sandboxes are made from, and how templates of one's own are built."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Unpack

from pandastack.client import _wire
from pandastack.client._async.connection import AsyncConnection
from pandastack.client._builds import (
    BuildOptions,
    Part,
    VerifyOptions,
    context_parts,
    dockerfile_text,
    form_fields,
    rootfs_part,
)
from pandastack.client._errors import TemplateBuildError
from pandastack.client._pair import pause_async
from pandastack.client._values import Template, TemplateBuild, TemplateComparison
from pandastack.client._wire import Call

BUILD_SECONDS = 1800.0
"""How long a build may take, or be silent."""


class AsyncTemplatesAPI:
    """`client.templates`: the templates of one server, its own and those of the workspace."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self) -> Sequence[Template]:
        """Every template that the key may use."""
        answer = await self._connection.request(Call(method="GET", path="/templates"))
        return [Template.from_dict(item) for item in _wire.items_of(answer)]

    async def get(self, name: str) -> Template:
        """One template, also as `name:version` or `name:tag`; NotFoundError when there is none."""
        call = Call(method="GET", path=f"/templates/{_wire.segment(name)}")
        return Template.from_dict(await self._connection.request(call))

    async def delete(self, name: str) -> None:
        """Delete one of the workspace's own, with all of its versions, or just `name:version`. What runs of
        it goes on.
        """
        await self._connection.request(Call(method="DELETE", path=f"/templates/{_wire.segment(name)}"))

    async def bake(self, name: str) -> Template:
        """Make sure that the server can restore this template: boots it once when it never did, for up to
        minutes.
        """
        path = f"/templates/{_wire.segment(name)}/bake"
        call = Call(method="POST", path=path, read_timeout=_wire.BAKE_SECONDS)
        return Template.from_dict(await self._connection.request(call))

    async def versions(self, name: str) -> Sequence[Template]:
        """Every version of one of the workspace's own, the newest first."""
        call = Call(method="GET", path=f"/templates/{_wire.segment(name)}/versions")
        return [Template.from_dict(item) for item in _wire.items_of(await self._connection.request(call))]

    async def tag(self, name: str, tag: str, version: int) -> Template:
        """Have `name:tag` be this version; the tag `latest` is what the name alone stands for, so pointing it
        to an older one is the way back.
        """
        path = f"/templates/{_wire.segment(name)}/tags/{_wire.segment(tag)}"
        call = Call(method="PUT", path=path, json={"version": version})
        return Template.from_dict(await self._connection.request(call))

    async def sbom(self, name: str) -> Mapping[str, Any]:
        """What is installed in one of the workspace's own, as a document of SPDX 2.3."""
        answer = await self._connection.request(
            Call(method="GET", path=f"/templates/{_wire.segment(name)}/sbom")
        )
        return answer if isinstance(answer, dict) else {}

    async def begin_verify(self, name: str, **options: Unpack[VerifyOptions]) -> TemplateBuild:
        """Begin to build a version of the workspace's own again, of the same inputs, to be compared."""
        path = f"/templates/{_wire.segment(name)}/verify"
        call = Call(method="POST", path=path, json={**options})
        return TemplateBuild.from_dict(await self._connection.request(call))

    async def verify(
        self, name: str, *, on_log: Callable[[str], object] | None = None, **options: Unpack[VerifyOptions]
    ) -> TemplateComparison:
        """Build a version again and tell what differs. `on_log` hears what the build says.
        TemplateBuildError when it cannot be built any more.
        """
        begun = await self.begin_verify(name, **options)
        if on_log is not None:
            async for line in self.build_logs(begun.id):
                on_log(line)
        patience = options.get("timeout_seconds", BUILD_SECONDS)
        done = await self.wait_for_build(begun.id, timeout_seconds=patience)
        if done.comparison is None:
            raise TemplateBuildError("The server told no comparison.", build=done)
        return done.comparison

    async def builds(self) -> Sequence[TemplateBuild]:
        """The builds that are remembered, the newest first."""
        answer = await self._connection.request(Call(method="GET", path="/templates/builds"))
        return [TemplateBuild.from_dict(item) for item in _wire.items_of(answer)]

    async def get_build(self, build_id: str) -> TemplateBuild:
        """One build; NotFoundError when there is none."""
        call = Call(method="GET", path=f"/templates/builds/{_wire.segment(build_id)}")
        return TemplateBuild.from_dict(await self._connection.request(call))

    async def cancel_build(self, build_id: str) -> TemplateBuild:
        """End a build; fine when it has ended."""
        call = Call(method="POST", path=f"/templates/builds/{_wire.segment(build_id)}/cancel")
        return TemplateBuild.from_dict(await self._connection.request(call))

    async def register(self, name: str, image_ref: str, **options: Unpack[BuildOptions]) -> TemplateBuild:
        """Begin to build a template of an OCI image, which the server fetches from its registry."""
        return await self._begun(form_fields(name, options, image_ref=image_ref), [])

    async def build_from_dockerfile(
        self,
        name: str,
        dockerfile: str,
        *,
        context_dir: str | None = None,
        **options: Unpack[BuildOptions],
    ) -> TemplateBuild:
        """Begin to build a template of a Dockerfile: its path or its text. What is in `context_dir` is what
        it can copy from.
        """
        text = dockerfile_text(dockerfile)
        if context_dir is None:
            return await self._begun(form_fields(name, options, dockerfile=text), [])
        with ExitStack() as stack:
            parts = context_parts(Path(context_dir), stack)
            fields = form_fields(name, options, dockerfile=text, context_format="tar")
            return await self._begun(fields, parts)

    async def build_from_rootfs(
        self, name: str, rootfs_tar: str, **options: Unpack[BuildOptions]
    ) -> TemplateBuild:
        """Begin to build a template of a root file system: a tar, compressed or not."""
        with ExitStack() as stack:
            parts = [rootfs_part(Path(rootfs_tar), stack)]
            return await self._begun(form_fields(name, options), parts)

    async def build(
        self,
        name: str,
        dockerfile_path: str | None = None,
        rootfs_tar: str | None = None,
        *,
        on_log: Callable[[str], object] | None = None,
        **options: Unpack[BuildOptions],
    ) -> TemplateBuild:
        """Build a template of a Dockerfile, with the folder that it is in, or of a root file system, and wait
        until it is there. `on_log` hears what the build says. TemplateBuildError when it fails.
        """
        if (dockerfile_path is None) == (rootfs_tar is None):
            raise ValueError("Pass exactly one of dockerfile_path or rootfs_tar")
        if rootfs_tar is not None:
            begun = await self.build_from_rootfs(name, rootfs_tar, **options)
        else:
            path = Path(str(dockerfile_path))
            begun = await self.build_from_dockerfile(name, str(path), context_dir=str(path.parent), **options)
        if on_log is not None:
            async for line in self.build_logs(begun.id):
                on_log(line)
        patience = options.get("timeout_seconds", BUILD_SECONDS)
        return await self.wait_for_build(begun.id, timeout_seconds=patience)

    async def build_logs(self, build_id: str, *, follow: bool = True) -> AsyncIterator[str]:
        """What a build has said line by line; with `follow` also what it says until it ends."""
        call = Call(
            method="GET",
            path=f"/templates/builds/{_wire.segment(build_id)}/logs",
            params=_wire.query(follow=follow or None),
            read_timeout=BUILD_SECONDS,
        )
        async with self._connection.events(call) as records:
            async for record in records:
                if record.data == "end" and record.event == "message":
                    return
                yield record.data

    async def wait_for_build(
        self, build_id: str, *, poll_interval: float = 1.0, timeout_seconds: float = BUILD_SECONDS
    ) -> TemplateBuild:
        """The build when it has ended well. TemplateBuildError when it failed, or has not ended in time."""
        deadline = self._connection.clock() + timeout_seconds
        while True:
            found = await self.get_build(build_id)
            if found.is_done:
                return found
            if found.is_failed:
                raise TemplateBuildError(found.error or "The build failed.", build=found)
            if self._connection.clock() > deadline:
                raise TemplateBuildError(
                    f"Build {build_id} has not ended within {timeout_seconds:g} s; it is {found.status}.",
                    build=found,
                )
            await pause_async(poll_interval, None)

    async def _begun(self, fields: dict[str, str], parts: Sequence[Part]) -> TemplateBuild:
        answer = await self._connection.send_form("/templates/build", fields, parts)
        return TemplateBuild.from_dict(answer)
