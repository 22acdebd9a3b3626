"""A server of one's own: `pandastack up` in another process, on a free port, with an empty state."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
from msgspec import Struct

from pandastack.errors import MachineError

PROGRAM = Path(sys.executable).with_name("pandastack")
READY_SECONDS = 1200.0
"""The very first start on a machine bakes the templates."""
STOP_SECONDS = 60.0


class Server(Struct, frozen=True):
    """A server that runs."""

    url: str
    token: str
    pid: int
    state: Path
    log: Path


@contextmanager
def running_server(
    home: Path,
    *options: str,
    settings: Mapping[str, str] | None = None,
    gateway: str | None = "127.0.0.1:0",
) -> Iterator[Server]:
    """A server that answers, its state and log below `home`; at the end of the block it and all of its
    machines are gone. `options` are more of `up`'s, `settings` of its environment; `gateway` is None for
    a server of a version that has none, nor SSH.

    It is in a session of its own, so a Ctrl-C reaches it through the end of the block alone. MachineError
    when it does not come up; an error that leaves the block takes the end of its log along as a note.
    """
    listen = f"127.0.0.1:{_free_port()}"
    token = f"pds_{secrets.token_hex(16)}"
    state, log = home / "state", home / "server.log"
    command = [str(PROGRAM), "up", "--state", str(state), "--listen", listen, "--on-exit", "destroy"]
    command += [] if gateway is None else ["--gateway", gateway, "--ssh", "127.0.0.1:0"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **(settings or {}), "PANDASTACK_BOOTSTRAP_TOKEN": token},
            start_new_session=True,
        )
    server = Server(f"http://{listen}", token, process.pid, state, log)
    try:
        _await_ready(process, server)
        yield server
    except Exception as error:  # whatever it is: who sees it may not see the log any more
        error.add_note(f"The server's log ends with:\n{last_lines(server.log)}")
        raise
    finally:
        _stop(process, server)


def _free_port() -> int:
    """A port of the loopback device that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_ready(process: subprocess.Popen[bytes], server: Server) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with httpx2.Client(timeout=5.0, trust_env=False) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise MachineError("The server ended.")
            try:
                if client.get(f"{server.url}/healthz").is_success:
                    return
            except httpx2.TransportError:
                time.sleep(0.05)
    raise MachineError(f"The server was not ready after {READY_SECONDS:.0f} s.")


def _stop(process: subprocess.Popen[bytes], server: Server) -> None:
    """In order; by force when that takes too long, and then the machines are ended by `down`."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.returncode != 0:
        down = [str(PROGRAM), "down", "--state", str(server.state)]
        subprocess.run(down, check=False, timeout=STOP_SECONDS, stdout=subprocess.DEVNULL)


def last_lines(log: Path) -> str:
    """The end of a log."""
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-30:])
