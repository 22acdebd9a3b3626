"""The composition root of a host: a configuration in, its verbs out.

The only place of `host/` that reads the clock, the random source and the environment.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, nullcontext
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path

import structlog

from pandastack.carrying import beside
from pandastack.config import DriverName, HostConfig, NetworkMode
from pandastack.errors import InvalidRequest, NotSupported, VolumeBusy
from pandastack.host import prune
from pandastack.host.agent import find_images_dir
from pandastack.host.attachments import Growth
from pandastack.host.baker import Baker
from pandastack.host.checks import Programs
from pandastack.host.disks import Disk, disk_of
from pandastack.host.driver import Driver, Feature
from pandastack.host.egress.client import Account
from pandastack.host.firecracker import FirecrackerDriver
from pandastack.host.firecracker_install import Refusal, find_firecracker, why_not_used
from pandastack.host.firecracker_orders import Shape
from pandastack.host.freight import Freight
from pandastack.host.guest import GuestLink
from pandastack.host.jailer import find_jailer
from pandastack.host.means import find_means
from pandastack.host.network.ability import lacking
from pandastack.host.network.slots import Slots, name_servers_of, open_slots
from pandastack.host.own_images import OwnImages
from pandastack.host.packages import Progress
from pandastack.host.paths import OWN_IMAGES, Cache
from pandastack.host.probe import choose_vmm, host_cpu, probe_kvm
from pandastack.host.qemu import QemuDriver
from pandastack.host.qemu_install import QemuInstall, ensure_qemu
from pandastack.host.reach import Reach
from pandastack.host.seals import KEY, Seals
from pandastack.host.shelf import BakedShelf
from pandastack.host.sizes import Sizes
from pandastack.host.templates import Shelf, Templates
from pandastack.host.tenancy import demand
from pandastack.host.users import users_in
from pandastack.host.uses import Uses
from pandastack.host.vm import Sources, Supplies
from pandastack.host.vms import Vms, open_vms
from pandastack.host.volumes import Volumes
from pandastack.host.zygote import ensure_library
from pandastack.host.zygotes import Zygotes
from pandastack.model.host import HostReport, Networks
from pandastack.model.image import ImageSpec, Template
from pandastack.model.sandbox import Isolation

HOST_ID = "local"
log = structlog.get_logger("host")


class LocalHost:
    """`model.host.Host` in this process."""

    def __init__(
        self,
        vms: Vms,
        templates: Templates,
        freight: Freight,
        reach: Reach,
        volumes: Volumes,
        network: Networks,
        *,
        images: OwnImages | None,
    ) -> None:
        self.vms = vms
        self.volumes = volumes
        self.network = network
        self.images = images
        self.templates = templates
        self.start = vms.start
        self.stop = vms.stop
        self.pause = vms.pause
        self.resume = vms.resume
        self.snapshot = vms.snapshot
        self.drop_snapshot = vms.drop_snapshot
        self.export_snapshot = freight.export_snapshot
        self.import_snapshot = freight.import_snapshot
        self.replace = vms.replace
        self.stats = vms.stats
        self.make_volume = volumes.make
        self.copy_volume = volumes.copy
        self.read_volume = volumes.read
        self.fill_volume = volumes.fill
        self.grow_volume = Growth(volumes, vms.find).grow
        self.drop_volume = volumes.drop
        self.set_egress = reach.set_egress
        self.receipts = reach.receipts
        self.console = vms.console
        self.console_at = vms.console_at
        self.deaths = vms.deaths
        self.end_all = vms.end_all

    def guest(self, vm_id: str) -> GuestLink:
        return self.vms.guest(vm_id)

    async def make_image(self, spec: ImageSpec) -> Template:
        if self.images is None:
            raise NotSupported("Machines of this host's driver have no disks, so it takes no images.")
        if self.volumes.writer(spec.volume) is not None:
            raise VolumeBusy(f"A machine writes volume {spec.volume}.")
        await self.images.make(spec, self.volumes.path_of(spec.volume))
        try:
            return await self.bake(spec.id)
        except BaseException:
            await self.drop_image(spec.id)
            raise

    async def drop_image(self, image_id: str) -> None:
        for ready in await self.templates.forget(image_id):
            if ready.snapshot is not None:
                await self.vms.driver.release(ready.snapshot.directory.name)
        if self.images is not None:
            await self.images.drop(image_id)

    async def bake(self, template: str) -> Template:
        return (await self.templates.prepare(template)).template

    async def report(self) -> HostReport:
        driver = self.vms.driver
        return HostReport(
            id=HOST_ID,
            driver=driver.name,
            driver_version=driver.version,
            isolation=driver.isolation,
            degraded=list(driver.degraded),
            vms=self.vms.reports(),
            templates=self.templates.all(),
            snapshots=self.vms.vault.reports(),
            volumes=self.volumes.reports(),
            network=self.network,
        )


@asynccontextmanager
async def open_host(config: HostConfig, progress: Progress) -> AsyncIterator[LocalHost]:
    """This machine as a host. Its machines are adopted at the start and let go at the end: they run on.

    `progress` is told what takes long (a line, and a fraction where there is one). BuildFailed when no VMM
    can be had.
    """
    cache = Cache(config.cache_dir)
    sources = Sources(entropy=os.urandom, wall_ns=time.time_ns)
    taps = _with_networks(config)
    driver = await _driver(cache, config, progress, taps=taps)
    demand(config, driver.isolation, driver.degraded)
    baker = Baker(driver, cache.snapshots, cache.lock("bake").parent, sources)
    with closing(Uses(cache)) as uses:
        if isinstance(driver, QemuDriver):
            uses.take(driver.vmm.binary)
        shelf = BakedShelf(cache, find_images_dir(), baker, uses, progress)
        try:
            async with (
                beside(_tidy(cache, shelf.made, sources)),
                _networks(config) if taps else nullcontext() as network,
                host_of(
                    driver,
                    shelf,
                    config.state_dir,
                    sources,
                    config.archive_keys,
                    network=network,
                    images=_own_images(driver, config.state_dir / OWN_IMAGES, cache, sources, progress),
                ) as host,
                beside(_sizes(cache, uses, host, config).go_on()),
            ):
                yield host
        finally:
            await driver.close()


def _sizes(cache: Cache, uses: Uses, host: LocalHost, config: HostConfig) -> Sizes:
    return Sizes(cache, uses, host.templates, host.vms, state=config.state_dir, most=config.kept_sizes)


def _own_images(
    driver: QemuDriver | FirecrackerDriver, root: Path, cache: Cache, sources: Sources, progress: Progress
) -> OwnImages:
    """The images of tenants, baked beside them."""
    baker = Baker(driver, root, cache.lock("bake").parent, sources)
    return OwnImages(root, cache, baker, progress)


async def _tidy(cache: Cache, made: asyncio.Queue[str], sources: Sources) -> None:
    """Behind each template that was made ready, remove what it has superseded long ago; for ever."""
    while True:
        template = await made.get()
        now = sources.wall_ns() / 1e9
        try:
            gone = await asyncio.to_thread(
                prune.prune, cache, now=now, keep_days=prune.KEEP_DAYS, template=template
            )
        except OSError as error:
            log.warning("cache.untidy", template=template, reason=str(error))
        else:
            for entry in gone:
                log.info("cache.removed", kind=entry.kind, template=template, digest=entry.digest)


@asynccontextmanager
async def host_of(
    driver: Driver,
    shelf: Shelf,
    state: Path,
    sources: Sources,
    archive_keys: Path | None = None,
    *,
    network: Slots | None = None,
    images: OwnImages | None = None,
) -> AsyncIterator[LocalHost]:
    """A host with any driver; its machines live below `state`, and so does the key of its exports."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    if images is not None:
        await images.open()
    templates = Templates(shelf, *([images] if images else []))
    try:
        volumes = Volumes(state / "w", able=Feature.DRIVES in driver.features)
        await asyncio.to_thread(volumes.open)
        async with open_vms(driver, templates, state, sources, Supplies(volumes, network)) as vms:
            seals = Seals(state / KEY, archive_keys, sources.entropy)
            freight = Freight(vms.vault, templates, driver, seals)
            reach = Reach(vms.find, network)
            yield LocalHost(vms, templates, freight, reach, volumes, _kind(driver, network), images=images)
    finally:
        await templates.close()


