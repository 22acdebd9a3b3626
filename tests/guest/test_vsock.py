"""The agent on vsock, as it is under Firecracker: where it listens. The rest is as on any other socket."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PORT = 7_342
PIDFD_GETFD = 438
PATIENCE = 10.0


@contextmanager
def started(agent: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([agent, *words], stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def vsock_is_known() -> bool:
    """Whether this kernel has such sockets at all."""
    try:
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def listeners(pid: int) -> list[tuple[int, int]]:
    """The vsock addresses at which a process listens, by copies of its descriptors."""
    found = []
    holder = os.pidfd_open(pid)
    for link in Path(f"/proc/{pid}/fd").iterdir():
        copy = ctypes.CDLL(None).syscall(PIDFD_GETFD, holder, int(link.name), 0)
        if copy >= 0 and str(link.readlink()).startswith("socket:"):
            with socket.socket(fileno=copy) as end:
                if end.family == socket.AF_VSOCK and end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(end.getsockname())
        elif copy >= 0:
            os.close(copy)
    os.close(holder)
    return found


def test_it_listens_at_its_port_or_says_that_there_is_no_vsock(binary: Path) -> None:
    with started(binary, "--vsock", str(PORT), "--no-machine") as process:
        deadline = time.monotonic() + PATIENCE
        while vsock_is_known() and not listeners(process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        if vsock_is_known():
            assert listeners(process.pid) == [(socket.VMADDR_CID_ANY, PORT)]
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        else:
            assert process.wait(PATIENCE) == 1


@pytest.mark.parametrize(
    "words", [["--vsock", "0"], ["--vsock", "x"], ["--vsock"], ["--vsock", "5", "--socket", "here"]]
)
def test_what_is_no_way_to_start_it(binary: Path, words: list[str]) -> None:
    command: list[str | Path] = [binary, *words, "--no-machine"]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert b"--vsock PORT" in done.stderr
