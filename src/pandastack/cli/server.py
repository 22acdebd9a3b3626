"""A server while it runs: host, control plane and HTTP, opened in this order and closed in the other."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from pathlib import Path

from rich.console import Console

from pandastack.api.server import serving
from pandastack.cli.credentials import remember
from pandastack.cli.progress import reporting
from pandastack.client import config_path
from pandastack.config import ControlConfig, DriverName, HostConfig, OnExit, split_address
from pandastack.control import DATABASE, Control, open_control
from pandastack.errors import PandastackError
from pandastack.gateway.listener import listening
from pandastack.gateway.visitor import Limits
from pandastack.host.app import LocalHost, open_host
from pandastack.host.packages import Progress
from pandastack.model.sandbox import Isolation
from pandastack.sshd.limits import Limits as SshLimits
from pandastack.sshd.listener import listening as ssh_listening
from pandastack.testing.process_host import open_process_host

M_ARENA_MAX = -8
"""Of glibc's malloc.h."""

WORDS = {
    Isolation.HARDWARE: "every sandbox is a virtual machine of its own, separated by the processor",
    Isolation.EMULATED: "every sandbox is a virtual machine of its own, EMULATED in software: slower, and "
    "not the boundary that hardware virtualization is (`pandastack doctor` says what is missing)",
    Isolation.NONE: "NO ISOLATION AT ALL: sandboxes are plain processes of this machine, for tests alone",
}


async def serve(control_config: ControlConfig, host_config: HostConfig, console: Console) -> None:
    """Serve until the first signal, then end in order; a second signal, or one before all is up, cancels.

    Errors: Conflict for an address in use, those of `open_host` and `open_control`; what was opened is
    closed.
    """
    share_one_arena()
    allow_many_files()
    dump_no_core()
    async with AsyncExitStack() as stack:
        stop = stack.enter_context(signals())
        with reporting(console) as progress:
            host = await stack.enter_async_context(host_of(host_config, progress))
            await bake_all(host, host_config.ready_templates, progress, console)
        control = await stack.enter_async_context(open_control(control_config, host))
        api_url = await stack.enter_async_context(serving(control, control_config.listen))
        gateway_url = await stack.enter_async_context(visited(control, control_config))
        ssh_address = await stack.enter_async_context(entered(control, control_config))
        announce(
            console,
            api_url,
            host,
            control.first_token,
            gateway_url=gateway_url,
            ssh_address=ssh_address,
            dashboard=control_config.dashboard,
        )
        leave_alone_what_is_there()
        await stop.asked()
        console.print("ending; once more to end at once", style="dim")


@asynccontextmanager
async def visited(control: Control, config: ControlConfig) -> AsyncIterator[str | None]:
    """The gateway while the block lasts, and its URL; None where the configuration wants none."""
    if not config.gateway_listen:
        yield None
        return
    limits = Limits(of_one_address=config.gateway_connections_per_address)
    async with listening(control.plane.front(limits), config.gateway_listen, limits) as url:
        yield url


@asynccontextmanager
async def entered(control: Control, config: ControlConfig) -> AsyncIterator[str | None]:
    """SSH while the block lasts, and its address; None where the configuration wants none."""
    if config.ssh_listen in {"", "off"}:
        yield None
        return
    limits = SshLimits(of_one_address=config.ssh_connections_per_address)
    certificates = control.plane.certificates
    async with ssh_listening(control.plane.house(), config.ssh_listen, limits) as (host, port):
        told = (host, port) if config.ssh_address is None else split_address(config.ssh_address)
        certificates.address = told
        try:
            yield f"{host}:{port}"
        finally:
            certificates.address = None


def host_of(config: HostConfig, progress: Progress) -> AbstractAsyncContextManager[LocalHost]:
    """The host with the driver that the configuration names. Errors: those of its `open_…`."""
    choose = open_process_host if config.driver is DriverName.PROCESS else open_host
    return choose(config, progress)


async def end_sandboxes(state: Path, host: LocalHost) -> None:
    """End the sandboxes of a state directory as a server does that stops, each with its cause.

    Without a database that can be used nothing happens: the next server notes that their machines are gone.
    """
    if (state / DATABASE).is_file():
        with suppress(PandastackError):
            async with open_control(ControlConfig(state_dir=state, on_exit=OnExit.DESTROY), host, work=False):
                pass


async def bake_all(
    host: LocalHost, wanted: Sequence[str] | None, progress: Progress, console: Console
) -> None:
    """Have a checked snapshot of every template that is wanted before a sandbox is asked for; a failure is
    only told.
    """
    for template in (await host.report()).templates:
        if template.on_demand if wanted is None else template.name not in wanted:
            continue
        if not template.baked:
            progress(f"baking {template.name}", None)
        try:
            await host.bake(template.name)
        except PandastackError as error:
            console.print(f"{template.name} cannot be used: {error}", style="yellow", markup=False)


def share_one_arena() -> None:
    """Have the C library keep one heap for all threads: a heap for each grows for itself alone."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have no such thing, and no such heaps
        mallopt(M_ARENA_MAX, 1)


def allow_many_files() -> None:
    """Have as many descriptors as this user may: every machine takes two."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def dump_no_core() -> None:
    """Leave no image of this program's memory on the disk, whatever becomes of it: it holds secrets."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def leave_alone_what_is_there() -> None:
    """The collector need not look again at the many objects that a started server consists of."""
    gc.collect()
    gc.freeze()


def announce(
    console: Console,
    api_url: str,
    host: LocalHost,
    first_token: str | None,
    *,
    gateway_url: str | None,
    ssh_address: str | None,
    dashboard: bool,
) -> None:
    """Tell that the server serves, what that is worth, and the first key, once."""
    driver = host.vms.driver
    listening = f"PandaStack listens on {api_url} ({driver.name} {driver.version})"
    console.print(listening, markup=False, soft_wrap=True)
    console.print(f"  {WORDS[driver.isolation]}", markup=False, soft_wrap=True)
    for reason in driver.degraded:
        console.print(f"  degraded: {reason}", markup=False, soft_wrap=True)
    if gateway_url is not None:
        console.print(f"  previews: {gateway_url}", markup=False, soft_wrap=True)
    if ssh_address is not None:
        console.print(f"  ssh: {ssh_address}", markup=False, soft_wrap=True)
    if dashboard:
        console.print(f"  dashboard: {api_url}/ui", markup=False, soft_wrap=True)
    if first_token is None:
        return
    path = config_path(Path.home())
    before = remember(path, api_url, first_token)
    console.print(f"  first key, shown this once: {first_token}", markup=False, soft_wrap=True)
    console.print(
        f"  it is written to {path}, where every client of yours looks", markup=False, soft_wrap=True
    )
    if before.api_url and before.api_url != api_url:
        console.print(f"  (what stood there for {before.api_url} is in {path}.old)", markup=False)


class Stop:
    """What the signals that end a program do: the first one, once all is up, asks; any other one cancels."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task
        self._up = False
        self._asked = asyncio.Event()

    async def asked(self) -> None:
        """All is up: wait to be asked to end."""
        self._up = True
        await self._asked.wait()

    def __call__(self) -> None:
        """A signal came."""
        if not self._up or self._asked.is_set():
            self._task.cancel()
        self._asked.set()


@contextmanager
def signals() -> Iterator[Stop]:
    """Inside the block, signals go to a Stop."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # a coroutine runs in a task
    stop = Stop(task)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