def _kind(driver: Driver, network: Slots | None) -> Networks:
    if network is not None:
        return Networks.SLOTS
    return Networks.SHARED if driver.isolation is Isolation.NONE else Networks.NONE


def _with_networks(config: HostConfig) -> bool:
    """Whether machines get networks of their own. NotSupported when they must and cannot."""
    if config.network is NetworkMode.NONE:
        return False
    missing = lacking()
    if missing and config.network is NetworkMode.SLOTS:
        raise NotSupported(f"This machine cannot give sandboxes networks: {missing}.")
    if missing:
        log.info("network.none", reason=missing)
    return missing is None


@asynccontextmanager
async def _networks(config: HostConfig) -> AsyncIterator[Slots]:
    """The process that puts secrets in gets a user of its own, for as long as it may live."""
    wanted = IPv4Network(config.network_range) if config.network_range else None
    servers = config.name_servers
    if servers is None:
        servers = name_servers_of(Path("/etc/resolv.conf"))
    trusted = config.trusted_certificates
    config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with users_in(config.jail_users_dir, config.jail_users).lent(config.state_dir) as user:
        async with open_slots(
            config.state_dir,
            wanted,
            servers,
            lambda: datetime.now(UTC),
            account=Account(user, user),
            ready=config.networks_ready,
            trust=_text_of(trusted) if trusted else None,
        ) as slots:
            yield slots


