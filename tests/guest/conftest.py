"""The real agent as a process."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .wire import Wire

GUEST = Path(__file__).resolve().parents[2] / "guest"


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's binary: the one that $AGENT names, or one built for this run."""
    if "AGENT" in os.environ:
        return Path(os.environ["AGENT"])
    out = tmp_path_factory.mktemp("agent")
    subprocess.run(["make", "-s", "-C", str(GUEST), f"OUT={out}"], check=True, timeout=300)
    return out / "pandastack-agent"


class Agent:
    """A running agent that listens on a socket."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.process = process
        self.path = path
        self.status = 0

    def expect_status(self, status: int) -> None:
        """The test has ended the agent itself: that is how it must have gone."""
        self.status = status

    def children(self) -> list[int]:
        """The processes whose parent it is."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def connect(self) -> Wire:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self.path))
        except OSError:
            connection.close()
            raise
        return Wire(connection)


@contextmanager
def serve(binary: Path, path: Path, *options: str | Path) -> Iterator[Agent]:
    """A running agent; at the end it must go when asked, having said nothing in between."""
    process = subprocess.Popen([binary, "--socket", path, "--no-machine", *options], stderr=subprocess.PIPE)
    try:
        while not path.exists():
            assert process.poll() is None
        agent = Agent(process, path)
        yield agent
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=10)
        assert (process.returncode, complaints) == (agent.status, b"")
    finally:
        process.kill()
        process.wait(10)
        assert process.stderr is not None
        process.stderr.close()


@pytest.fixture
def served(binary: Path, tmp_path: Path) -> Iterator[Agent]:
    """An agent of its own for the test."""
    with serve(binary, tmp_path / "agent.socket") as agent:
        yield agent


@pytest.fixture
def wire(served: Agent) -> Iterator[Wire]:
    """A session with the gate open."""
    with served.connect() as wire:
        wire.hello()
        assert wire.gate()["ERRNO"] == bytes(8)
        yield wire
