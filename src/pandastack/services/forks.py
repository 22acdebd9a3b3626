"""Forks: many sandboxes that go on from one moment of another, and the promotion of the best of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import msgspec
from msgspec import Struct

from pandastack.errors import InternalError, InvalidRequest, PandastackError
from pandastack.model.account import Caller
from pandastack.model.sandbox import AWAKE, Sandbox, SandboxCreate, SandboxState
from pandastack.model.snapshot import (
    ChildError,
    ForkRequest,
    ForkTreeRequest,
    Litter,
    PromoteRequest,
    Promotion,
    Snapshot,
    SnapshotKind,
    SnapshotRequest,
)
from pandastack.services.archive import Archive
from pandastack.services.births import Births
from pandastack.services.causes import wrong_state
from pandastack.services.endings import Endings
from pandastack.services.ground import Ground
from pandastack.services.ledger import Story
from pandastack.services.requests import Sizes, check_metadata, check_ttl
from pandastack.store import sandboxes
from pandastack.store.db import Connection

TREE, ROLE, PARENT, INDEX = "fork_tree_id", "fork_tree_role", "fork_parent_id", "fork_index"
"""Metadata by which the children of a fork tree know each other."""

Outcome = Sandbox | PandastackError


class _Plan(Struct, frozen=True):
    """A fork to be: what each child is asked for, and the tree that they are of."""

    parent: Sandbox
    children: list[SandboxCreate]
    tree_id: str | None = None


class Forks:
    """The verbs fork, fork-tree and promote."""

    def __init__(self, ground: Ground, archive: Archive, births: Births, endings: Endings) -> None:
        self._database = ground.database
        self._ledger = ground.ledger
        self._activity = ground.activity
        self._archive = archive
        self._births = births
        self._endings = endings
        self._causes = ground.causes
        self._turns = ground.turns
        self._clock = ground.clock
        self._new_id = ground.new_id
        self._failpoint = ground.failpoint

    async def fork(self, caller: Caller, sandbox_id: str, request: ForkRequest) -> Litter:
        """Children that go on from this moment, memory and disk, each with an identity of its own.

        The parent goes on as it was: running, paused, or asleep. A child that could not be made is told by
        its index; when none could, its error is raised. When the caller is cancelled nothing is left. Errors:
        SandboxNotFound, Conflict, NotSupported, InvalidRequest, and those of a create.
        """
        parent = await self._ledger.find(caller, sandbox_id)
        metadata = request.metadata | {"forked_from": sandbox_id, PARENT: sandbox_id}
        child = _child(request, metadata)
        return await self._litter(caller, _Plan(parent, [child] * request.count), request.name)

    async def fork_tree(self, caller: Caller, sandbox_id: str, request: ForkTreeRequest) -> Litter:
        """As `fork`, with children that are siblings of one tree, in the order of their index."""
        parent = await self._ledger.find(caller, sandbox_id)
        tree_id = self._new_id()
        tree = request.metadata | {TREE: tree_id, ROLE: "child", PARENT: sandbox_id}
        children = [_child(request, tree | {INDEX: str(index)}) for index in range(request.count)]
        return await self._litter(caller, _Plan(parent, children, tree_id), "")

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
        failures = await self._delete_all(caller, siblings, f"sandbox {sandbox_id} was promoted")
        deleted = [sibling for sibling in siblings if sibling not in failures]
        payload: dict[str, object] = {"tree_id": tree_id, "winner": sandbox_id, "deleted": deleted}
        story = Story("fork_tree.promoted", payload | {"failed": [*failures]}, caller)
        metadata = winner.metadata | {TREE: tree_id, ROLE: "winner"}
        await self._ledger.change(sandbox_id, story, tree_id=None, metadata=metadata)
        self._activity.touch(sandbox_id)
        return Promotion(sandbox_id, tree_id, deleted, failures)

    async def _litter(self, caller: Caller, plan: _Plan, name: str) -> Litter:
        for child in plan.children:
            check_metadata(child.metadata)
            check_ttl(child.ttl_seconds)
        async with AsyncExitStack() as stack:
            source = await self._moment(caller, plan, name, stack)
            await self._failpoint("fork.taken")
            outcomes = await self._bear_all(caller, plan, source)
            await self._failpoint("fork.borne")
            await self._tell_failures(plan.parent.id, outcomes)
            litter = Litter(
                parent_id=plan.parent.id,
                snapshot_id=source.id,
                children=[each for each in outcomes if isinstance(each, Sandbox)],
                errors=_errors(outcomes),
                at=self._clock.now(),
                tree_id=plan.tree_id,
            )
            await self._conclude(caller, litter, source)
        self._activity.touch(plan.parent.id)
        return litter

    async def _conclude(self, caller: Caller, litter: Litter, source: Snapshot) -> None:
        """Write down that it is complete; from here on no crash takes the children back."""
        event, payload = _told(litter, source)

        def transaction(connection: Connection) -> None:
            self._archive.conclude(connection, source)
            self._ledger.tell(connection, litter.parent_id, Story(event, payload, caller, 201))

        await self._ledger.write(litter.parent_id, transaction)

    async def _moment(self, caller: Caller, plan: _Plan, name: str, stack: AsyncExitStack) -> Snapshot:
        """The snapshot that the children go on from, kept until the stack closes; the parent goes on."""
        parent, once = plan.parent, len(plan.children) == 1
        async with self._turns.turn(parent.id):
            found = await self._ledger.find(caller, parent.id)
            if found.status is SandboxState.HIBERNATED and found.snapshot_id is not None:
                stack.enter_context(self._archive.pinned(found.snapshot_id))
                return await self._archive.find(caller.workspace, found.snapshot_id)
            if found.status not in AWAKE:
                raise wrong_state(found, SandboxState.RUNNING)
            label = SnapshotRequest(name=name)
            taking = self._archive.taken(found, SnapshotKind.FORK, label, durable=False, once=once)
            async with self._causes.explaining(caller, parent.id):
                return await stack.enter_async_context(taking)

    async def _bear_all(self, caller: Caller, plan: _Plan, source: Snapshot) -> list[Outcome]:
        """Every child at once, or why there is none. When that is cancelled, those that ran are ended."""
        quiet = caller.quietly()
        sizes = Sizes(source.template, source.cpu, source.memory_mb)
        drafts = [
            msgspec.structs.replace(
                self._births.draft(quiet, child, sizes, source),
                parent_id=plan.parent.id,
                tree_id=plan.tree_id,
            )
            for child in plan.children
        ]
        async with self._or_nothing(caller, drafts), asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._bear(quiet, draft, source)) for draft in drafts]
        return [task.result() for task in tasks]

    async def _bear(self, caller: Caller, draft: Sandbox, source: Snapshot) -> Outcome:
        payload: dict[str, object] = {"parent": draft.parent_id, "snapshot": source.id}
        try:
            await self._failpoint("fork.child")
            born = await self._births.bear(caller, draft, {}, story=Story("sandbox.forked", payload))
        except PandastackError as error:
            return error
        if born is None:
            raise InternalError("A child has no key that could have been used before.")
        return born

    @asynccontextmanager
    async def _or_nothing(self, caller: Caller, drafts: list[Sandbox]) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            await self._delete_all(caller, [draft.id for draft in drafts], "its fork was given up")
            raise

    async def _delete_all(self, caller: Caller, sandbox_ids: list[str], cause: str) -> dict[str, str]:
        """Delete them at once; what could not be deleted, and why. Those that are gone are fine."""
        quiet = caller.quietly()
        async with asyncio.TaskGroup() as group:
            tasks = {each: group.create_task(self._delete(quiet, each, cause)) for each in sandbox_ids}
        return {each: why for each, task in tasks.items() if (why := task.result()) is not None}

    async def _delete(self, caller: Caller, sandbox_id: str, cause: str) -> str | None:
        try:
            await self._endings.delete(caller, sandbox_id, cause)
        except PandastackError as error:
            return None if error.status == 404 else error.message
        return None

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