def _text_of(certificates: Path) -> str:
    try:
        return certificates.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The certificates in {certificates} cannot be read.") from error


async def _driver(
    cache: Cache, config: HostConfig, progress: Progress, *, taps: bool
) -> QemuDriver | FirecrackerDriver:
    """What the configuration asks for. NotSupported when it is Firecracker and that cannot be used here."""
    install = await ensure_qemu(cache, progress)
    found = await _firecracker(cache, config, install, taps=taps)
    if isinstance(found, FirecrackerDriver):
        return found
    if config.driver is DriverName.FIRECRACKER:
        raise NotSupported(f"Machines cannot run on Firecracker here: {found}")
    return await _qemu(cache, config, install, taps=taps)


async def _firecracker(
    cache: Cache, config: HostConfig, qemu: QemuInstall, *, taps: bool
) -> FirecrackerDriver | str:
    """The driver, or why it is not used."""
    environment = dict(os.environ)
    programs = Programs(environment.get("PATH", os.defpath))
    found = await find_firecracker(
        programs.find, folder=config.firecracker_dir, allow_version=config.firecracker_allow_version
    )
    if isinstance(found, Refusal):
        return found.reason
    kvm = not config.emulate and (await probe_kvm(qemu, cache, environment)).usable
    if unused := why_not_used(config.driver, kvm=kvm, root=os.geteuid() == 0):
        return f"{unused}."
    return FirecrackerDriver(
        found,
        cache,
        host_cpu=host_cpu(),
        means=find_means(config.jail_users_dir, config.jail_users, _group(config), _disk(config)),
        shape=Shape(wired=taps),
    )


async def _qemu(cache: Cache, config: HostConfig, install: QemuInstall, *, taps: bool) -> QemuDriver:
    vmm = await choose_vmm(install, cache, dict(os.environ), emulate=config.emulate, taps=taps)
    library = await ensure_library(cache)
    zygotes = Zygotes(config.state_dir / "z", rehearse_programs=config.rehearse)
    leases, users = config.jail_users_dir, config.jail_users
    jailer = await find_jailer(cache, leases, users, _group(config), _disk(config))
    return QemuDriver(vmm, host_cpu=host_cpu(), zygote_library=library, zygotes=zygotes, jailer=jailer)


def _disk(config: HostConfig) -> Disk | None:
    """Where the state is, and how much of it one machine may move."""
    device = disk_of(config.state_dir)
    return Disk(device, config.disk_mb_per_second << 20) if device else None


def _group(config: HostConfig) -> str:
    """What the control groups of this server's machines are in, told from those of others by its state."""
    return f"pandastack-{hashlib.sha256(bytes(config.state_dir)).hexdigest()[:16]}"
