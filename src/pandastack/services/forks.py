"""Forks: many sandboxes that go on from one moment of another, and the promotion of the best of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

import msgspec
from msgspec import Struct

from pandastack.errors import InvalidRequest, PandastackError
from pandastack.model.account import Caller
from pandastack.model.sandbox import AWAKE, Sandbox, SandboxCreate, SandboxState
from pandastack.model.snapshot import (
    ChildError,
    Fork,
    ForkRequest,
    ForkTreeRequest,
    Litter,
    PromoteRequest,
    Promotion,
    Snapshot,
)
from pandastack.services.archive import Archive
from pandastack.services.births import Births
from pandastack.services.causes import wrong_state
from pandastack.services.endings import Endings
from pandastack.services.ground import Ground
from pandastack.services.keys import Made, identify
from pandastack.services.ledger import Story
from pandastack.services.litters import Litters
from pandastack.services.requests import Sizes, check_metadata, check_ttl
from pandastack.store import sandboxes
from pandastack.store.db import Connection
from pandastack.store.idempotency import Identity

TREE, ROLE, PARENT, INDEX = "fork_tree_id", "fork_tree_role", "fork_parent_id", "fork_index"
"""Metadata by which the children of a fork tree know each other."""

Outcome = Sandbox | PandastackError


class _Plan(Struct, frozen=True):
    """A fork to be: what each child is asked for, and the tree that they are of."""

    parent_id: str
    children: list[SandboxCreate]
    tree_id: str | None = None
    name: str = ""
    identity: Identity | None = None


class Forks:
    """The verbs fork, fork-tree and promote."""

    def __init__(
        self, ground: Ground, archive: Archive, births: Births, endings: Endings, litters: Litters
    ) -> None:
        self._database = ground.database
        self._ledger = ground.ledger
        self._activity = ground.activity
        self._archive = archive
        self._births = births
        self._endings = endings
        self._litters = litters
        self._keys = ground.keys
        self._causes = ground.causes
        self._turns = ground.turns
        self._clock = ground.clock
        self._new_id = ground.new_id
        self._failpoint = ground.failpoint

    async def fork(
        self, caller: Caller, sandbox_id: str, request: ForkRequest, key: str | None = None
    ) -> Made[Litter]:
        """Children that go on from this moment, memory and disk, each with an identity of its own.

        The parent goes on as it was: running, paused, or asleep. A child that could not be made is told by
        its index; when none could, its error is raised. When the caller is cancelled nothing is left. With
        the same `key` again: the same children. Errors: SandboxNotFound, Conflict, NotSupported,
        InvalidRequest, and those of a create.
        """
        metadata = request.metadata | {"forked_from": sandbox_id, PARENT: sandbox_id}
        children = [_child(request, metadata)] * request.count
        identity = identify(key, request, "fork", sandbox_id)
        return await self._once(caller, _Plan(sandbox_id, children, name=request.name, identity=identity))

    async def fork_tree(
        self, caller: Caller, sandbox_id: str, request: ForkTreeRequest, key: str | None = None
    ) -> Made[Litter]:
        """As `fork`, with children that are siblings of one tree, in the order of their index."""
        tree_id = self._new_id()
        tree = request.metadata | {TREE: tree_id, ROLE: "child", PARENT: sandbox_id}
        children = [_child(request, tree | {INDEX: str(index)}) for index in range(request.count)]
        identity = identify(key, request, "fork-tree", sandbox_id)
        return await self._once(caller, _Plan(sandbox_id, children, tree_id, identity=identity))

    async def promote(self, caller: Caller, sandbox_id: str, request: PromoteRequest) -> Promotion:
        """Make it independent of its fork tree, and with `cleanup_siblings` delete the others; idempotent.

        Errors: SandboxNotFound; InvalidRequest when siblings are to be deleted and it is of no tree.
        """
        winner = await self._ledger.find(caller, sandbox_id)
        tree_id = _tree_of(winner, request)
        if tree_id is None:
            await self._ledger.change(sandbox_id, Story(caller=caller))
            return Promotion(sandbox_id, None, [], {})
        siblings = await self._siblings(caller, winner, tree_id) if request.cleanup_siblings else []
        failures = await self._endings.delete_all(caller, siblings, f"sandbox {sandbox_id} was promoted")
        deleted = [sibling for sibling in siblings if sibling not in failures]
        payload: dict[str, object] = {"tree_id": tree_id, "winner": sandbox_id, "deleted": deleted}
        story = Story("fork_tree.promoted", payload | {"failed": [*failures]}, caller)
        metadata = winner.metadata | {TREE: tree_id, ROLE: "winner"}
        await self._ledger.change(sandbox_id, story, tree_id=None, metadata=metadata)
        self._activity.touch(sandbox_id)
        return Promotion(sandbox_id, tree_id, deleted, failures)

    async def _once(self, caller: Caller, plan: _Plan) -> Made[Litter]:
        making = partial(self._litter, caller, plan)
        return await self._keys.once(caller, plan.identity, making, partial(self._litters.find, caller))

    async def _litter(self, caller: Caller, plan: _Plan) -> Litter:
        for child in plan.children:
            check_metadata(child.metadata)
            check_ttl(child.ttl_seconds)
        async with AsyncExitStack() as stack:
            source = await self._moment(caller, plan, stack)
            await self._failpoint("fork.taken")
            drafts = self._drafts(caller, plan, source)
            fork = self._begin(plan, drafts, source)
            async with self._litters.begun(fork, plan.identity) as before:
                outcomes = await self._bear_all(caller, drafts, before)
                await self._failpoint("fork.borne")
                await self._tell_failures(plan.parent_id, outcomes)
                litter = self._litter_of(fork, outcomes)
                await self._conclude(caller, fork, litter, source)
        self._activity.touch(plan.parent_id)
        return litter

    def _begin(self, plan: _Plan, drafts: list[Sandbox], source: Snapshot) -> Fork:
        return Fork(
            id=self._new_id(),
            workspace=source.workspace,
            parent_id=plan.parent_id,
            snapshot_id=source.id,
            tree_id=plan.tree_id,
            children=[draft.id for draft in drafts],
            begun_at=self._clock.now(),
        )

    def _litter_of(self, fork: Fork, outcomes: list[Outcome]) -> Litter:
        return Litter(
            parent_id=fork.parent_id,
            snapshot_id=fork.snapshot_id,
            children=[each for each in outcomes if isinstance(each, Sandbox)],
            errors=_errors(outcomes),
            at=self._clock.now(),
            tree_id=fork.tree_id,
        )

    async def _conclude(self, caller: Caller, fork: Fork, litter: Litter, source: Snapshot) -> None:
        """Write down that it is complete. Not flushed, as creates are not: the power takes their machines."""
        event, payload = _told(litter, source)

        def transaction(connection: Connection) -> None:
            self._litters.conclude(connection, fork, litter)
            self._ledger.tell(connection, litter.parent_id, Story(event, payload, caller, 201))

        await self._ledger.write_soon(litter.parent_id, transaction)

    async def _moment(self, caller: Caller, plan: _Plan, stack: AsyncExitStack) -> Snapshot:
        """The snapshot that the children go on from, kept until the stack closes; the parent goes on."""
        async with self._turns.turn(plan.parent_id):
            found = await self._ledger.find(caller, plan.parent_id)
            if found.status is SandboxState.HIBERNATED and found.snapshot_id is not None:
                stack.enter_context(self._archive.pinned(found.snapshot_id))
                return await self._archive.find(caller.workspace, found.snapshot_id)
            if found.status not in AWAKE:
                raise wrong_state(found, SandboxState.RUNNING)
            taking = self._archive.passing(found, plan.name, once=len(plan.children) == 1)
            async with self._causes.explaining(caller, found.id):
                return await stack.enter_async_context(taking)

    def _drafts(self, caller: Caller, plan: _Plan, source: Snapshot) -> list[Sandbox]:
        sizes = Sizes(source.template, source.cpu, source.memory_mb)
        return [
            msgspec.structs.replace(
                self._births.draft(caller, child, sizes, source),
                parent_id=plan.parent_id,
                tree_id=plan.tree_id,
            )
            for child in plan.children
        ]

    async def _bear_all(
        self, caller: Caller, drafts: list[Sandbox], before: Callable[[Connection], None]
    ) -> list[Outcome]:
        """Every child at once, or why there is none."""
        quiet = caller.quietly()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._bear(quiet, draft, before)) for draft in drafts]
        return [task.result() for task in tasks]

    async def _bear(self, caller: Caller, draft: Sandbox, before: Callable[[Connection], None]) -> Outcome:
        payload: dict[str, object] = {"parent": draft.parent_id, "snapshot": draft.from_snapshot}
        try:
            await self._failpoint("fork.child")
            story = Story("sandbox.forked", payload)
            return await self._births.bear(caller, draft, {}, story=story, before=before)
        except PandastackError as error:
            return error

    async def _siblings(self, caller: Caller, winner: Sandbox, tree_id: str) -> list[str]:
        query = partial(sandboxes.of_tree, workspace=caller.workspace, tree_id=tree_id)
        return [found.id for found in await self._database.read(query) if found.id != winner.id]

    async def _tell_failures(self, parent_id: str, outcomes: list[Outcome]) -> None:
        """Into the history of the parent. Errors: that of the first child, when there is no other."""
        failures = _errors(outcomes)
        for failed in failures:
            told: dict[str, object] = {"i": failed.index, "err": failed.err}
            await self._ledger.change(parent_id, Story("fork.child_failed", told))
        first = outcomes[0]
        if len(failures) == len(outcomes) and isinstance(first, PandastackError):
            raise first


def _child(request: ForkRequest | ForkTreeRequest, metadata: dict[str, str]) -> SandboxCreate:
    return SandboxCreate(metadata=metadata, ttl_seconds=request.ttl_seconds, persistent=request.persistent)


def _told(litter: Litter, source: Snapshot) -> tuple[str, dict[str, object]]:
    """The event of a fork, and what it says."""
    payload: dict[str, object] = {"snapshot": source.id, "pause_ms": source.pause_ms}
    if litter.tree_id is None:
        return "fork.completed", payload | {"children": [child.id for child in litter.children]}
    born, failed = len(litter.children), len(litter.errors)
    counts = {"requested": born + failed, "succeeded": born, "failed": failed}
    return "fork_tree.completed", payload | {"tree_id": litter.tree_id} | counts


def _errors(outcomes: list[Outcome]) -> list[ChildError]:
    return [
        ChildError(index, each.message, each.message, each.code)
        for index, each in enumerate(outcomes)
        if isinstance(each, PandastackError)
    ]


def _tree_of(winner: Sandbox, request: PromoteRequest) -> str | None:
    """The tree that it is promoted in, also once it has left it. Errors: InvalidRequest."""
    won = winner.metadata.get(TREE) if winner.metadata.get(ROLE) == "winner" else None
    own = winner.tree_id or won
    if request.tree_id is not None and request.tree_id != own:
        raise InvalidRequest(f"Sandbox {winner.id} is not of the fork tree {request.tree_id!r}.")
    if own is None and request.cleanup_siblings:
        raise InvalidRequest(
            f"tree_id required: sandbox {winner.id} is of no fork tree, so it has no siblings."
        )
    return own
