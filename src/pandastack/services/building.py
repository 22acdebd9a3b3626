"""How a template comes to be: a machine builds its root file system, its host bakes that, and its rows say
so.
"""

from __future__ import annotations

import shlex
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

from pandastack.carrying import carried_through
from pandastack.errors import Conflict, PandastackError
from pandastack.model.account import Caller
from pandastack.model.build import Build, BuildStatus, BuildWish, Credentials, ImageConfig, OwnTemplate
from pandastack.model.image import ImageSpec, Template, image_of
from pandastack.services.ground import Ground
from pandastack.services.inputs import InputFiles
from pandastack.services.templates import Templates
from pandastack.services.words import Words
from pandastack.services.workshops import TEMPLATE, LaidOut, Workshops
from pandastack.store import builds, templates
from pandastack.store import inputs as store_inputs
from pandastack.store.db import Connection

BAKE_SECONDS = 4000.0
"""For the host to boot an image once: longer than any `ready` may take."""


class Building:
    """The steps of a build, in order."""

    def __init__(
        self, ground: Ground, workshops: Workshops, templates: Templates, inputs: InputFiles
    ) -> None:
        self._database = ground.database
        self._placement = ground.placement
        self._clock = ground.clock
        self._failpoint = ground.failpoint
        self._workshops = workshops
        self._templates = templates
        self._inputs = inputs

    async def build(
        self,
        caller: Caller,
        build: Build,
        wish: BuildWish,
        credentials: Credentials,
        archive: Path | None,
        words: Words,
    ) -> None:
        """From its inputs to a template that can be used. On any error nothing of that is left. Errors:
        BuildFailed, BootFailed, InvalidRequest, and those of a create.
        """
        await words.step(BuildStatus.RUNNING, "preparing", started_at=self._clock.now())
        await self._templates.bake(TEMPLATE)
        async with AsyncExitStack() as stack:
            drafts = stack.enter_context(self._inputs.drafts(build.id, archive))
            disk = await stack.enter_async_context(self._workshops.disk(caller, build.id, wish.size_mb))
            async with self._workshops.open(caller, wish, disk, words.add) as workshop:
                await workshop.begin(credentials)
                await words.step(BuildStatus.RUNNING, "building")
                await workshop.make(wish, archive)
                await words.step(BuildStatus.RUNNING, "laying out")
                laid_out = await workshop.lay_out(wish, drafts)
            await self._failpoint("build.laid_out")
            spec = self._spec(build, wish, laid_out, await self._workshops.id_of(caller, disk))
            await words.step(BuildStatus.BAKING, "baking")
            with self._templates.in_work(spec.id):
                await self._made(build, wish, laid_out, spec)
        if await self._inputs.find(build.workspace, build.name, build.version) is None:
            words.line("What it was built of would take more room than is left: it cannot be verified.")
        words.line(f"{build.name}:{build.version} is ready.")

    def _spec(self, build: Build, wish: BuildWish, laid_out: LaidOut, volume: str) -> ImageSpec:
        config = laid_out.config
        return ImageSpec(
            id=image_of(build.workspace, f"{build.name}:{build.version}"),
            volume=volume,
            cpu=build.cpu,
            memory_mb=build.memory_mb,
            disk_mb=build.size_mb,
            env=dict(pair.split("=", 1) for pair in config.Env if "=" in pair),
            user=config.User.split(":")[0] or None,
            workdir=config.WorkingDir or None,
            start=wish.start or command_of(config),
            ready=wish.readiness,
        )

    async def _made(self, build: Build, wish: BuildWish, laid_out: LaidOut, spec: ImageSpec) -> None:
        """Have its host make the image, and then the rows say so; on any error there is neither, or, when
        the rows had come to say so, both.
        """
        host = self._placement.host_of(spec.id)
        try:
            making = host.make_image(spec)
            image = await self._placement.ordered(making, "make_image", seconds=BAKE_SECONDS)
            await self._failpoint("build.baked")
            await self._publish(build, wish, laid_out, image)
        except BaseException:
            await carried_through(self._dropped(build, spec.id))
            raise

    async def _publish(self, build: Build, wish: BuildWish, laid_out: LaidOut, image: Template) -> None:
        now = self._clock.now()
        row = OwnTemplate(
            name=build.name,
            workspace=build.workspace,
            version=build.version,
            host=self._placement.report.id,
            cpu=image.cpu,
            memory_mb=image.memory_mb,
            disk_mb=image.disk_mb,
            size_bytes=image.size_bytes,
            created_at=now,
            build_id=build.id,
            form=build.form,
            source=laid_out.source,
            content=laid_out.content,
            config=laid_out.config,
            start=wish.start,
            ready=wish.ready,
            packages=laid_out.packages,
        )

        def transaction(connection: Connection) -> None:
            ending = {"ended_at": now, "template": row.exact, "bytes": row.size_bytes, "step": ""}
            if not builds.move(connection, build.id, BuildStatus.DONE, ending):
                raise Conflict("The build was ended meanwhile.")
            templates.insert(connection, row)
            if inputs is not None:
                store_inputs.insert(connection, row, inputs)
            for tag in filter(None, (templates.NEWEST, wish.tag)):
                templates.point(connection, row.workspace, row.name, tag, row.version)

        await self._placement.refresh()  # before anybody can ask for it
        assert laid_out.files is not None  # noqa: S101  # it is what was laid out to be published
        keeping = self._inputs.kept(build.workspace, wish, laid_out.bases, laid_out.files)
        async with keeping as inputs:
            await self._database.write(transaction)

    async def _dropped(self, build: Build, image_id: str) -> None:
        """Unless the version was published. What cannot be dropped now is by `Templates.settle`."""
        version = partial(
            templates.find, workspace=build.workspace, name=build.name, which=str(build.version)
        )
        with suppress(PandastackError):
            if await self._database.read(version) is not None:
                return
            host = self._placement.host_of(image_id)
            await self._placement.ordered(host.drop_image(image_id), "drop_image")


def command_of(config: ImageConfig) -> str | None:
    """What an image says is run in it, as a shell line."""
    words = [*(config.Entrypoint or []), *(config.Cmd or [])]
    return f"exec {shlex.join(words)}" if words else None
