"""The pages. Looking is no use of a sandbox: none of these wakes one or keeps one awake, but a terminal's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

from msgspec import Meta, Struct
from starlette.responses import RedirectResponse, Response

from pandastack.api import sandboxes as api
from pandastack.endpoint import Endpoint, Nothing
from pandastack.errors import NotFound
from pandastack.model.account import Scope
from pandastack.model.sandbox import AWAKE, SandboxState
from pandastack.model.snapshot import SnapshotKind
from pandastack.services.forks import INDEX, PARENT, ROLE, TREE
from pandastack.web import entrance, family, proof, traffic
from pandastack.web.builds import BUILDS
from pandastack.web.calls import Page, page
from pandastack.web.look import STATIC
from pandastack.web.terminals import TERMINALS
from pandastack.web.volumes import VOLUMES

ROWS = 100
"""So many rows of a table are shown at a time."""
EVENTS = 50
OURS = {TREE, ROLE, PARENT, INDEX, "forked_from"}
"""Metadata that forks bring along: the lineage tells it better."""

STATIC_SECONDS = 365 * 86_400

Row = TypeVar("Row")


PageNumber = Annotated[int, Meta(ge=1, le=10**6)]


class WhichSandboxes(Struct, frozen=True):
    """Only those in this state, so many rows on."""

    state: SandboxState | None = None
    page: PageNumber = 1


class WhichSnapshots(Struct, frozen=True):
    """Only those of this kind, so many rows on."""

    kind: SnapshotKind | None = None
    page: PageNumber = 1


class Listing(Struct, frozen=True):
    """What the links around a table are made of."""

    path: str
    field: str
    wanted: str | None
    counts: Mapping[str, int]
    """How many there are of each kind."""
    page: int

    @property
    def total(self) -> int:
        """How many there are of all kinds."""
        return sum(self.counts.values())

    @property
    def more(self) -> bool:
        """Whether there are rows behind those that are shown."""
        count = self.total if self.wanted is None else self.counts.get(self.wanted, 0)
        return count > self.page * ROWS


async def start(call: Page[Nothing]) -> Response:
    return RedirectResponse(entrance.FIRST_PAGE, 303)


async def sandboxes(call: Page[WhichSandboxes]) -> Response:
    services, wanted = call.app.services, call.query.state
    found = (await api.listed(services, call.caller))[::-1]
    rows = [each for each in found if wanted in (None, each.status)]
    counts: Counter[str] = Counter(each.status for each in found)
    listing = Listing("/ui/sandboxes", "state", wanted, counts, call.query.page)
    shown = _part(rows, call.query.page)
    idle = {each.id: services.lifecycles.of(each).idle_seconds for each in shown if each.status in AWAKE}
    return page(call, "sandboxes.html", sandboxes=shown, idle=idle, listing=listing, ours=OURS)


async def sandbox(call: Page[Nothing]) -> Response:
    services, caller, sandbox_id = call.app.services, call.caller, call.path["sandbox_id"]
    found = await services.sandboxes.get(caller, sandbox_id, deleted=True)
    awake = found.status in AWAKE
    told = found.restore_proof
    lineage = await services.lineages.tree(caller, sandbox_id)
    is_gone = found.status is SandboxState.DELETED
    return page(
        call,
        "sandbox.html",
        sandbox=api.view(found),
        ours=OURS,
        tree_id=found.tree_id or found.metadata.get(TREE),
        why=await services.lifecycles.why_awake(caller, sandbox_id) if awake else None,
        proof=[] if told is None else proof.items(told, cold=found.boot_mode == "cold"),
        why_none=proof.why_none(found),
        tree=family.branches(lineage),
        relatives=len(lineage.nodes) - 1,
        networks=services.placement.report.network,
        limits=traffic.limits(found.egress),
        secrets=[] if is_gone else await services.secrets.list(caller, sandbox_id),
        traffic=traffic.traffic(await services.exits.written_down(caller, sandbox_id)),
        timeline=await services.timelines.get(caller, sandbox_id),
        snapshots=await services.snapshots.list_of(caller, sandbox_id),
        events=(await services.events.tail(caller, sandbox_id, EVENTS))[::-1],
    )


async def snapshots(call: Page[WhichSnapshots]) -> Response:
    found, wanted = await call.app.services.snapshots.list(call.caller), call.query.kind
    rows = [each for each in found if wanted in (None, each.kind)]
    counts: Counter[str] = Counter(each.kind for each in found)
    listing = Listing("/ui/snapshots", "kind", wanted, counts, call.query.page)
    return page(call, "snapshots.html", snapshots=_part(rows, call.query.page), listing=listing)


async def static(call: Page[Nothing]) -> Response:
    name = call.path["name"]
    if name not in STATIC:
        raise NotFound(f"There is no file {name}.")
    kept = {"cache-control": f"public, max-age={STATIC_SECONDS}, immutable"}
    return Response(call.app.look.files[name], headers=kept, media_type=STATIC[name].media)


def _part(rows: Sequence[Row], number: int) -> Sequence[Row]:
    return rows[(number - 1) * ROWS : number * ROWS]


PAGES: tuple[Endpoint, ...] = (
    Endpoint("GET", "/ui", start, "The first page", scope=Scope.PUBLIC),
    Endpoint("GET", "/ui/", start, "The first page", scope=Scope.PUBLIC),
    Endpoint("GET", "/ui/static/{name}", static, "What pages load", scope=Scope.PUBLIC),
    Endpoint("GET", "/ui/login", entrance.show_login, "The login", scope=Scope.PUBLIC, query=entrance.Next),
    Endpoint("POST", "/ui/login", entrance.log_in, "Log in", scope=Scope.PUBLIC, raw_body=True),
    Endpoint("POST", "/ui/logout", entrance.log_out, "Log out", scope=Scope.READ, raw_body=True),
    Endpoint("GET", "/ui/sandboxes", sandboxes, "All sandboxes", scope=Scope.READ, query=WhichSandboxes),
    Endpoint("GET", "/ui/sandboxes/{sandbox_id}", sandbox, "A sandbox", scope=Scope.READ),
    *TERMINALS,
    *BUILDS,
    Endpoint("GET", "/ui/snapshots", snapshots, "All snapshots", scope=Scope.READ, query=WhichSnapshots),
    *VOLUMES,
)
"""The dashboard, as the API's table is: a row each."""
