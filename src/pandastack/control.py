"""The composition root of the control plane: configuration and host in, ASGI application out.

Everything that lasts is opened here and closed in reverse order; everything below is given what it needs.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib import metadata
from pathlib import Path

from msgspec import Struct
from starlette.types import ASGIApp, Receive, Scope, Send

from pandastack.api.auth import Authenticator
from pandastack.api.calls import Services
from pandastack.api.edge import Edge
from pandastack.api.routes import application
from pandastack.api.v1 import ENDPOINTS
from pandastack.blobs.place import open_blobs
from pandastack.blobs.store import BlobStore
from pandastack.carrying import beside
from pandastack.config import ControlConfig, OnExit
from pandastack.endpoint import Rules
from pandastack.errors import Conflict
from pandastack.failpoint import Failpoints
from pandastack.gateway.front import Front
from pandastack.gateway.visitor import Limits as VisitorLimits
from pandastack.model.account import Limits, SnapshotLimits
from pandastack.model.clock import Clock
from pandastack.model.host import Host, VmReport
from pandastack.model.volume import VolumeLimits
from pandastack.services.accounts import Accounts
from pandastack.services.activity import Activity
from pandastack.services.adoption import Adoption
from pandastack.services.archive import Archive
from pandastack.services.backups import Backups
from pandastack.services.births import Births
from pandastack.services.books import Books
from pandastack.services.browsers import Browsers
from pandastack.services.building import Building
from pandastack.services.builds import Builds
from pandastack.services.causes import Causes
from pandastack.services.certificates import Certificates
from pandastack.services.chunks import Chunks
from pandastack.services.commands import Commands
from pandastack.services.contents import Contents
from pandastack.services.diffs import Diffs
from pandastack.services.endings import Endings
from pandastack.services.events import Bell, Events
from pandastack.services.exits import Exits
from pandastack.services.files import Files
from pandastack.services.forks import Forks
from pandastack.services.glimpses import Glimpses
from pandastack.services.ground import Ground, Terms
from pandastack.services.inputs import InputFiles
from pandastack.services.kernels import Kernels
from pandastack.services.keys import Keys
from pandastack.services.language_servers import LanguageServers
from pandastack.services.ledger import Ledger
from pandastack.services.lifecycles import Lifecycles
from pandastack.services.line import Line
from pandastack.services.lineages import Lineages
from pandastack.services.litters import Litters
from pandastack.services.placement import Placement
from pandastack.services.ports import Ports
from pandastack.services.previews import Previews
from pandastack.services.recorder import Recorder
from pandastack.services.rollbacks import Rollbacks
from pandastack.services.safe import Safe
from pandastack.services.sandboxes import Sandboxes
from pandastack.services.secrets import Secrets
from pandastack.services.sleep import Sleep
from pandastack.services.snapshots import Snapshots
from pandastack.services.strongbox import Strongbox
from pandastack.services.templates import Templates
from pandastack.services.terminals import Terminals
from pandastack.services.timelines import Timelines
from pandastack.services.trail import Trail
from pandastack.services.transfers import Transfers
from pandastack.services.turns import Turns
from pandastack.services.verifying import Verifying
from pandastack.services.vitals import Vitals
from pandastack.services.volumes import Volumes
from pandastack.services.workshops import Workshops
from pandastack.sshd.door import House
from pandastack.store import accounts, sandboxes
from pandastack.store.db import Connection, Database, open_database
from pandastack.telemetry import Metrics, logger
from pandastack.web.calls import Web
from pandastack.web.dashboard import Dashboard
from pandastack.web.look import Look
from pandastack.web.sessions import Sessions
from pandastack.work.errands import Errand, run_errands
from pandastack.work.sweep import Purge, Reaper, Retention

log = logger("control")

SYSTEM_CLOCK = Clock(time.time, time.monotonic)
BEAT_SECONDS = 10.0
"""How often a client that waits is told that somebody still works; well below the read timeouts of clients.
"""

REAP_SECONDS, GATHER_SECONDS, TEND_SECONDS, PURGE_SECONDS = 1.0, 5.0, 30.0, 600.0


STOPPED = "the server was stopped"
"""Why sandboxes end or sleep at its end."""

SECRETS_KEY = "secrets.key"
"""The file of the state directory by which secrets of sandboxes are sealed in the database."""

DATABASE = "control.db"
"""The file of the state directory that holds all rows."""


BLOBS, BLOBS_OWNER = "blobs", "blobs.owner"
"""Where blobs are when the configuration does not say, and what this server claims a store with, both in the
state directory.
"""


def _new_id() -> str:
    return str(uuid.uuid4())


def _new_request_id() -> str:
    return secrets.token_hex(8)


def _new_secret() -> str:
    return f"pds_{secrets.token_hex(16)}"


def _new_session() -> str:
    return secrets.token_urlsafe(32)


def _new_key() -> bytes:
    return secrets.token_bytes(32)


def _new_placeholder() -> str:
    return f"psk_{secrets.token_hex(16)}"


class Chance(Struct, frozen=True):
    """Where names and secrets come from."""

    new_id: Callable[[], str] = _new_id
    new_request_id: Callable[[], str] = _new_request_id
    new_secret: Callable[[], str] = _new_secret
    new_session: Callable[[], str] = _new_session
    new_key: Callable[[], bytes] = _new_key
    new_placeholder: Callable[[], str] = _new_placeholder
    some_bytes: Callable[[int], bytes] = secrets.token_bytes


class Control:
    """A running control plane: an ASGI application, and what its start had to say."""

    def __init__(self, app: ASGIApp, plane: Plane, first_token: str | None) -> None:
        self._app = app
        self.plane = plane
        self.first_token = first_token
        """The admin token that the first start on an empty database made; it is told nowhere else."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


