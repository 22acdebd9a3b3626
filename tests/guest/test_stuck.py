"""A path that never answers holds up the one who touches it, and nobody else."""

import ctypes
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Agent
from .wire import Kind, Op, Wire

pytestmark = pytest.mark.root


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system whose server says nothing."""
    path = tmp_path / "stuck"
    path.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    assert libc.mount(b"test", os.fsencode(path), b"fuse", 0, options) == 0, os.strerror(ctypes.get_errno())
    yield path
    os.close(server)
    subprocess.run(["umount", "-l", str(path)], check=True, timeout=10)


def others_go_on(wire: Wire) -> None:
    for _ in range(3):
        began = time.monotonic()
        wire.ping(1)
        assert wire.shell("echo fine").out == b"fine\n"
        assert time.monotonic() - began < 1


def test_a_command_in_a_stuck_directory(served: Agent, wire: Wire, stuck: Path) -> None:
    stream = wire.start("true", ("CWD", f"{stuck}/deeper"), name="stuck")
    others_go_on(wire)
    (child,) = served.children()
    wire.send(Kind.CLOSE, stream, b"\x01")
    assert wire.receive_on(stream).kind == Kind.DONE
    deadline = time.monotonic() + 5
    while child in served.children() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert served.children() == []


def test_a_program_on_a_stuck_path_ends_by_its_timeout(wire: Wire, stuck: Path) -> None:
    stream = wire.open(Op.EXEC, ("PROCESS_ID", "stuck"), ("ARG", f"{stuck}/program"), ("TIMEOUT_MS", 400))
    others_go_on(wire)
    assert wire.finish(stream).number("TIMED_OUT") == 1


@pytest.mark.parametrize("operation", [Op.READ, Op.STAT, Op.LIST, Op.REMOVE, Op.WRITE, Op.MKDIR, Op.WATCH])
def test_a_file_on_a_stuck_path(served: Agent, wire: Wire, stuck: Path, operation: Op) -> None:
    stream = wire.open(operation, ("PATH", f"{stuck}/file"))
    others_go_on(wire)
    wire.send(Kind.CLOSE, stream, b"\x00")
    assert wire.receive_on(stream).kind == Kind.DONE
    deadline = time.monotonic() + 5
    while served.children() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert served.children() == []
