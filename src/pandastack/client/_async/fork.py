"""Snapshots and forks of a sandbox: its state kept, taken up again, and in several sandboxes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Self, cast

from pandastack.client import _lineage, _wire
from pandastack.client._async.handle import AsyncHandle
from pandastack.client._diff import Diff, Place, diff_call
from pandastack.client._lineage import ForkTree, Lineage, MissedStep, Promotion, Step
from pandastack.client._pair import AsyncCancelEvent
from pandastack.client._values import take
from pandastack.client._wire import Call


class AsyncForkVerbs(AsyncHandle):
    """The verbs of a sandbox that are about its state."""

    async def snapshot(self, name: str | None = None, comment: str | None = None) -> str:
        """Keep its memory, its processes and its disk as they are now; the id of the snapshot. It runs on.

        `Sandbox.create(from_snapshot=id)` goes on from there, any number of times. `client.snapshots` has
        them all. BadRequestError for a sandbox that neither runs nor is paused, and where the server cannot.
        """
        call = _lineage.snapshot_call(self.id, name, comment)
        answer = await self._connection.make(call)
        return str(answer.get("id") or answer["snapshot_id"])

    async def fork(
        self,
        metadata: Mapping[str, str] | None = None,
        *,
        ttl_seconds: int | None = None,
        persistent: bool = False,
        cancel: AsyncCancelEvent | None = None,
    ) -> Self:
        """A new sandbox that goes on from where this one is, with all its processes; this one runs on.

        The child has an identity of its own: `restore_proof` says what was renewed in it. It does not take
        over `ttl_seconds` and `persistent`. Refusals for lack of room are retried as those of `create` are.
        """
        body = _fork_body(metadata, ttl_seconds, persistent)
        answer = await self._made("fork", body or None, cancel)
        return self._child({"persistent": persistent, **_lineage.child_of(answer)})

    async def fork_tree(
        self,
        count: int = 2,
        metadata: Mapping[str, str] | None = None,
        *,
        ttl_seconds: int | None = None,
        persistent: bool = False,
        cancel: AsyncCancelEvent | None = None,
    ) -> ForkTree[Self]:
        """Up to 16 sandboxes that all go on from where this one is, in the order of their index.

        A child that did not come up is missing and told in `errors` of the list; when none did, the error of
        the first is raised. `promote` keeps one of them. Otherwise as `fork`.
        """
        body = {"count": count, **_fork_body(metadata, ttl_seconds, persistent)}
        answer = await self._made("fork-tree", body, cancel)
        told: Mapping[str, Any] = answer if isinstance(answer, dict) else {}
        return ForkTree(
            [self._child({"persistent": persistent, **each}) for each in _lineage.children_of(answer)],
            tree_id=str(told.get("tree_id") or ""),
            snapshot_id=str(told.get("snapshot_id") or ""),
            errors=_lineage.failures_of(told),
        )

    async def promote(self, *, cleanup_siblings: bool = False, tree_id: str | None = None) -> Promotion:
        """Make this child of a `fork_tree` a sandbox of its own; with `cleanup_siblings` the others end.

        The server knows the tree; `tree_id` is for one that it shall be instead. Fine when it is done
        already.
        """
        body = _wire.clean(cleanup_siblings=cleanup_siblings, tree_id=tree_id)
        return cast("Promotion", await self._verb("POST", "promote", body, gap=_wire.SNAPSHOT_SECONDS))

    async def rollback(
        self, snapshot_id: str | None = None, *, step: int | None = None, disk_only: bool = False
    ) -> Self:
        """Put this sandbox, under the same id, back to a snapshot of it or of an ancestor of it, or to a step
        of its own timeline.

        What has happened in it since is gone. With `disk_only` it boots with the disk of that, for when the
        memory cannot be used. When it fails, nothing has changed. Returns this object, with what the server
        now says.
        """
        body = _wire.clean(snapshot_id=snapshot_id, step=step, disk_only=disk_only or None)
        answer = await self._verb("POST", "rollback", body, gap=_wire.CREATE_SECONDS)
        self._take_over(self.from_answer(answer, self._connection))
        return self

    async def timeline(self) -> Sequence[Step]:
        """What was kept of it by itself, step by step, the oldest first; see `create(checkpoints="exec")`."""
        answer = await self._verb("GET", "timeline")
        return [take(Step, each) for each in answer["steps"]]

    async def missed_steps(self) -> Sequence[MissedStep]:
        """The newest of the commands behind which no checkpoint could be taken, the oldest first."""
        answer = await self._verb("GET", "timeline")
        return [take(MissedStep, each) for each in answer.get("missing", [])]

    async def at(
        self,
        step: int,
        *,
        metadata: Mapping[str, str] | None = None,
        ttl_seconds: int | None = None,
        persistent: bool = False,
    ) -> Self:
        """A new sandbox that goes on from a step of the timeline; -1 is the newest. This one is left alone.

        NotFoundError, which names the steps that there are, for another. Otherwise as `fork`.
        """
        body = {"step": step, **_fork_body(metadata, ttl_seconds, persistent)}
        answer = await self._made("at", body, None)
        return self.from_answer(answer, self._connection)

    async def diff(self, other: Place, *, path: str = "/", limit: int | None = None) -> Diff:
        """What leads from this sandbox to another; see `client.diff`.

        Example: `sandbox.at(0).diff(sandbox, path="/workspace").changed`
        """
        return Diff.from_dict(await self._connection.request(diff_call(self, other, path, limit)))

    async def tree(self) -> Lineage:
        """Its ancestors and descendants, gone ones too as long as they are remembered."""
        return cast("Lineage", await self._verb("GET", "tree"))

    async def _made(
        self, verb: str, body: dict[str, Any] | None, cancel: AsyncCancelEvent | None
    ) -> _wire.JSON:
        path = f"{self._path}/{verb}"
        call = Call(method="POST", path=path, json=body, read_timeout=_wire.SNAPSHOT_SECONDS)
        return await self._connection.create(call, cancel=cancel)

    def _child(self, data: Mapping[str, Any]) -> Self:
        """A fork as the server describes it; what it leaves out is as in this one."""
        parent = {
            "template": self.template,
            "cpu": self.cpu,
            "memory_mb": self.memory_mb,
            "parent_id": self.id,
        }
        metadata = {"fork_parent_id": self.id, **(data.get("metadata") or {})}
        told = {**parent, "status": "running", **data, "metadata": metadata}
        return self.from_answer(told, self._connection)

    def _take_over(self, fresh: Self) -> None:
        """Be what the server has just said."""
        for each in fields(fresh):  # type: ignore[arg-type]  # a sandbox is a dataclass
            setattr(self, each.name, getattr(fresh, each.name))


def _fork_body(
    metadata: Mapping[str, str] | None, ttl_seconds: int | None, persistent: bool
) -> dict[str, Any]:
    return _wire.clean(
        metadata=dict(metadata) if metadata else None,
        ttl_seconds=ttl_seconds,
        persistent=True if persistent else None,
    )
