"""How sandboxes come to be: created from a template, from a snapshot, or as children of a fork."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from msgspec import Struct, structs

from pandastack.errors import Conflict, InFlight, OutcomeUnknown, PandastackError
from pandastack.model.account import Caller
from pandastack.model.egress import Egress
from pandastack.model.host import HostReport, VmReport, VmSpec
from pandastack.model.image import Size, image_of, variant_of
from pandastack.model.sandbox import Sandbox, SandboxCreate, SandboxState
from pandastack.model.secret import check_values
from pandastack.model.snapshot import Snapshot, SnapshotState
from pandastack.services.archive import Archive
from pandastack.services.endings import Endings
from pandastack.services.ground import Ground
from pandastack.services.keys import Made, identify
from pandastack.services.ledger import Story
from pandastack.services.recorder import Recorder
from pandastack.services.requests import Sizes, check_create, check_egress, check_secrets
from pandastack.services.safe import Bound
from pandastack.services.templates import Templates
from pandastack.services.volumes import Volumes
from pandastack.store import idempotency
from pandastack.store.db import Connection
from pandastack.store.idempotency import Identity


def _nothing(_connection: Connection) -> None:
    """A sandbox of no key and no fork."""


def _remember(connection: Connection, sandbox: Sandbox, identity: Identity | None) -> None:
    idempotency.insert(connection, sandbox.workspace, identity, sandbox.id, sandbox.created_at)


class Given(Struct, frozen=True):
    """What a sandbox is given that its row does not tell."""

    env: dict[str, str] = {}
    secrets: Bound = ()
    size: Size | None = None
    """When that is not its template's."""


