"""A shell in a sandbox, at a real terminal: sizes, keys, leaving it and coming back."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from ..wire.conftest import PROGRAM, Server
from .conftest import Run

pytestmark = [pytest.mark.wire, pytest.mark.timeout(120, func_only=True)]

PATIENCE = 30.0
COOKED = termios.ICANON | termios.ECHO | termios.ISIG


class Seat:
    """A person's terminal with the program in it."""

    def __init__(self, server: Server, *words: str, rows: int = 25, columns: int = 81, api: str = "") -> None:
        self.child, self.terminal = pty.fork()
        if self.child == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            environment = {**server.environment, "PANDASTACK_API": api or server.url, "COLUMNS": "7"}
            os.execve(PROGRAM, [PROGRAM, *words], environment)  # noqa: S606  # no shell
        self.heard = b""

    def type(self, text: bytes) -> None:
        os.write(self.terminal, text)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def hears(self, words: bytes) -> None:
        """Listen until these words are there."""
        deadline = time.monotonic() + PATIENCE
        while words not in self.heard:
            assert time.monotonic() < deadline, self.heard
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.heard += os.read(self.terminal, 65_536)

    def is_raw(self) -> bool:
        return int(termios.tcgetattr(self.terminal)[3]) & COOKED == 0

    def ends(self) -> int:
        """Its exit code; afterwards the terminal is as every shell wants it."""
        with suppress(OSError):  # the other end of a pseudo terminal closes with EIO
            while piece := os.read(self.terminal, 65_536):
                self.heard += piece
        code = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
        assert termios.tcgetattr(self.terminal)[3] & COOKED == COOKED
        os.close(self.terminal)
        return code

    def way_back(self) -> list[str]:
        """The command that it said to come back with."""
        found = re.search(rb"The terminal goes on: pandastack (shell \S+ --attach \S+)\r\n", self.heard)
        assert found, self.heard
        return found[1].decode().split()


@pytest.fixture
def box(pandastack: Run) -> Iterator[str]:
    made = pandastack("sandbox", "create", "-t", "base").stdout.strip()
    yield made
    pandastack("sandbox", "rm", "--all")


def test_a_shell_feels_local(server: Server, box: str) -> None:
    seat = Seat(server, "shell", box)
    seat.type(b"PS1='<'p'>'; stty size; echo te''rm $TERM\n")
    seat.hears(b"term xterm-256color")
    assert b"25 81" in seat.heard
    assert seat.is_raw()
    seat.resize(40, 133)
    seat.type(b"sleep 0.3; stty size; sh -c 'echo sl\"\"eeping; exec sleep 100'\n")
    seat.hears(b"sleeping")
    assert b"40 133" in seat.heard
    seat.heard = b""
    seat.type(b"\x03")
    seat.hears(b"<p>")
    seat.type(b"echo co''de $?; exit 9\n")
    seat.hears(b"code 130")
    assert seat.ends() == 9


def test_who_leaves_may_come_back(server: Server, pandastack: Run, box: str) -> None:
    seat = Seat(server, "shell", box)
    seat.type(b"PS1=; stty -echo; x=kept; echo al''pha; printf '\\033[6n\\033[?1049h'\n")
    seat.hears(b"\x1b[6n")
    seat.type(b"\n~~\n~.")
    assert seat.ends() == 0
    assert b"You left." in seat.heard and b"\x1b[?1047l" in seat.heard
    words = seat.way_back()
    listed = json.loads(pandastack("terminal", "ls", box, "--json").stdout)
    assert [(each["name"], each["running"]) for each in listed] == [(words[-1], True)]
    seat = Seat(server, *words)
    seat.hears(b"alpha")
    seat.type(b"echo it is $x; exit 4\n")
    seat.hears(b"it is kept")
    assert seat.ends() == 4
    assert b"\x1b[6n" not in seat.heard  # an old question is not asked again
    assert "ended with 4" in pandastack("terminal", "ls", box).stdout


@contextmanager
def relay(server: Server) -> Iterator[tuple[str, list[socket.socket]]]:
    """A way to the server that can be cut: its address, and its connections."""
    host, port = server.url.removeprefix("http://").split(":")
    ends: list[socket.socket] = []

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, far = door.accept()[0], socket.create_connection((host, int(port)))
                ends.extend((near, far))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}", ends
        door.shutdown(socket.SHUT_RDWR)
    for end in ends:
        end.close()


def test_a_connection_that_breaks_leaves_the_terminal_running(server: Server, box: str) -> None:
    with relay(server) as (api, ends):
        seat = Seat(server, "shell", box, api=api)
        seat.type(b"PS1=; x=kept; echo re''ady\n")
        seat.hears(b"ready")
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        assert seat.ends() == 1
    assert b"connection broke" in seat.heard
    seat = Seat(server, *seat.way_back())
    seat.type(b"echo it is $x; exit 0\n")
    seat.hears(b"it is kept")
    assert seat.ends() == 0


def test_a_signal_gives_the_terminal_back(server: Server, box: str) -> None:
    seat = Seat(server, "shell", box)
    seat.type(b"echo re''ady\n")
    seat.hears(b"ready")
    assert seat.is_raw()
    os.kill(seat.child, signal.SIGTERM)
    assert seat.ends() == 130


def test_who_only_looks_types_nothing(server: Server, pandastack: Run, box: str) -> None:
    made = pandastack("terminal", "create", box, "--name", "main", "--cmd", "PS1='$ ' exec sh").stdout.strip()
    assert made == "main"
    seat = Seat(server, "shell", box, "--attach", "main", "--read-only")
    seat.hears(b"$ ")
    other = Seat(server, "shell", box, "-a", "main")
    seat.type(b"echo intruder\n")
    other.type(b"echo te''xt\n")
    seat.hears(b"text\r\n")
    seat.type(b"\n~.")
    assert seat.ends() == 0
    assert b"intruder" not in seat.heard
    assert pandastack("terminal", "rm", box, "main").stdout == "main\n"
    assert other.ends() == 129


def test_what_is_no_terminal(server: Server, pandastack: Run, box: str) -> None:
    assert "'nothing'" in pandastack("terminal", "rm", box, "nothing", status=1).stderr
    assert "needs a terminal" in pandastack("shell", box, status=2).stderr
    seat = Seat(server, "shell", box, "--attach", "nothing")
    assert seat.ends() == 1
    assert b"no terminal 'nothing'" in seat.heard and b"goes on" not in seat.heard
