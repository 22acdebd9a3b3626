"""What sandboxes may reach, over HTTP."""

from __future__ import annotations

from msgspec import Struct

from pandastack.api.calls import Api
from pandastack.endpoint import Endpoint, Nothing
from pandastack.model.account import Scope
from pandastack.model.egress import Egress, Receipt
from pandastack.services.exits import EgressTrial

PLACE = "/v1/sandboxes/{sandbox_id}/egress"


class Receipts(Struct, frozen=True):
    """What a sandbox has reached in all of its life, and what was kept from it. `dropped` is how many
    destinations are not told any more, because there were too many.
    """

    receipts: list[Receipt]
    dropped: int = 0


async def get(call: Api[None, Nothing]) -> Egress:
    return await call.app.exits.get(call.caller, call.path["sandbox_id"])


async def change(call: Api[Egress, Nothing]) -> Egress:
    return await call.app.exits.change(call.caller, call.path["sandbox_id"], call.body)


async def receipts(call: Api[None, Nothing]) -> Receipts:
    book = await call.app.exits.receipts(call.caller, call.path["sandbox_id"])
    return Receipts(book.receipts, book.dropped)


async def trial(call: Api[Egress, Nothing]) -> EgressTrial:
    return await call.app.exits.trial(call.caller, call.path["sandbox_id"], call.body)


EGRESS: tuple[Endpoint, ...] = (
    Endpoint("GET", PLACE, get, "Get what a sandbox may reach", scope=Scope.READ, answer=Egress),
    Endpoint("PUT", PLACE, change, "Set what a sandbox may reach", body=Egress, answer=Egress, audited=True),
    Endpoint(
        "GET",
        f"{PLACE}/receipts",
        receipts,
        "List what a sandbox has reached",
        scope=Scope.READ,
        answer=Receipts,
    ),
    Endpoint(
        "POST",
        f"{PLACE}/trial",
        trial,
        "Try a policy on what was reached, and get one suggested",
        body=Egress,
        answer=EgressTrial,
    ),
)
