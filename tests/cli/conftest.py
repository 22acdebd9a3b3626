"""A server for the commands that need one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..wire.conftest import PROGRAM, Server, running

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", params=["process", pytest.param("qemu", marks=pytest.mark.vm)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of a driver."""
    with running(tmp_path_factory.mktemp(f"cli-{request.param}"), request.param) as made:
        yield made


@pytest.fixture
def pandastack(server: Server) -> Run:
    """Runs the program against the server."""
    return program_of(server)


def program_of(server: Server, **variables: str) -> Run:
    """Runs the program against a server, with more variables; checks its exit code, 0 without another."""

    def run(*words: str, status: int = 0, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [PROGRAM, *words],
            env={**server.environment, **variables},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def alone(tmp_path: Path) -> Run:
    """Runs the program where there is no server, no key and no configuration."""

    def run(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(tmp_path), "PATH": str(Path(sys.executable).parent), "COLUMNS": "200"}
        done = subprocess.run(
            [PROGRAM, *words], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run