class Births:
    """All ways to make a sandbox, which end in one: `bear`."""

    def __init__(
        self,
        ground: Ground,
        archive: Archive,
        endings: Endings,
        recorder: Recorder,
        volumes: Volumes,
        templates: Templates,
    ) -> None:
        self._templates = templates
        self._volumes = volumes
        self._ledger = ground.ledger
        self._placement = ground.placement
        self._line = ground.line
        self._safe = ground.safe
        self._keys = ground.keys
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

    async def create(self, caller: Caller, request: SandboxCreate, key: str | None = None) -> Made[Sandbox]:
        """A running sandbox: its restore gate has answered. With the same `key` again: the same sandbox.

        On any error, and when the caller is cancelled, nothing of it is left; after OutcomeUnknown the server
        finds out and settles it. Errors: InvalidRequest, TemplateNotFound, SnapshotNotFound, QuotaExceeded,
        NoCapacity, NoSpace, BootFailed, SnapshotRefused, IdempotencyMismatch, InFlight, OutcomeUnknown.
        """
        identity = identify(key, self._safe.comparable(request))
        making = partial(self.make, caller, request, identity)
        return await self._keys.once(caller, identity, making, partial(self.made, caller))

    async def make(self, caller: Caller, request: SandboxCreate, identity: Identity | None) -> Sandbox:
        """As `create`, by one who has asked whether the key is new. Errors: as `create`."""
        origin = None
        if request.from_snapshot is None:
            sizes = Sizes.of(await self._templates.chosen(caller, request.template), request)
        else:
            origin = await self._origin(caller, request.from_snapshot)
            sizes = Sizes(origin.template, origin.cpu, origin.memory_mb)
        check_create(request, sizes)
        sandbox = self.draft(caller, request, sizes, origin)
        if request.volumes:
            mounts = await self._volumes.wished(caller, request.volumes)
            sandbox = structs.replace(sandbox, volumes=mounts)
        check_egress(sandbox.egress, self._placement.report.network)
        if request.secrets:
            check_secrets(request.secrets, request.env, self._placement.report.network)
            check_values(wish.value for wish in request.secrets.values())
            await self._safe.check_hosts(request.secrets.values())
        with nullcontext() if origin is None else self._archive.pinned(origin.id):
            return await self.bear(
                caller,
                sandbox,
                Given(request.env, self._safe.bound(request.secrets), sizes.variant),
                disk_only=request.disk_only,
                before=partial(_remember, sandbox=sandbox, identity=identity),
            )

    async def made(self, caller: Caller, sandbox_id: str) -> Sandbox:
        """What an earlier create has made. Errors: SandboxNotFound; InFlight while nobody knows its end."""
        found = await self._ledger.find_any(caller, sandbox_id)
        if found.status is SandboxState.CREATING:
            raise InFlight(f"Sandbox {sandbox_id} of this Idempotency-Key is still being created.")
        return found

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
            degraded=report.degraded or None,
            metadata=request.metadata,
            persistent=request.persistent,
            ttl_seconds=ttl,
            from_snapshot=None if origin is None else origin.id,
            parent_id=None if origin is None else origin.sandbox_id or None,
            on_timeout=request.on_timeout,
            idle_timeout_seconds=request.idle_timeout_seconds,
            lifetime_seconds=request.lifetime_seconds,
            checkpoints=request.checkpoints,
            keep_checkpoints=request.keep_checkpoints,
            egress=request.egress or (origin and origin.egress) or Egress(),
        )

    async def bear(
        self,
        caller: Caller,
        sandbox: Sandbox,
        given: Given,
        *,
        disk_only: bool = False,
        story: Story | None = None,
        before: Callable[[Connection], None] = _nothing,
        origin: asyncio.Event | None = None,
        after: Callable[[Connection, Sandbox], None] | None = None,
    ) -> Sandbox:
        """Wait in line, write the row (with its secrets, a first event, and what comes `before` it in its
        transaction), wait until its `origin` is there, start the machine, pass its gate, write that (and what
        comes `after` it in its transaction).

        On any error nothing is left. Errors: those of `create`.
        """
        image = image_of(sandbox.workspace, sandbox.template)
        spec = VmSpec(
            sandbox.id,
            image if given.size is None else variant_of(image, given.size),
            given.env,
            hostname=hostname(sandbox.id),
            snapshot=sandbox.from_snapshot,
            egress=sandbox.egress,
            secrets=given.secrets,
            volumes=tuple(sandbox.volumes),
            cold=disk_only,
        )
        before = self._volumes.taken(sandbox, self._safe.kept(sandbox, given.secrets, before))
        async with self._line.turn():
            with self._being_created(sandbox.id):
                await self._reserve(sandbox, story or Story(), before)
                await self._failpoint("create.reserved")
                return await self._start(caller, sandbox, spec, origin, after)

    async def running(
        self,
        caller: Caller | None,
        sandbox: Sandbox,
        vm: VmReport,
        after: Callable[[Connection, Sandbox], None] | None = None,
    ) -> Sandbox:
        """Its machine stands: make the row say so. Errors: Conflict when it was deleted meanwhile."""
        told = {"pid": vm.pid, "ip": vm.guest_ip, "template": vm.template, "boot_ms": round(vm.boot_ms)}
        payload: dict[str, object] = {**told, "boot_mode": vm.boot_mode, "phases": vm.phases_ms}
        if sandbox.from_snapshot is not None:
            payload["snapshot"] = sandbox.from_snapshot
        born = await self._ledger.move(
            sandbox.id,
            SandboxState.RUNNING,
            Story("sandbox.running", payload, caller, 201),
            only_from=[SandboxState.CREATING],
            also=after,
            awake_since=self._clock.now(),
            **risen(vm, self._placement.report),
        )
        if born is None:
            raise Conflict(f"Sandbox {sandbox.id} was deleted while it was being created.")
        self._activity.begin(born)
        if caller is not None:
            await self._recorder.begin(caller, born)
        self._metrics.creates.labels("created", vm.boot_mode).inc()
        self._metrics.boot.labels(vm.boot_mode).observe(vm.boot_ms / 1000)
        return born

    def is_creating(self, sandbox_id: str) -> bool:
        """Whether a create of this process works on it."""
        return sandbox_id in self._creating

    async def created(self, sandbox_id: str) -> None:
        """Return when no create of this process works on it."""
        if (working := self._creating.get(sandbox_id)) is not None:
            await working.wait()

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

    async def _reserve(self, sandbox: Sandbox, story: Story, before: Callable[[Connection], None]) -> None:
        try:
            await self._ledger.reserve(sandbox, self._terms.limits, story, before)
        except asyncio.CancelledError as error:  # the row may have been written all the same
            await self._endings.undo(sandbox, _why(error))
            raise

    async def _start(
        self,
        caller: Caller,
        sandbox: Sandbox,
        spec: VmSpec,
        origin: asyncio.Event | None,
        after: Callable[[Connection, Sandbox], None] | None,
    ) -> Sandbox:
        try:
            if origin is not None:
                await origin.wait()
            host = self._placement.host_of(sandbox.id)
            vm = await self._placement.ordered(
                host.start(spec), "start", seconds=self._terms.create_timeout_seconds
            )
            await self._failpoint("create.started")
            born = await self.running(caller, sandbox, vm, after)
            await self._failpoint("create.running")
        except OutcomeUnknown as error:
            error.details["sandbox_id"] = sandbox.id
            raise
        except BaseException as error:
            self._metrics.creates.labels("failed", "").inc()
            await self._endings.undo(sandbox, _why(error), _console(error))
            raise
        return born


def hostname(sandbox_id: str) -> str:
    """What a guest is called: of use to people, and a different one for every restore."""
    return f"sandbox-{sandbox_id[:8]}"


def risen(vm: VmReport, host: HostReport) -> dict[str, object]:
    """What the row of a sandbox says of how its machine came up."""
    return {
        "degraded": host.degraded or None,
        "boot_ms": round(vm.boot_ms),
        "boot_mode": vm.boot_mode,
        "phases_ms": vm.phases_ms,
        "guest_ip": vm.guest_ip,
        "restore_proof": vm.proof,
    }


def _why(error: BaseException) -> str:
    if isinstance(error, PandastackError):
        return error.message
    if isinstance(error, asyncio.CancelledError):
        return "the client left before it was ready"
    return "an internal error of the server"


def _console(error: BaseException) -> str:
    return str(error.details.get("console", "")) if isinstance(error, PandastackError) else ""
