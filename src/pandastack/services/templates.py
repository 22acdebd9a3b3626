"""What sandboxes are made from: the server's own templates, and those that workspaces have built, whose
versions are told as `name:version` and are nobody else's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from msgspec import structs

from pandastack.errors import Forbidden, PandastackError, TemplateNotFound
from pandastack.model.account import Caller
from pandastack.model.build import OwnTemplate
from pandastack.model.image import Template, image_of
from pandastack.model.sandbox import SandboxState
from pandastack.services.ground import Ground
from pandastack.store import audit, templates
from pandastack.store.db import Connection
from pandastack.telemetry import logger

log = logger("templates")

SYSTEM = "system"
"""The category of templates that the server has for itself, and that are in no list."""


class Templates:
    """The templates that sandboxes can be made from. A caller sees the server's own and its workspace's."""

    def __init__(self, ground: Ground, *, preferred: str, bake_seconds: float) -> None:
        self._database = ground.database
        self._ledger = ground.ledger
        self._placement = ground.placement
        self._clock = ground.clock
        self._preferred = preferred
        self._bake_seconds = bake_seconds
        self._in_work: set[str] = set()

    @contextmanager
    def in_work(self, image: str) -> Iterator[None]:
        """While the block lasts, an image that has no row is being made, and nobody's to drop."""
        self._in_work.add(image)
        try:
            yield
        finally:
            self._in_work.discard(image)

    async def all(self, caller: Caller) -> list[Template]:
        """All: the ready ones first, of them the default one, so the first can be created at once; then the
        newest version of each of the workspace's own.
        """
        report = await self._placement.refresh()
        common = [each for each in report.templates if each.is_global and each.category != SYSTEM]
        common.sort(key=lambda t: (not t.baked, t.name != self._preferred, t.name))
        tags = await self._tags(caller)
        rows = await self._versions(caller)
        newest = [row for row in rows if tags.get(row.name, {}).get(templates.NEWEST) == row.version]
        return common + [self._told(row, tags) for row in newest]

    async def get(self, caller: Caller, name: str) -> Template:
        """One by its name, `name:version` or `name:tag`. Errors: TemplateNotFound."""
        for template in (await self._placement.refresh()).templates:
            if template.name == name and template.is_global:
                return template
        own = await self._own(caller, name)
        if own is not None:
            return self._told(own, await self._tags(caller))
        raise TemplateNotFound(f"There is no template {name!r}.")

    async def chosen(self, caller: Caller, name: str) -> Template:
        """As `get`, of what a sandbox is to be made from: one of the workspace's own is named exactly.
        Errors: TemplateNotFound, naming those that there are.
        """
        own = None if self._placement.is_common(name) else await self._own(caller, name)
        if own is None:
            return await self._placement.choose_common(name)
        image = await self._placement.choose(image_of(own.workspace, own.exact))
        return structs.replace(image, name=own.exact)

    async def bake(self, name: str) -> Template:
        """Make sure that one of the server's own has a snapshot. Errors: TemplateNotFound, BootFailed,
        OutcomeUnknown.
        """
        template = await self._placement.choose_common(name)
        host = self._placement.host_of(template.name)
        baked = await self._placement.ordered(host.bake(template.name), "bake", seconds=self._bake_seconds)
        await self._placement.refresh()
        return baked

    async def versions(self, caller: Caller, name: str) -> list[Template]:
        """All versions of one of the workspace's own, the newest first. Errors: TemplateNotFound."""
        tags = await self._tags(caller)
        found = [self._told(row, tags) for row in await self._versions(caller) if row.name == name]
        if not found:
            raise TemplateNotFound(f"There is no template {name!r} of this workspace's own.")
        return found

    async def point(self, caller: Caller, name: str, tag: str, version: int) -> Template:
        """Have a tag lead to a version; `latest` is what the name alone stands for. Errors:
        TemplateNotFound.
        """

        def transaction(connection: Connection) -> None:
            if templates.find(connection, caller.workspace, name, str(version)) is None:
                raise TemplateNotFound(f"There is no version {version} of template {name!r}.")
            templates.point(connection, caller.workspace, name, tag, version)
            self._audit(connection, caller, name)

        await self._database.write(transaction)
        return await self.get(caller, f"{name}:{version}")

    async def kept(self, caller: Caller, name: str) -> OwnTemplate:
        """All that is known of a version of the workspace's own. Errors: TemplateNotFound."""
        own = await self._own(caller, name)
        if own is None:
            raise TemplateNotFound(f"There is no template {name!r} of this workspace's own.")
        return own

    async def delete(self, caller: Caller, name: str) -> None:
        """All versions, or that which is named: nothing new comes of them. Sandboxes and snapshots of them
        stay whole. Errors: TemplateNotFound, Forbidden for the server's own.
        """
        plain, _, which = name.partition(":")
        version = (await self.kept(caller, name)).version if which else None
        known = await self._versions(caller)
        if not any(row.name == plain for row in known):
            await self.get(caller, name)
            raise Forbidden(f"global templates cannot be deleted: {name!r}.")

        def transaction(connection: Connection) -> None:
            if not templates.condemn(connection, caller.workspace, plain, version):
                raise TemplateNotFound(f"There is no template {name!r}.")
            self._audit(connection, caller, name)

        await self._database.write(transaction)
        await self.settle()

    async def settle(self) -> None:
        """Drop the images of those that were deleted and that no sandbox is of any more, and images that
        nobody knows.
        """
        report = await self._placement.refresh()  # before the rows: what it tells of has one by now
        rows = await self._database.read(templates.listing)
        going = await self._database.read(partial(templates.listing, deleting=True))
        states = [state for state in SandboxState if state is not SandboxState.DELETED]
        used = {(each.workspace, each.template) for each in await self._ledger.listing(states)}
        for row in going:
            if (row.workspace, row.exact) not in used and await self._dropped(
                image_of(row.workspace, row.exact)
            ):
                await self._database.write_soon(partial(templates.forget, template=row))
        known = {image_of(row.workspace, row.exact) for row in (*rows, *going)}
        for stray in report.templates:
            if not stray.is_global and stray.name not in known and stray.name not in self._in_work:
                log.warning("image.unknown", image=stray.name)
                await self._dropped(stray.name)

    async def _dropped(self, image: str) -> bool:
        host = self._placement.host_of(image)
        try:
            await self._placement.ordered(host.drop_image(image), "drop_image")
        except PandastackError as error:
            log.warning("image.not_dropped", image=image, error=error.message)
            return False
        return True

    async def _own(self, caller: Caller, name: str) -> OwnTemplate | None:
        plain, _, which = name.partition(":")
        query = partial(
            templates.find, workspace=caller.workspace, name=plain, which=which or templates.NEWEST
        )
        return await self._database.glance(query)

    async def _versions(self, caller: Caller) -> list[OwnTemplate]:
        return await self._database.read(partial(templates.listing, workspace=caller.workspace))

    async def _tags(self, caller: Caller) -> dict[str, dict[str, int]]:
        return await self._database.read(partial(templates.tags, workspace=caller.workspace))

    def _told(self, row: OwnTemplate, tags: dict[str, dict[str, int]]) -> Template:
        """A version as its owner sees it."""
        image = image_of(row.workspace, row.exact)
        held = {each.name: each for each in self._placement.report.templates}.get(image)
        return Template(
            name=row.name,
            cpu=row.cpu,
            memory_mb=row.memory_mb,
            disk_mb=row.disk_mb,
            digest=row.content,
            size_bytes=row.size_bytes,
            baked=held is not None and held.baked,
            is_global=False,
            label=row.name,
            description=row.source,
            category="own",
            version=row.version,
            tags=[tag for tag, version in tags.get(row.name, {}).items() if version == row.version],
        )

    def _audit(self, connection: Connection, caller: Caller, name: str) -> None:
        if caller.method:
            audit.add(connection, audit.Deed(caller, self._clock.now(), 200, {"template": name}))
