"""Which host a sandbox goes to. One host so far; its last report is kept, and asked for again on a miss."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from pandastack.errors import InternalError, OutcomeUnknown, TemplateNotFound
from pandastack.model.host import Host, HostReport
from pandastack.model.image import Template

T = TypeVar("T")


class Placement:
    """The hosts, and the deadline of every order to them."""

    def __init__(self, host: Host, timeout: float) -> None:
        self._host = host
        self._timeout = timeout
        self._report: HostReport | None = None

    @property
    def report(self) -> HostReport:
        """What the host last said; the control plane asks it before it serves anything."""
        if self._report is None:
            raise InternalError("The host has not been asked yet.")
        return self._report

    async def refresh(self) -> HostReport:
        """Ask the host for its machines and templates."""
        self._report = await self.ordered(self._host.report(), "report")
        return self._report

    def is_common(self, template: str) -> bool:
        """Whether it is one of the server's own, as far as is known."""
        found = self._find(template)
        return found is not None and found.is_global

    async def choose_common(self, template: str) -> Template:
        """One of the server's own. Whoever knows what hosts call a workspace's image gets nothing by that.
        Errors: as `choose`.
        """
        found = await self.choose(template)
        if not found.is_global:
            raise self._unknown(template)
        return found

    async def choose(self, template: str) -> Template:
        """The template, as a host has it. Errors: TemplateNotFound, naming those that there are."""
        found = self._find(template)
        if found is None:
            await self.refresh()
            found = self._find(template)
        if found is None:
            raise self._unknown(template)
        return found

    def _unknown(self, template: str) -> TemplateNotFound:
        names = sorted(known.name for known in self.report.templates if known.is_global)
        return TemplateNotFound(
            f"unknown template {template!r}: this server has {', '.join(names) or 'none yet'}."
        )

    def host_of(self, sandbox_id: str) -> Host:
        """The host that holds the sandbox."""
        return self._host

    async def ordered(self, order: Awaitable[T], verb: str, *, seconds: float | None = None) -> T:
        """The host's answer to an order. Errors: the order's own; OutcomeUnknown when none comes in time."""
        patience = self._timeout if seconds is None else seconds
        try:
            async with asyncio.timeout(patience):
                return await order
        except TimeoutError as error:
            raise OutcomeUnknown(
                f"The host has not answered to {verb!r} within {patience:g} s; it may still do it."
            ) from error

    def _find(self, name: str) -> Template | None:
        return next((template for template in self.report.templates if template.name == name), None)
