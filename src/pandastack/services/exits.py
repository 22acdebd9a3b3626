"""What sandboxes may reach, what they have reached, and what another policy would make of that."""

from __future__ import annotations

from msgspec import Struct

from pandastack.model.account import Caller
from pandastack.model.book import Book
from pandastack.model.egress import Egress, Receipt
from pandastack.model.sandbox import AWAKE, Sandbox
from pandastack.model.verdict import policy_of, suggest, would_block
from pandastack.services.causes import Causes
from pandastack.services.ground import Ground
from pandastack.services.ledger import Story
from pandastack.services.requests import check_egress


class EgressTrial(Struct, frozen=True):
    """What a policy would have blocked of what was reached, and one that allows just that."""

    blocked: list[Receipt]
    suggestion: Egress


class Exits:
    """The verbs on egress policies. None of them wakes a sandbox."""

    def __init__(self, ground: Ground) -> None:
        self._ledger = ground.ledger
        self._placement = ground.placement
        self._turns = ground.turns
        self._books = ground.books
        self._causes: Causes = ground.causes
        self._failpoint = ground.failpoint

    async def get(self, caller: Caller, sandbox_id: str) -> Egress:
        """Its policy. Errors: SandboxNotFound."""
        return (await self._ledger.find(caller, sandbox_id)).egress

    async def change(self, caller: Caller, sandbox_id: str, egress: Egress) -> Egress:
        """Set its policy: at once for one that is awake, where connections that it forbids end; for one that
        sleeps from its wake on. Errors: SandboxNotFound, NotSupported, and the host's.
        """
        check_egress(egress, self._placement.report.network)
        async with self._turns.turn(sandbox_id):
            found = await self._ledger.find(caller, sandbox_id)
            if found.status in AWAKE:
                await self._books.gather_quietly(sandbox_id)  # which rule it was that let it through
            await self._order(caller, found, egress)
            try:
                await self._failpoint("egress.ordered")
                await self._write(caller, found, egress)
            except BaseException:  # not written down: it is kept to what its row says
                await self._order(caller, found, found.egress)
                raise
            await self._failpoint("egress.written")
        return egress

    async def receipts(self, caller: Caller, sandbox_id: str) -> Book:
        """What it has reached in all of its life, and what was kept from it. Errors: SandboxNotFound, and the
        host's, when it is awake.
        """
        found = await self._ledger.find(caller, sandbox_id)
        if found.status in AWAKE:
            async with self._causes.explaining(caller, sandbox_id, found):
                await self._books.gather(sandbox_id)
        return await self._books.read(sandbox_id)

    async def written_down(self, caller: Caller, sandbox_id: str) -> Book:
        """The same as it was told last, some seconds ago, also of one that is gone; no host is asked. Errors:
        SandboxNotFound.
        """
        found = await self._ledger.find_any(caller, sandbox_id)
        return await self._books.read(found.id)

    async def trial(self, caller: Caller, sandbox_id: str, egress: Egress) -> EgressTrial:
        """What that policy would have made of what was reached. Nothing changes. Errors: as `receipts`."""
        seen = (await self.receipts(caller, sandbox_id)).receipts
        return EgressTrial(would_block(policy_of(egress), seen), suggest(seen))

    async def _order(self, caller: Caller, found: Sandbox, egress: Egress) -> None:
        if found.status in AWAKE:
            host = self._placement.host_of(found.id)
            async with self._causes.explaining(caller, found.id, found):
                await self._placement.ordered(host.set_egress(found.id, egress), "set_egress")

    async def _write(self, caller: Caller, found: Sandbox, egress: Egress) -> None:
        story = Story("sandbox.egress_changed", {"egress": egress}, caller, 200)
        await self._ledger.change(found.id, story, egress=egress)
