"""A running server, the official SDK in an environment of its own, and ours."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from pandastack import AsyncClient, AsyncSandbox, Client, Sandbox

OFFICIAL = "0.10.0"
PROGRAM = str(Path(sys.executable).with_name("pandastack"))
UV = Path(sys.executable).with_name("uv")
CACHE = Path(os.environ.get("PANDASTACK_CACHE_DIR", "~/.cache/pandastack")).expanduser()
READY_SECONDS = 1800


@dataclass(frozen=True)
class Server:
    """`pandastack up` in a process of its own."""

    url: str
    token: str
    driver: str
    home: Path
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to find it, and nothing of this machine's own configuration."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PANDASTACK_")}
        return {
            **inherited,
            "HOME": str(self.home),
            "PANDASTACK_CACHE_DIR": str(CACHE),
            "PANDASTACK_API": self.url,
            "PANDASTACK_API_KEY": self.token,
            "WIRE_DRIVER": self.driver,
        }

    def log(self) -> str:
        return (self.home / "log").read_text("utf-8", "replace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    home: Path, driver: str, settings: Mapping[str, str] | None = None, *, status: int = 0
) -> Iterator[Server]:
    """A server on a state of its own, ended with all that it holds; it must end with `status`."""
    token, listen = f"pds_{secrets.token_hex(16)}", f"127.0.0.1:{free_port()}"
    command = [PROGRAM, "up", "--state", str(home / "state"), "--listen", listen, "--driver", driver]
    command += ["--gateway", "127.0.0.1:0", "--ssh", "127.0.0.1:0"]
    command += ["--on-exit", "destroy", "--log", "json"]
    if driver == "process":
        command.append("--insecure-no-isolation")
    with (home / "log").open("wb") as log:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PANDASTACK_")},
            "HOME": str(home),
            "PANDASTACK_CACHE_DIR": str(CACHE),
            "PANDASTACK_BOOTSTRAP_TOKEN": token,
            "PANDASTACK_REHEARSE": "false",
            **(settings or {}),
        }
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    server = Server(f"http://{listen}", token, driver, home, process)
    try:
        await_ready(server)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            ended = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
    assert ended == status, server.log()


def await_ready(server: Server) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with httpx2.Client(timeout=5.0) as client:
        while time.monotonic() < deadline:
            assert server.process.poll() is None, server.log()
            try:
                if client.get(f"{server.url}/healthz").is_success:
                    return
            except httpx2.TransportError:
                time.sleep(0.05)
    raise AssertionError(f"the server was not ready in time:\n{server.log()}")


@pytest.fixture(scope="session", params=["process", pytest.param("qemu", marks=pytest.mark.vm)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of a driver."""
    with running(tmp_path_factory.mktemp(f"wire-{request.param}"), request.param) as made:
        yield made


@pytest.fixture
def directory(server: Server, tmp_path: Path) -> str:
    """A directory in the sandbox; under the process driver that is one of this machine."""
    if server.driver == "process":
        (tmp_path / "in").mkdir()
        return str(tmp_path / "in")
    return "/tmp"


def uv(*words: str) -> None:
    subprocess.run([str(UV), "--quiet", *words], check=True, timeout=300)


@pytest.fixture(scope="session")
def official_python() -> Path:
    """A Python that has the official SDK, exactly as the registry has it, and nothing of ours."""
    place = CACHE / "tests" / f"official-sdk-{OFFICIAL}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            uv("venv", "--clear", "--python", sys.executable, str(place))
            uv("pip", "install", "--python", str(place), f"pandastack=={OFFICIAL}")
            (place / "complete").touch()
    return place / "bin" / "python"


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(api_url=server.url, api_key=server.token) as made:
        yield made


@pytest.fixture
def sandbox(client: Client) -> Iterator[Sandbox]:
    with client.sandboxes.create("base") as made:
        yield made


@pytest.fixture
async def async_sandbox(server: Server) -> AsyncIterator[AsyncSandbox]:
    async with (
        AsyncClient(api_url=server.url, api_key=server.token) as client,
        await client.sandboxes.create("base") as made,
    ):
        yield made
