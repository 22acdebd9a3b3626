"""How sandboxes come to be: created from a template, from a snapshot, or as children of a fork."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from hashlib import sha256

import msgspec
from msgspec import Struct

from pandastack.errors import Conflict, IdempotencyMismatch, InFlight, OutcomeUnknown, PandastackError
from pandastack.model.account import Caller
from pandastack.model.host import VmReport, VmSpec
from pandastack.model.sandbox import Sandbox, SandboxCreate, SandboxState
from pandastack.model.snapshot import Snapshot, SnapshotState
from pandastack.services.archive import Archive
from pandastack.services.endings import Endings
from pandastack.services.ground import Ground
from pandastack.services.ledger import Story
from pandastack.services.recorder import Recorder
from pandastack.services.requests import Sizes, check_create
from pandastack.store.idempotency import Use


class Created(Struct, frozen=True):
    """A sandbox that a create gave; `replayed` when an earlier create with the same key had made it."""

    sandbox: Sandbox
    replayed: bool = False


class Identity(Struct, frozen=True):
    """An Idempotency-Key, and the digest of the request that it came with."""

    key: str
    fingerprint: str


class Births:
    """All ways to make a sandbox, which end in one: `bear`."""

    def __init__(self, ground: Ground, archive: Archive, endings: Endings, recorder: Recorder) -> None:
        self._ledger = ground.ledger
        self._placement = ground.placement
        self._line = ground.line
        self._activity = ground.activity
        self._archive = archive
        self._endings = endings
        self._recorder = recorder
        self._clock = ground.clock
        self._new_id = ground.new_id
        self._terms = ground.terms
        self._metrics = ground.metrics
        self._failpoint = ground.failpoint
        self._creating: dict[str, asyncio.Event] = {}

    async def create(self, caller: Caller, request: SandboxCreate, key: str | None = None) -> Created:
        """A running sandbox: its restore gate has answered. With the same `key` again: the same sandbox.

        On any error, and when the caller is cancelled, nothing of it is left; after OutcomeUnknown the server
        finds out and settles it. Errors: InvalidRequest, TemplateNotFound, SnapshotNotFound, QuotaExceeded,
        NoCapacity, NoSpace, BootFailed, SnapshotRefused, IdempotencyMismatch, InFlight, OutcomeUnknown.
        """
        identity = None if key is None else Identity(key, _fingerprint(request))
        origin = None
        if request.from_snapshot is None:
            sizes = Sizes.of(await self._placement.choose(request.template))
        else:
            if identity and (replay := await self._replay(caller, identity)):
                return replay  # also when its snapshot is gone since
            origin = await self._origin(caller, request.from_snapshot)
            sizes = Sizes(origin.template, origin.cpu, origin.memory_mb)
        check_create(request, sizes)
        if identity and (replay := await self._replay(caller, identity)):
            return replay
        sandbox = self.draft(caller, request, sizes, origin)
        with nullcontext() if origin is None else self._archive.pinned(origin.id):
            born = await self.bear(caller, sandbox, request.env, identity=identity)
        return Created(born) if born else await self._await_replay(caller, identity)

    def draft(self, caller: Caller, request: SandboxCreate, sizes: Sizes, origin: Snapshot | None) -> Sandbox:
        """A sandbox to be, of this request; its row is not written yet."""
        ttl = self._terms.default_ttl_seconds if request.ttl_seconds is None else request.ttl_seconds
        report = self._placement.report
        return Sandbox(
            id=self._new_id(),
            template=sizes.template,
            status=SandboxState.CREATING,
            cpu=sizes.cpu,
            memory_mb=sizes.memory_mb,
            created_at=self._clock.now(),
            workspace=caller.workspace,
            host=report.id,
            isolation=report.isolation,
            metadata=request.metadata,
            persistent=request.persistent,
            ttl_seconds=ttl,
            from_snapshot=None if origin is None else origin.id,
            parent_id=None if origin is None else origin.sandbox_id,
            on_timeout=request.on_timeout,
            idle_timeout_seconds=request.idle_timeout_seconds,
            lifetime_seconds=request.lifetime_seconds,
            checkpoints=request.checkpoints,
            keep_checkpoints=request.keep_checkpoints,
        )

    async def bear(
        self,
        caller: Caller,
        sandbox: Sandbox,
        env: dict[str, str],
        *,
        story: Story | None = None,
        identity: Identity | None = None,
    ) -> Sandbox | None:
        """Wait in line, write the row (with a first event), start the machine, pass its gate.

        On any error nothing is left. None when an earlier create has used the same key. Errors: those of
        `create`.
        """
        async with self._line.turn():
            with self._being_created(sandbox.id):
                if await self._reserve(sandbox, identity, story or Story()) is not None:
                    return None
                await self._failpoint("create.reserved")
                return await self._start(caller, sandbox, env)

    async def running(self, caller: Caller | None, sandbox: Sandbox, vm: VmReport) -> Sandbox:
        """Its machine stands: make the row say so. Errors: Conflict when it was deleted meanwhile."""
        told = {"pid": vm.pid, "ip": vm.guest_ip, "template": vm.template, "boot_ms": round(vm.boot_ms)}
        payload: dict[str, object] = {**told, "boot_mode": vm.boot_mode, "phases": vm.phases_ms}
        if sandbox.from_snapshot is not None:
            payload["snapshot"] = sandbox.from_snapshot
        after = await self._ledger.move(
            sandbox.id,
            SandboxState.RUNNING,
            Story("sandbox.running", payload, caller, 201),
            only_from=[SandboxState.CREATING],
            boot_ms=round(vm.boot_ms),
            boot_mode=vm.boot_mode,
            phases_ms=vm.phases_ms,
            guest_ip=vm.guest_ip,
            restore_proof=vm.proof,
            awake_since=self._clock.now(),
        )
        if after is None:
            raise Conflict(f"Sandbox {sandbox.id} was deleted while it was being created.")
        self._activity.begin(after)
        if caller is not None:
            self._recorder.begin(caller, after)
        self._metrics.creates.labels("created", vm.boot_mode).inc()
        self._metrics.boot.labels(vm.boot_mode).observe(vm.boot_ms / 1000)
        return after

    def is_creating(self, sandbox_id: str) -> bool:
        """Whether a create of this process works on it."""
        return sandbox_id in self._creating

    async def _origin(self, caller: Caller, snapshot_id: str) -> Snapshot:
        found = await self._archive.find_shown(caller.workspace, snapshot_id)
        if found.state is not SnapshotState.READY:
            raise Conflict(f"Snapshot {snapshot_id} is still being taken.")
        return found

    @contextmanager
    def _being_created(self, sandbox_id: str) -> Iterator[None]:
        self._creating[sandbox_id] = asyncio.Event()
        try:
            yield
        finally:
            self._creating.pop(sandbox_id).set()

    async def _reserve(self, sandbox: Sandbox, identity: Identity | None, story: Story) -> Use | None:
        key = None if identity is None else (identity.key, identity.fingerprint)
        try:
            return await self._ledger.reserve(sandbox, self._terms.limits, key, story)
        except asyncio.CancelledError as error:  # the row may have been written all the same
            await self._endings.undo(sandbox, _why(error))
            raise

    async def _start(self, caller: Caller, sandbox: Sandbox, env: dict[str, str]) -> Sandbox:
        try:
            spec = VmSpec(
                sandbox.id,
                sandbox.template,
                env,
                hostname=hostname(sandbox.id),
                snapshot=sandbox.from_snapshot,
            )
            host = self._placement.host_of(sandbox.id)
            vm = await self._placement.ordered(
                host.start(spec), "start", seconds=self._terms.create_timeout_seconds
            )
            await self._failpoint("create.started")
            born = await self.running(caller, sandbox, vm)
            await self._failpoint("create.running")
        except OutcomeUnknown as error:
            error.details["sandbox_id"] = sandbox.id
            raise
        except BaseException as error:
            self._metrics.creates.labels("failed", "").inc()
            await self._endings.undo(sandbox, _why(error), _console(error))
            raise
        return born

    async def _replay(self, caller: Caller, identity: Identity) -> Created | None:
        used = await self._ledger.used(caller.workspace, identity.key)
        if used is None:
            return None
        if used.fingerprint != identity.fingerprint:
            raise IdempotencyMismatch(
                f"The Idempotency-Key {identity.key!r} came before with another request."
            )
        if (working := self._creating.get(used.sandbox_id)) is not None:
            await working.wait()
            return await self._replay(caller, identity)
        sandbox = await self._ledger.find_any(caller, used.sandbox_id)
        if sandbox.status is SandboxState.CREATING:
            raise InFlight(f"Sandbox {sandbox.id} of this Idempotency-Key is still being created.")
        return Created(sandbox, replayed=True)

    async def _await_replay(self, caller: Caller, identity: Identity | None) -> Created:
        """What the other create that came first with the same key has made."""
        replay = await self._replay(caller, identity) if identity else None
        if replay is None:
            raise InFlight("The first create of this Idempotency-Key failed just now; send it again.")
        return replay


def hostname(sandbox_id: str) -> str:
    """What a guest is called: of use to people, and a different one for every restore."""
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
