"""Forks: many sandboxes that go on from one moment of another, and the promotion of the best of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial

import msgspec
from msgspec import Struct

from pandastack.errors import BootFailed, InvalidRequest, PandastackError, SnapshotRefused
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
from pandastack.services.births import Births, Given
from pandastack.services.causes import wrong_state
from pandastack.services.endings import Endings
from pandastack.services.ground import Ground
from pandastack.services.keys import Made, identify
from pandastack.services.ledger import Story
from pandastack.services.litters import Litters
from pandastack.services.requests import TTL_MOST, Sizes, check_metadata, check_ttl
from pandastack.services.safe import Bound
from pandastack.services.turns import Turns
from pandastack.store import sandboxes
from pandastack.store.db import Connection
from pandastack.store.idempotency import Identity
from pandastack.telemetry import logger

TREE, ROLE, PARENT, INDEX = "fork_tree_id", "fork_tree_role", "fork_parent_id", "fork_index"
"""Metadata by which the children of a fork tree know each other."""

EXPLORE_TTL = "explore_ttl"
EXPLORE_SECONDS = re.compile("[0-9]{1,9}")

KEPT = AWAKE | {SandboxState.HIBERNATED}
"""States of what can be worth more than its siblings."""

AHEAD_SECONDS = 0.004
"""So long the rows of a fork wait: its guest is asked to stand still, and its machine to be copied, first."""

Outcome = Sandbox | PandastackError
log = logger("forks")


class _Plan(Struct, frozen=True):
    """A fork to be: what each child is asked for, and the tree that they are of."""

    parent_id: str
    children: list[SandboxCreate]
    tree_id: str | None = None
    identity: Identity | None = None


class _Moment:
    """What the children of a fork go on from: the draft of a snapshot until it is `taken`, and the secrets of
    their parent.
    """

    def __init__(self, source: Snapshot, secrets: Bound) -> None:
        self.source = source
        self.secrets = secrets
        self.taken = asyncio.Event()


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
        self._safe = ground.safe
        self._causes = ground.causes
        self._turns = ground.turns
        self._promotions = Turns()
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
        return await self._once(caller, _Plan(sandbox_id, children, identity=identity))

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
        """Make it independent of its fork tree, and with `cleanup_siblings` delete the others; idempotent. Of
        two siblings that are promoted at once, one wins.

        Errors: SandboxNotFound; Conflict when it is dead; InvalidRequest when siblings are to be deleted and
        it is of no tree.
        """
        tree_id = _tree_of(await self._ledger.find(caller, sandbox_id), request)
        if tree_id is None:
            await self._ledger.change(sandbox_id, Story(caller=caller))
            return Promotion(sandbox_id, None, [], {})
        async with self._promotions.turn(f"{caller.workspace} {tree_id}"):  # the id may be another's
            return await self._promote(caller, sandbox_id, tree_id, cleanup=request.cleanup_siblings)

    async def _promote(self, caller: Caller, sandbox_id: str, tree_id: str, *, cleanup: bool) -> Promotion:
        """Of two who promote siblings of a tree at once, the second finds his deleted by the first."""
        winner = await self._ledger.find(caller, sandbox_id)
        if winner.status not in KEPT:
            raise wrong_state(winner, SandboxState.RUNNING)
        siblings = await self._siblings(caller, winner, tree_id) if cleanup else []
        failures = await self._endings.delete_all(caller, siblings, f"sandbox {sandbox_id} was promoted")
        deleted = [sibling for sibling in siblings if sibling not in failures]
        payload: dict[str, object] = {"tree_id": tree_id, "winner": sandbox_id, "deleted": deleted}
        story = Story("fork_tree.promoted", payload | {"failed": [*failures]}, caller)
        await self._ledger.annotate(sandbox_id, {TREE: tree_id, ROLE: "winner"}, story, tree_id=None)
        self._activity.touch(sandbox_id)
        return Promotion(sandbox_id, tree_id, deleted, failures)

    async def _once(self, caller: Caller, plan: _Plan) -> Made[Litter]:
        making = partial(self._litter, caller, plan)
        return await self._keys.once(caller, plan.identity, making, partial(self._litters.find, caller))

    async def _litter(self, caller: Caller, plan: _Plan) -> Litter:
        for child in plan.children:
            check_metadata(child.metadata)
            check_ttl(child.ttl_seconds)
        try:
            return await self._tried(caller, plan)
        except (BootFailed, SnapshotRefused) as error:
            if len(plan.children) > 1:
                raise
            log.warning("fork.tried_again", parent_id=plan.parent_id, reason=error.message)
            return await self._tried(caller, plan)  # from another moment: the first was for one start

    async def _tried(self, caller: Caller, plan: _Plan) -> Litter:
        async with AsyncExitStack() as stack:
            moment = await self._moment(caller, plan, stack)
            drafts = self._drafts(caller, plan, moment.source)
            fork = self._begin(plan, drafts, moment.source)
            async with self._litters.begun(fork, plan.identity) as before:
                bear = self._bear_only if len(drafts) == 1 else self._bear_all
                litter = await bear(caller, drafts, fork, moment, before)
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

    def _conclude(
        self, connection: Connection, caller: Caller, fork: Fork, litter: Litter, source: Snapshot
    ) -> None:
        """Write down that it is complete. Not flushed, as creates are not: the power takes their machines."""
        event, payload = _told(litter, source)
        self._litters.conclude(connection, fork, litter)
        self._ledger.tell(connection, litter.parent_id, Story(event, payload, caller, 201))

    async def _moment(self, caller: Caller, plan: _Plan, stack: AsyncExitStack) -> _Moment:
        """The snapshot that the children go on from, kept until the stack closes. It is being taken when this
        returns; when it cannot be, that is the error of the whole stack.
        """
        async with AsyncExitStack() as turn:
            await turn.enter_async_context(self._turns.turn(plan.parent_id))
            found = await self._ledger.find(caller, plan.parent_id)
            bound = await self._safe.of(found)
            if found.status is SandboxState.HIBERNATED and found.snapshot_id is not None:
                stack.enter_context(self._archive.pinned(found.snapshot_id))
                moment = _Moment(await self._archive.find(caller.workspace, found.snapshot_id), bound)
                moment.taken.set()
                return moment
            if found.status not in AWAKE:
                raise wrong_state(found, SandboxState.RUNNING)
            moment = _Moment(await stack.enter_async_context(self._archive.passing(found)), bound)
            stack.enter_context(_its_error())
            group = await stack.enter_async_context(asyncio.TaskGroup())
            once = len(plan.children) == 1
            group.create_task(self._take(caller, moment, once=once, turn=turn.pop_all()))
            await asyncio.sleep(AHEAD_SECONDS)
        return moment

    async def _take(self, caller: Caller, moment: _Moment, *, once: bool, turn: AsyncExitStack) -> None:
        """The parent goes on; others have their turn with it."""
        async with turn, self._causes.explaining(caller, moment.source.sandbox_id):
            moment.source = await self._archive.take_passing(moment.source, once=once)
        await self._failpoint("fork.taken")
        moment.taken.set()

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

    async def _bear_only(
        self,
        caller: Caller,
        drafts: list[Sandbox],
        fork: Fork,
        moment: _Moment,
        before: Callable[[Connection], None],
    ) -> Litter:
        """A single child: the transaction that tells that it runs completes the fork."""

        def after(connection: Connection, child: Sandbox) -> None:
            self._conclude(connection, caller, fork, self._litter_of(fork, [child]), moment.source)

        outcome = await self._bear(caller.quietly(), drafts[0], moment, before, after)
        await self._failpoint("fork.borne")
        await self._tell_failures(fork.parent_id, [outcome])
        self._ledger.ring(fork.parent_id)
        return self._litter_of(fork, [outcome])

    async def _bear_all(
        self,
        caller: Caller,
        drafts: list[Sandbox],
        fork: Fork,
        moment: _Moment,
        before: Callable[[Connection], None],
    ) -> Litter:
        """Every child at once, or why there is none."""
        quiet = caller.quietly()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._bear(quiet, draft, moment, before)) for draft in drafts]
        outcomes = [task.result() for task in tasks]
        await self._failpoint("fork.borne")
        await self._tell_failures(fork.parent_id, outcomes)
        litter = self._litter_of(fork, outcomes)
        conclude = partial(self._conclude, caller=caller, fork=fork, litter=litter, source=moment.source)
        await self._ledger.write_soon(fork.parent_id, conclude)
        return litter

    async def _bear(
        self,
        caller: Caller,
        draft: Sandbox,
        moment: _Moment,
        before: Callable[[Connection], None],
        after: Callable[[Connection, Sandbox], None] | None = None,
    ) -> Outcome:
        payload: dict[str, object] = {"parent": draft.parent_id, "snapshot": draft.from_snapshot}
        story = Story("sandbox.forked", payload)
        try:
            await self._failpoint("fork.child")
            return await self._births.bear(
                caller,
                draft,
                Given(secrets=self._safe.inherited(moment.secrets)),
                story=story,
                before=before,
                origin=moment.taken,
                after=after,
            )
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


@contextmanager
def _its_error() -> Iterator[None]:
    """What fails in a task group of the block is raised as it is."""
    try:
        yield
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed


def _child(request: ForkRequest | ForkTreeRequest, metadata: dict[str, str]) -> SandboxCreate:
    return SandboxCreate(metadata=metadata, ttl_seconds=_idling_of(request), persistent=request.persistent)


def _idling_of(request: ForkRequest | ForkTreeRequest) -> int | None:
    """So long a child may idle: what is asked for, else what `explore` of the official SDK notes for it."""
    noted = request.metadata.get(EXPLORE_TTL, "")
    if request.ttl_seconds is None and EXPLORE_SECONDS.fullmatch(noted):
        return min(int(noted), TTL_MOST)
    return request.ttl_seconds


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
