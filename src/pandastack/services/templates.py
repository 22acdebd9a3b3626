"""Templates as the hosts have them."""

from __future__ import annotations

from pandastack.errors import TemplateNotFound
from pandastack.model.image import Template
from pandastack.services.placement import Placement


class Templates:
    """The templates that sandboxes can be made from."""

    def __init__(self, placement: Placement, *, preferred: str, bake_seconds: float) -> None:
        self._placement = placement
        self._preferred = preferred
        self._bake_seconds = bake_seconds

    async def list(self) -> list[Template]:
        """All: the ready ones first, of them the default one, so the first can be created at once."""
        report = await self._placement.refresh()
        return sorted(report.templates, key=lambda t: (not t.baked, t.name != self._preferred, t.name))

    async def get(self, name: str) -> Template:
        """Errors: TemplateNotFound."""
        for template in await self.list():
            if template.name == name:
                return template
        raise TemplateNotFound(f"There is no template {name!r}.")

    async def bake(self, name: str) -> Template:
        """Make sure that it has a snapshot. Errors: TemplateNotFound, BootFailed, OutcomeUnknown."""
        template = await self._placement.choose(name)
        host = self._placement.host_of(template.name)
        baked = await self._placement.ordered(host.bake(template.name), "bake", seconds=self._bake_seconds)
        await self._placement.refresh()
        return baked
