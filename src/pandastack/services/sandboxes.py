"""The life of a sandbox: created, used, paused, resumed, ended. The control plane's one page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256

import msgspec
from msgspec import Struct

from pandastack.errors import (
    Conflict,
    IdempotencyMismatch,
    InFlight,
    MachineError,
    NoSpace,
    OutcomeUnknown,
    PandastackError,
    SandboxNotFound,
)
from pandastack.model.account import Caller, Limits, Scope
from pandastack.model.clock import Clock
from pandastack.model.guest import Guest
from pandastack.model.host import Host, VmReport, VmSpec
from pandastack.model.image import Template
from pandastack.model.sandbox import ALIVE, Lifecycle, LifecycleChange, Sandbox, SandboxCreate, SandboxState
from pandastack.services.activity import Activity
from pandastack.services.ledger import Ledger, Story
from pandastack.services.line import Line
from pandastack.services.placement import Placement
from pandastack.services.requests import check_create, check_metadata, check_ttl
from pandastack.store.idempotency import Use
from pandastack.telemetry import Metrics, logger

log = logger("sandboxes")

CAUSE_SECONDS = 1.0
"""How long a broken conversation waits to hear that, and why, the machine died."""

SEEN = frozenset(SandboxState) - {SandboxState.DELETED}
"""States that a list shows."""


class Created(Struct, frozen=True):
    """A sandbox that a create gave; `replayed` when an earlier create with the same key had made it."""

    sandbox: Sandbox
    replayed: bool = False


class Terms(Struct, frozen=True):
    """What this server grants. Seconds."""

    limits: Limits
    default_ttl_seconds: int
    create_timeout_seconds: float


class Sandboxes:
    """All verbs on sandboxes. A caller sees its workspace's alone: another's is SandboxNotFound."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        placement: Placement,
        line: Line,
        activity: Activity,
        clock: Clock,
        new_id: Callable[[], str],
        terms: Terms,
        metrics: Metrics,
    ) -> None:
        self._ledger = ledger
        self._placement = placement
        self._line = line
        self._activity = activity
        self._clock = clock
        self._new_id = new_id
        self._terms = terms
        self._metrics = metrics
        self._creating: dict[str, asyncio.Event] = {}
        self._ending: set[str] = set()

    async def create(self, caller: Caller, request: SandboxCreate, key: str | None = None) -> Created:
        """A running sandbox: its restore gate has answered. With the same `key` again: the same sandbox.

        On any error, and when the caller is cancelled, nothing of it is left; after OutcomeUnknown the server
        finds out and settles it. Errors: InvalidRequest, TemplateNotFound, QuotaExceeded, NoCapacity,
        NoSpace, BootFailed, IdempotencyMismatch, InFlight, OutcomeUnknown.
        """
        host, template = await self._placement.choose(request.template)
        check_create(request, template)
        identity = None if key is None else (key, _fingerprint(request))
        if identity and (replay := await self._replay(caller, identity)):
            return replay
        async with self._line.turn():
            sandbox = self._fresh(caller, request, template)
            with self._being_created(sandbox.id):
                if await self._reserve(sandbox, identity) is None:
                    return Created(await self._start(caller, host, sandbox, request.env))
        return await self._await_replay(caller, identity)

    async def get(self, caller: Caller, sandbox_id: str, *, deleted: bool = False) -> Sandbox:
        """The sandbox; with `deleted` also one that is no more but remembered. Errors: SandboxNotFound."""
        find = self._ledger.find_any if deleted else self._ledger.find
        return await find(caller, sandbox_id)

    async def list(self, caller: Caller) -> list[Sandbox]:
        """All that are not deleted, oldest first."""
        return await self._ledger.listing(SEEN, caller.workspace)

    async def count_by_state(self) -> dict[SandboxState, int]:
        """How many there are, of all workspaces."""
        return await self._ledger.count_by_state()

    async def delete(self, caller: Caller, sandbox_id: str, cause: str = "deleted by its owner") -> None:
        """End it and remove all of it; returns when it is gone. Errors: SandboxNotFound, OutcomeUnknown."""
        try:
            await self._ledger.begin_end(caller, sandbox_id, cause, 204)
        except NoSpace:  # what it holds may be what fills the disk
            await self._ledger.find(caller, sandbox_id)
            await self._placement.ordered(self._host(sandbox_id).stop(sandbox_id), "stop")
            await self._ledger.begin_end(caller, sandbox_id, cause, 204)
        await self._finish(sandbox_id, Story("sandbox.deleted", {"cause": cause}))

    async def end_all(self, cause: str) -> None:
        """End every living sandbox, all at once; what cannot be ended is settled by the next start."""
        async with asyncio.TaskGroup() as group:
            for sandbox in await self._ledger.listing(ALIVE):
                group.create_task(self._end_quietly(sandbox, cause))

    async def pause(self, caller: Caller, sandbox_id: str) -> None:
        """Stop its virtual CPUs; fine when they are stopped. Errors: SandboxNotFound, Conflict."""
        if await self._takes(caller, sandbox_id, SandboxState.RUNNING, unless=SandboxState.PAUSED):
            async with self._explaining(caller, sandbox_id):
                await self._placement.ordered(self._host(sandbox_id).pause(sandbox_id), "pause")
            await self._moved(caller, sandbox_id, SandboxState.PAUSED, "sandbox.paused")

    async def resume(self, caller: Caller, sandbox_id: str) -> None:
        """Let its virtual CPUs run on, also those that the host's full disk has stopped; fine when they run.

        Errors: SandboxNotFound, Conflict.
        """
        paused = await self._takes(caller, sandbox_id, SandboxState.PAUSED, unless=SandboxState.RUNNING)
        async with self._explaining(caller, sandbox_id):
            await self._placement.ordered(self._host(sandbox_id).resume(sandbox_id), "resume")
        if paused:
            await self._moved(caller, sandbox_id, SandboxState.RUNNING, "sandbox.resumed")

    async def lifecycle(self, caller: Caller, sandbox_id: str) -> Lifecycle:
        """How long it may idle and how long it does. Errors: SandboxNotFound."""
        return self._lifecycle(await self._ledger.find(caller, sandbox_id))

    async def change_lifecycle(self, caller: Caller, sandbox_id: str, change: LifecycleChange) -> Lifecycle:
        """Set what is not None; counts as activity. Errors: SandboxNotFound, InvalidRequest."""
        check_ttl(change.ttl_seconds)
        found = await self._ledger.find(caller, sandbox_id)
        values = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None}
        if values:
            await self._ledger.change(sandbox_id, Story(caller=caller), **values)
        after = msgspec.structs.replace(found, **values)
        self._activity.allow(sandbox_id, allowed_idle(after))
        return self._lifecycle(after)

    async def merge_metadata(self, caller: Caller, sandbox_id: str, more: dict[str, str]) -> Sandbox:
        """Set these keys, keep the others; counts as activity. Errors: SandboxNotFound, InvalidRequest."""
        found = await self._ledger.find(caller, sandbox_id)
        metadata = found.metadata | more
        check_metadata(metadata)
        await self._ledger.change(sandbox_id, Story(caller=caller), metadata=metadata)
        self._activity.touch(sandbox_id)
        return msgspec.structs.replace(found, metadata=metadata)

    @asynccontextmanager
    async def use(self, caller: Caller, sandbox_id: str) -> AsyncIterator[Guest]:
        """Its guest, to work with; it counts as used until the block ends. Errors: SandboxNotFound, Conflict.

        A machine that ends within the block is told as such, with the cause: MachineError when it died,
        Conflict when somebody ended it.
        """
        await self._takes(caller, sandbox_id, SandboxState.RUNNING)
        with self._activity.using(sandbox_id):
            async with self._explaining(caller, sandbox_id):
                yield self._host(sandbox_id).guest(sandbox_id)

    async def host_for(self, caller: Caller, sandbox_id: str) -> Host:
        """The host of a living sandbox, to look at it; no use of it. Errors: SandboxNotFound, Conflict."""
        found = await self._ledger.find(caller, sandbox_id)
        if found.status not in {SandboxState.RUNNING, SandboxState.PAUSED}:
            raise _wrong_state(found, SandboxState.RUNNING)
        return self._host(sandbox_id)

    async def settle(self, sandbox: Sandbox, vm: VmReport | None) -> None:
        """Bring a row that hangs between states to what its host says of the machine."""
        if sandbox.status is SandboxState.STOPPING:
            await self._finish(sandbox.id, Story("sandbox.deleted", {"cause": sandbox.cause or "deleted"}))
        elif sandbox.status is SandboxState.CREATING and vm is not None and vm.cause is None and vm.pid:
            await self._running(None, sandbox, vm)
        elif sandbox.status is SandboxState.CREATING:
            await self._undo(sandbox, "its creation was interrupted before its machine ran")

    def is_busy(self, sandbox_id: str) -> bool:
        """Whether a create or delete of this process works on it."""
        return sandbox_id in self._creating or sandbox_id in self._ending

    @contextmanager
    def _being_created(self, sandbox_id: str) -> Iterator[None]:
        self._creating[sandbox_id] = asyncio.Event()
        try:
            yield
        finally:
            self._creating.pop(sandbox_id).set()

    async def _reserve(self, sandbox: Sandbox, identity: tuple[str, str] | None) -> Use | None:
        try:
            return await self._ledger.reserve(sandbox, self._terms.limits, identity)
        except asyncio.CancelledError as error:  # the row may have been written all the same
            await self._undo(sandbox, _why(error))
            raise

    async def _start(self, caller: Caller, host: Host, sandbox: Sandbox, env: dict[str, str]) -> Sandbox:
        try:
            spec = VmSpec(sandbox.id, sandbox.template, env, hostname=_hostname(sandbox.id))
            vm = await self._placement.ordered(
                host.start(spec), "start", seconds=self._terms.create_timeout_seconds
            )
            return await self._running(caller, sandbox, vm)
        except OutcomeUnknown as error:
            error.details["sandbox_id"] = sandbox.id
            raise
        except BaseException as error:
            self._metrics.creates.labels("failed", "").inc()
            await self._undo(sandbox, _why(error), _console(error))
            raise

    async def _running(self, caller: Caller | None, sandbox: Sandbox, vm: VmReport) -> Sandbox:
        told = {"pid": vm.pid, "ip": vm.guest_ip, "template": vm.template, "boot_ms": round(vm.boot_ms)}
        payload: dict[str, object] = {**told, "boot_mode": vm.boot_mode, "phases": vm.phases_ms}
        after = await self._ledger.move(
            sandbox.id,
            SandboxState.RUNNING,
            Story("sandbox.running", payload, caller, 201),
            only_from=[SandboxState.CREATING],
            boot_ms=round(vm.boot_ms),
            boot_mode=vm.boot_mode,
            phases_ms=vm.phases_ms,
            guest_ip=vm.guest_ip,
        )
        if after is None:
            raise Conflict(f"Sandbox {sandbox.id} was deleted while it was being created.")
        self._activity.begin(sandbox.id, allowed_idle(after))
        self._metrics.creates.labels("created", vm.boot_mode).inc()
        self._metrics.boot.labels(vm.boot_mode).observe(vm.boot_ms / 1000)
        return after

    async def _undo(self, sandbox: Sandbox, cause: str, console: str = "") -> None:
        """Release everything of a create that failed, its key too; a later start does what is left."""
        await self._ledger.move(sandbox.id, SandboxState.STOPPING, Story(), cause=cause)
        payload: dict[str, object] = {"cause": cause}
        if console:
            payload["console"] = console
        await self._finish(sandbox.id, Story("sandbox.failed", payload), forget_key=True)

    async def _finish(self, sandbox_id: str, story: Story, *, forget_key: bool = False) -> None:
        self._activity.end(sandbox_id)
        self._ending.add(sandbox_id)
        try:
            await self._placement.ordered(self._host(sandbox_id).stop(sandbox_id), "stop")
            await self._ledger.complete_end(sandbox_id, story, forget_key=forget_key)
        finally:
            self._ending.discard(sandbox_id)

    async def _end_quietly(self, sandbox: Sandbox, cause: str) -> None:
        caller = Caller(sandbox.workspace, "server", Scope.ADMIN, "internal", method="DELETE", path="/server")
        try:
            await self.delete(caller, sandbox.id, cause)
        except PandastackError as error:
            log.warning("sandbox.not_ended", sandbox_id=sandbox.id, error=error.message)

    async def _replay(self, caller: Caller, identity: tuple[str, str]) -> Created | None:
        key, fingerprint = identity
        used = await self._ledger.used(caller.workspace, key)
        if used is None:
            return None
        if used.fingerprint != fingerprint:
            raise IdempotencyMismatch(f"The Idempotency-Key {key!r} came before with another request.")
        if (working := self._creating.get(used.sandbox_id)) is not None:
            await working.wait()
            return await self._replay(caller, identity)
        sandbox = await self._ledger.find_any(caller, used.sandbox_id)
        if sandbox.status is SandboxState.CREATING:
            raise InFlight(f"Sandbox {sandbox.id} of this Idempotency-Key is still being created.")
        return Created(sandbox, replayed=True)

    async def _await_replay(self, caller: Caller, identity: tuple[str, str] | None) -> Created:
        """What the other create that came first with the same key has made."""
        replay = await self._replay(caller, identity) if identity else None
        if replay is None:
            raise InFlight("The first create of this Idempotency-Key failed just now; send it again.")
        return replay

    async def _takes(
        self, caller: Caller, sandbox_id: str, state: SandboxState, *, unless: SandboxState | None = None
    ) -> bool:
        found = await self._ledger.find(caller, sandbox_id)
        if found.status is unless:
            return False
        if found.status is not state:
            raise _wrong_state(found, state)
        return True

    async def _moved(self, caller: Caller, sandbox_id: str, to: SandboxState, event: str) -> None:
        after = await self._ledger.move(sandbox_id, to, Story(event, {}, caller, 204))
        self._activity.touch(sandbox_id)
        if after is None:
            raise Conflict(f"Sandbox {sandbox_id} was ended at the same moment.")

    @asynccontextmanager
    async def _explaining(self, caller: Caller, sandbox_id: str) -> AsyncIterator[None]:
        """What fails in the block because the machine ended is told as its end."""
        try:
            yield
        except (MachineError, SandboxNotFound) as error:
            raise await self._explained(caller, sandbox_id, error) from error

    async def _explained(self, caller: Caller, sandbox_id: str, error: PandastackError) -> PandastackError:
        """The same error, or what became of the machine, for which a moment is waited."""
        found = await self._ledger.await_cause(caller, sandbox_id, CAUSE_SECONDS)
        if found.cause is None:
            return error if isinstance(error, MachineError) else MachineError(error.message)
        if found.status is SandboxState.FAILED:
            return MachineError(f"The sandbox ended meanwhile: {found.cause}", sandbox_id=sandbox_id)
        return Conflict(f"Sandbox {sandbox_id} was ended meanwhile: {found.cause}.", state=found.status)

    def _fresh(self, caller: Caller, request: SandboxCreate, template: Template) -> Sandbox:
        ttl = self._terms.default_ttl_seconds if request.ttl_seconds is None else request.ttl_seconds
        report = self._placement.report
        return Sandbox(
            id=self._new_id(),
            template=template.name,
            status=SandboxState.CREATING,
            cpu=template.cpu,
            memory_mb=template.memory_mb,
            created_at=self._clock.now(),
            workspace=caller.workspace,
            host=report.id,
            isolation=report.isolation,
            metadata=request.metadata,
            persistent=request.persistent,
            ttl_seconds=ttl,
        )

    def _lifecycle(self, sandbox: Sandbox) -> Lifecycle:
        idle = round(self._activity.idle_seconds(sandbox.id))
        return Lifecycle(sandbox.ttl_seconds, sandbox.persistent, idle)

    def _host(self, sandbox_id: str) -> Host:
        return self._placement.host_of(sandbox_id)


def allowed_idle(sandbox: Sandbox) -> int | None:
    """How many seconds a sandbox may idle; None for ever."""
    return None if sandbox.persistent else sandbox.ttl_seconds


def _hostname(sandbox_id: str) -> str:
    return f"sandbox-{sandbox_id[:8]}"


def _fingerprint(request: SandboxCreate) -> str:
    return sha256(msgspec.json.encode(request, order="deterministic")).hexdigest()


def _why(error: BaseException) -> str:
    if isinstance(error, PandastackError):
        return error.message
    if isinstance(error, asyncio.CancelledError):
        return "the client left before it was ready"
    return "an internal error of the server"


def _console(error: BaseException) -> str:
    return str(error.details.get("console", "")) if isinstance(error, PandastackError) else ""


def _wrong_state(sandbox: Sandbox, wanted: SandboxState) -> Conflict:
    hint = {
        SandboxState.PAUSED: "; resume it first",
        SandboxState.FAILED: f": {sandbox.cause}",
        SandboxState.CREATING: "; wait until it runs",
    }.get(sandbox.status, "")
    return Conflict(
        f"Sandbox {sandbox.id} is {sandbox.status}, and this needs it {wanted}{hint}.", state=sandbox.status
    )
