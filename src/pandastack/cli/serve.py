"""`pandastack up` and `pandastack down`: the composition of a whole installation in one process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
import uvloop

from pandastack.cli import server
from pandastack.cli.progress import reporting
from pandastack.cli.session import console
from pandastack.cli.state import DEFAULT_STATE, held, holder
from pandastack.config import ControlConfig, DriverName, HostConfig, LogFormat, OnExit, load
from pandastack.errors import MachineError
from pandastack.host.packages import Progress
from pandastack.telemetry import set_up_logging

app = typer.Typer()

GRACE_SECONDS = 60.0
"""How long `down` lets a server end in order."""

INTERRUPTED = 130

State = Annotated[Path, typer.Option("--state", help="The directory of everything that lasts.")]


class DriverChoice(StrEnum):
    """AUTO is what the configuration says, and without that Firecracker where it can be used, else QEMU."""

    AUTO = "auto"
    FIRECRACKER = "firecracker"
    QEMU = "qemu"
    PROCESS = "process"


@app.command()
def up(  # noqa: PLR0913  # each is an option of the command line
    state: State = DEFAULT_STATE,
    listen: Annotated[str | None, typer.Option(help="Address and port.")] = None,
    gateway: Annotated[
        str | None, typer.Option(help="Address and port for visitors of sandboxes; none if empty.")
    ] = None,
    ssh: Annotated[
        str | None, typer.Option(help="Address and port for who comes by SSH; none if `off`.")
    ] = None,
    driver: Annotated[DriverChoice, typer.Option(help="How machines are run.")] = DriverChoice.AUTO,
    on_exit: Annotated[OnExit | None, typer.Option(help="What becomes of the machines.")] = None,
    insecure_no_isolation: Annotated[
        bool, typer.Option("--insecure-no-isolation", help="Allow the process driver: for tests alone.")
    ] = False,
    log: Annotated[LogFormat | None, typer.Option(help="How to log.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    config: Annotated[Path | None, typer.Option(help="A configuration file (TOML).")] = None,
) -> None:
    """Run a server here until Ctrl-C; a second Ctrl-C does not wait for requests that still run.

    On a terminal the machines end with it; else they run on and the next start finds them again (--on-exit).
    """
    state = state.expanduser().absolute()
    leave = on_exit or (OnExit.DESTROY if sys.stdout.isatty() else OnExit.KEEP)
    environment = dict(os.environ)
    control = load(
        ControlConfig,
        file=config,
        environment=environment,
        flags={
            "state_dir": state,
            "listen": listen,
            "gateway_listen": gateway,
            "ssh_listen": ssh,
            "on_exit": leave,
            "log_format": log,
            "log_level": log_level,
        },
    )
    host = load(
        HostConfig,
        file=config,
        environment=environment,
        flags={
            "state_dir": state,
            "driver": None if driver is DriverChoice.AUTO else DriverName(driver.value),
            "insecure_no_isolation": insecure_no_isolation or None,
        },
    )
    set_up_logging(control.log_format, control.log_level)
    with held(state):
        remember_host(host)
        try:
            uvloop.run(server.serve(control, host, console(stderr=True)))
        except asyncio.CancelledError as error:
            raise typer.Exit(INTERRUPTED) from error


@app.command()
def down(state: State = DEFAULT_STATE) -> None:
    """End the server of a state directory and all of its machines, also when the server died."""
    state = state.expanduser().absolute()
    set_up_logging(LogFormat.CONSOLE, "error")
    stderr = console(stderr=True)
    if not state.is_dir():
        typer.echo(f"Nothing runs on {state}: it does not exist.")
        return
    with stderr.status("the server ends"):
        stopped = stop_server(state)
    with held(state), reporting(stderr) as progress:
        count = asyncio.run(end_machines(remembered_host(state), progress))
    typer.echo(f"{'The server has ended' if stopped else 'No server ran'}; machines ended now: {count}.")


def stop_server(state: Path) -> bool:
    """End the server that uses `state`, by force when it does not in time; tells whether there was one."""
    process = holder(state)
    if process is None:
        return False
    os.kill(process, signal.SIGTERM)
    if not _gone(state, GRACE_SECONDS):
        os.kill(process, signal.SIGKILL)
        if not _gone(state, 10.0):
            raise MachineError(f"The server (process {process}) cannot be ended.")
    return True


def _gone(state: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while holder(state) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


async def end_machines(config: HostConfig, progress: Progress) -> int:
    """End every machine of a state directory that no server uses, and note why; how many there were. Whoever
    they belong to: nobody is put beside anybody.
    """
    async with server.host_of(msgspec.structs.replace(config, multi_tenant=False), progress) as host:
        count = len((await host.report()).vms)
        await server.end_sandboxes(config.state_dir, host)
        await host.end_all()
        return count


def remember_host(host: HostConfig) -> None:
    """Note with which settings the machines of this state are run, for whoever ends them later."""
    (host.state_dir / "host.json").write_bytes(msgspec.json.encode(host, enc_hook=str))


def remembered_host(state: Path) -> HostConfig:
    """The settings that the last server of this state had; the defaults when there was none."""
    file = state / "host.json"
    known = msgspec.json.decode(file.read_bytes()) if file.is_file() else {}
    return load(HostConfig, flags={**known, "state_dir": state})