@asynccontextmanager
async def open_control(
    config: ControlConfig,
    host: Host,
    *,
    clock: Clock = SYSTEM_CLOCK,
    chance: Chance | None = None,
    beat_seconds: float = BEAT_SECONDS,
    work: bool = True,
) -> AsyncIterator[Control]:
    """A control plane over `host`, whose machines it has adopted before the block begins.

    At the end of the block the machines are left, hibernated or destroyed, as `config.on_exit` says. With
    `work=False` nothing happens by itself, and a test runs the errands. Errors: Conflict when another server
    uses the state directory.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(_alone_in(config.state_dir))
        database = await stack.enter_async_context(open_database(config.state_dir / DATABASE))
        blobs = await _blobs(config)
        await database.write(lambda connection: accounts.recount(connection, config.workspace))
        plane = Plane(config, host, database, blobs, clock, chance or Chance())
        stack.push_async_callback(plane.flush)
        first_token = await plane.accounts.bootstrap(config.workspace, config.bootstrap_token)
        deaths = await stack.enter_async_context(host.deaths())
        await plane.recorder.missed()
        await plane.builds.missed()
        await plane.adoption.adopt()
        await plane.workshops.missed()
        await plane.backups.missed()
        jobs = [_bury(deaths, plane.adoption), plane.archive.drop_leftovers(), plane.recorder.work()]
        jobs += [plane.builds.work()]
        jobs += [plane.kernels.work(), plane.backups.work()]
        jobs += [run_errands(plane.errands())] if work else []
        await stack.enter_async_context(beside(*jobs))
        if config.on_exit is OnExit.DESTROY:
            stack.push_async_callback(plane.endings.end_all, STOPPED)
        elif config.on_exit is OnExit.HIBERNATE:
            stack.push_async_callback(plane.sleep.hibernate_all, STOPPED)
        else:
            stack.push_async_callback(plane.ground.books.gather_all)
        yield Control(plane.app(beat_seconds), plane, first_token)


class Plane:
    """Every part of a control plane, put together."""

    def __init__(
        self,
        config: ControlConfig,
        host: Host,
        database: Database,
        blobs: BlobStore,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._config = config
        self._chance = chance
        self._clock = clock
        self._database = database
        self._bell = Bell()
        self.limits = Limits(config.quota_sandboxes, config.quota_vcpus, config.quota_memory_mb)
        self.metrics = Metrics()
        self.accounts = Accounts(database, clock, chance.new_secret)
        self.trail = Trail(database, clock)
        self.ground = self._ground(host)
        self.ledger = self.ground.ledger
        self.activity = self.ground.activity
        self.archive = Archive(self.ground)
        self.endings = Endings(self.ground, self.archive)
        self.recorder = Recorder(self.ground, self.archive)
        self.volumes = Volumes(self.ground)
        chunks = Chunks(blobs, _kept(config, BLOBS_OWNER, chance).hex())
        self.backups = Backups(self.ground, self.volumes, chunks)
        self.templates = self._templates()
        self.births = Births(
            self.ground, self.archive, self.endings, self.recorder, self.volumes, self.templates
        )
        self.sleep = Sleep(self.ground, self.archive, self.endings)
        self.sandboxes = Sandboxes(self.ground, self.sleep)
        self.glimpses = Glimpses(self.ground, self.archive, self.births, self.endings, self.volumes)
        self.workshops = Workshops(
            self.glimpses, self.volumes, self.sandboxes, Exits(self.ground), chance.new_id
        )
        self.inputs = InputFiles(config.state_dir / "inputs", database)
        self.builds = self._builds()
        self.ports = Ports(self.ground, self.sandboxes)
        self.previews = Previews(self.ledger, clock, _preview_secret(config, self._chance))
        authority, host_key = (_kept(config, name, chance) for name in ("ssh-authority.key", "ssh-host.key"))
        self.certificates = Certificates(self.ledger, self.accounts, clock, authority, host_key)
        self.kernels = Kernels(
            self.sandboxes,
            self.recorder,
            clock,
            chance.new_id,
            chance.new_key,
            max_output=config.max_output_bytes,
        )
        self.litters = Litters(self.ground, self.endings)
        self.adoption = Adoption(
            self.ground, self.archive, self.births, self.endings, self.litters, self.volumes
        )
        self.reaper = Reaper(self.activity, self.endings, self.sleep, self.metrics)
        retention = Retention(config.retention_seconds, config.audit_retention_seconds)
        self.purge = Purge(database, clock, retention)

    def front(self, limits: VisitorLimits) -> Front:
        """What visitors of sandboxes are answered."""
        config = self._config
        return Front(
            self.ports, self.previews, limits, suffix=config.preview_suffix, address=config.preview_url
        )

    def house(self) -> House:
        """What is there for who comes by SSH."""
        return House(
            self.certificates,
            self._commands(),
            self.sandboxes,
            self.ports,
            self.trail,
            self._chance.new_id,
        )

    def app(self, beat_seconds: float) -> ASGIApp:
        """The whole HTTP surface."""
        sizes = {
            name: getattr(self._config, name)
            for name in ("max_json_bytes", "max_stdin_bytes", "max_upload_bytes", "max_output_bytes")
        }
        ground = self.ground
        timelines = Timelines(ground, self.archive, self.births)
        glimpses = self.glimpses
        services = Services(
            sandboxes=self.sandboxes,
            births=self.births,
            endings=self.endings,
            sleep=self.sleep,
            exits=Exits(self.ground),
            secrets=Secrets(self.ground),
            lifecycles=Lifecycles(self.ledger, self.activity, self._clock, self.recorder),
            lineages=Lineages(self.ledger, self._database),
            snapshots=Snapshots(ground, self.archive),
            transfers=Transfers(ground, self.archive),
            forks=Forks(ground, self.archive, self.births, self.endings, self.litters),
            rollbacks=Rollbacks(ground, self.archive, self.endings, self.sleep),
            timelines=timelines,
            volumes=self.volumes,
            backups=self.backups,
            glimpses=glimpses,
            contents=Contents(glimpses, self.sandboxes),
            diffs=Diffs(ground, self.archive, glimpses, self.sandboxes, timelines),
            commands=self._commands(),
            terminals=Terminals(self.sandboxes, self._chance.new_id),
            kernels=self.kernels,
            language_servers=LanguageServers(self.sandboxes, self._chance.new_id),
            files=Files(self.sandboxes),
            events=Events(self._database, self._bell),
            vitals=Vitals(self.sandboxes, ground.placement, self._database),
            templates=self.templates,
            builds=self.builds,
            inputs=self.inputs,
            accounts=self.accounts,
            trail=self.trail,
            ports=self.ports,
            previews=self.previews,
            browsers=Browsers(self.ports, self.previews),
            certificates=self.certificates,
            placement=ground.placement,
            metrics=self.metrics,
            limits=self.limits,
            sizes=sizes,
            version=metadata.version("pandastack"),
            beat_seconds=beat_seconds,
            preview_base=self._config.preview_url,
        )
        rules = Rules(Authenticator(self.accounts), sizes, beat_seconds)
        return Edge(
            self._with_dashboard(application(ENDPOINTS, services, rules), services),
            metrics=self.metrics,
            trail=self.trail,
            clock=self._clock,
            new_request_id=self._chance.new_request_id,
        )

    def _with_dashboard(self, api: ASGIApp, services: Services) -> ASGIApp:
        if not self._config.dashboard:
            return api
        sessions = Sessions(self._clock, self._chance.new_session)
        return Dashboard(api, Web(services, sessions, Look(self._clock)))

    def errands(self) -> list[Errand]:
        """What is to be done by itself."""
        return [
            Errand("reap", REAP_SECONDS, self.reaper.reap),
            Errand("audit", REAP_SECONDS, self.trail.flush),
            Errand("receipts", GATHER_SECONDS, self.ground.books.gather_some),
            Errand("settle", TEND_SECONDS, self.adoption.settle),
            Errand("templates", TEND_SECONDS, self.templates.settle),
            Errand("inputs", TEND_SECONDS, self.inputs.settle),
            Errand("backups", TEND_SECONDS, self.backups.tidy),
            Errand("flush", TEND_SECONDS, self.flush),
            Errand("purge", PURGE_SECONDS, self.purge.purge),
        ]

    async def flush(self) -> None:
        """Write down what is kept in memory for a while."""
        await self.trail.flush()
        await self.accounts.flush()
        if seen := self.activity.take_changes():

            def transaction(connection: Connection) -> None:
                sandboxes.note_activity(connection, seen)

            await self._database.write_soon(transaction)

    def _ground(self, host: Host) -> Ground:
        config, database, clock = self._config, self._database, self._clock
        ledger = Ledger(database, clock, self._bell)
        kept = SnapshotLimits(config.quota_snapshots, config.quota_snapshot_bytes)
        placement = Placement(host, config.host_timeout_seconds)
        return Ground(
            database=database,
            ledger=ledger,
            placement=placement,
            activity=Activity(clock),
            books=Books(database, ledger, placement),
            causes=Causes(ledger),
            turns=Turns(),
            keys=Keys(database),
            safe=Safe(database, self._strongbox(), clock, self._chance.new_placeholder),
            line=Line(config.concurrent_creates, config.queue_seconds, self.metrics.queued),
            clock=clock,
            new_id=self._chance.new_id,
            terms=Terms(
                self.limits,
                kept,
                VolumeLimits(config.quota_volume_mb),
                config.default_ttl_seconds,
                config.create_timeout_seconds,
            ),
            metrics=self.metrics,
            failpoint=Failpoints(config.failpoints),
        )

    def _strongbox(self) -> Strongbox:
        key = _kept(self._config, SECRETS_KEY, self._chance)
        return Strongbox(key, self._chance.some_bytes)

    def _commands(self) -> Commands:
        config = self._config
        return Commands(
            self.sandboxes,
            self.recorder,
            self._clock,
            self._chance.new_id,
            default_timeout=config.default_exec_timeout_seconds,
            max_output=config.max_output_bytes,
        )

    def _templates(self) -> Templates:
        config = self._config
        return Templates(
            self.ground,
            preferred=config.default_template,
            bake_seconds=config.create_timeout_seconds,
        )

    def _builds(self) -> Builds:
        building = Building(self.ground, self.workshops, self.templates, self.inputs)
        verifying = Verifying(self.ground, self.workshops, self.templates)
        archives = self._config.state_dir / "builds"
        return Builds(self.ground, self._bell, building, verifying, self.inputs, archives)


async def _bury(deaths: AsyncIterator[VmReport], adoption: Adoption) -> None:
    async with asyncio.TaskGroup() as group:
        async for vm in deaths:
            group.create_task(adoption.bury(vm))


def _preview_secret(config: ControlConfig, chance: Chance) -> bytes:
    """What signs preview links: the configuration's, or one that was made for this state."""
    if config.preview_secret is not None:
        return config.preview_secret.encode()
    return _kept(config, "preview.secret", chance)


def _kept(config: ControlConfig, name: str, chance: Chance) -> bytes:
    """A secret of this state, made when it is first asked for; no server ever sees half of one."""
    path = config.state_dir / name
    if not path.is_file():
        draft = path.with_name(f"{name}.new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(chance.new_key())
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    return path.read_bytes()


async def _blobs(config: ControlConfig) -> BlobStore:
    url = config.blobs or (config.state_dir.absolute() / BLOBS).as_uri()
    return await open_blobs(url, config.blobs_access_key, config.blobs_secret_key)


@contextmanager
def _alone_in(state_dir: Path) -> Iterator[None]:
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state_dir / "control.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"Another server uses the state directory {state_dir}.") from error
        yield
