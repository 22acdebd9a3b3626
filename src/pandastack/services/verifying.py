"""How a version is verified: built once more of the same inputs, and compared. Nothing of that stays."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

import msgspec

from pandastack.errors import Conflict
from pandastack.model.account import Caller
from pandastack.model.build import Build, BuildStatus, Credentials, OwnTemplate
from pandastack.model.comparison import Comparison, Result
from pandastack.services.ground import Ground
from pandastack.services.inputs import Verifiable, check_whole
from pandastack.services.templates import Templates
from pandastack.services.words import Words
from pandastack.services.workshops import TEMPLATE, Workshops
from pandastack.store import builds

SAID = {
    Result.IDENTICAL: "It is identical.",
    Result.ALIKE: "It is alike: only traces of when it was done differ.",
    Result.DIFFERS: "It differs.",
}


class Verifying:
    """The steps of that, in order."""

    def __init__(self, ground: Ground, workshops: Workshops, templates: Templates) -> None:
        self._database = ground.database
        self._clock = ground.clock
        self._failpoint = ground.failpoint
        self._workshops = workshops
        self._templates = templates

    async def verify(
        self,
        caller: Caller,
        build: Build,
        own: OwnTemplate,
        taken: Verifiable,
        credentials: Credentials,
        words: Words,
    ) -> None:
        """Have the build end with what differs. Errors: those of a build, TemplateNotVerifiable."""
        wish, inputs = taken.inputs.pinned, taken.inputs
        await words.step(BuildStatus.RUNNING, "preparing", started_at=self._clock.now())
        await check_whole(taken)
        await self._templates.bake(TEMPLATE)
        async with AsyncExitStack() as stack:
            disk = await stack.enter_async_context(self._workshops.disk(caller, build.id, wish.size_mb))
            opening = self._workshops.open(caller, wish, disk, words.add)
            workshop = await stack.enter_async_context(opening)
            await workshop.begin(credentials)
            await words.step(BuildStatus.RUNNING, "building")
            bases = {} if wish.image_ref is not None else inputs.bases
            await workshop.make(wish, taken.files.archive, bases)
            await words.step(BuildStatus.RUNNING, "laying out")
            now = await workshop.lay_out(wish)
            await self._failpoint("verify.laid_out")
            await words.step(BuildStatus.RUNNING, "comparing")
            found = await workshop.compare(taken.files.listing, own, now)
        await self._failpoint("verify.compared")
        _tell(found, words)
        await words.flush()
        told = {"ended_at": self._clock.now(), "step": "", "comparison": msgspec.to_builtins(found)}
        ending = partial(builds.move, build_id=build.id, to=BuildStatus.DONE, values=told)
        if not await self._database.write(ending):
            raise Conflict("The build was ended meanwhile.")


def _tell(found: Comparison, words: Words) -> None:
    for change in found.packages:
        words.line(f"{change.kind} {change.name}: {change.was or 'none'} → {change.now or 'none'}")
    for each in found.differences:
        words.line(f"{each.how} {each.path}{' (trace)' if each.trace else ''}")
    if found.paths or found.traces:
        words.line(f"{found.paths} paths and {found.traces} traces differ.")
    words.line(SAID[found.result])
