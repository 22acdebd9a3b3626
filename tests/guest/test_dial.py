"""DIAL and PORTS: connections to the machine's own services."""

import errno
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from .conftest import Agent
from .wire import WINDOW, Frame, Kind, Op, Outcome, Wire, number

PIECE = 65_536
FAMILIES = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}

Serve = Callable[[socket.socket], None]


@contextmanager
def service(serve: Serve, family: socket.AddressFamily = socket.AF_INET) -> Iterator[int]:
    """A port at which each connection is given to `serve`, on the loopback address of the family."""
    with socket.create_server((FAMILIES[family], 0), family=family, backlog=512) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=run, args=(connection,), daemon=True).start()

        def run(connection: socket.socket) -> None:
            with connection:
                serve(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def echo(connection: socket.socket) -> None:
    while got := connection.recv(PIECE):
        connection.sendall(got)


def dial(wire: Wire, port: int) -> int:
    stream = wire.open(Op.DIAL, ("PORT", port))
    assert wire.finish_opened(stream) == {}
    return stream


def say(wire: Wire, stream: int, content: bytes) -> None:
    wire.send(Kind.DATA, stream, b"\x00" + content)


def end(wire: Wire, stream: int) -> None:
    wire.send(Kind.EOF, stream, b"\x00")


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_both_ways_and_both_ends(wire: Wire, family: socket.AddressFamily) -> None:
    with service(echo, family) as port:
        stream = dial(wire, port)
        say(wire, stream, b"hello")
        assert wire.receive_on(stream).payload == b"\x01hello"
        say(wire, stream, b" again")
        end(wire, stream)
        outcome = wire.finish(stream)
    assert (outcome.out, outcome.ended, outcome.errno) == (b" again", True, 0)


def test_a_port_that_nobody_listens_on_is_refused(wire: Wire) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    outcome = wire.run(Op.DIAL, ("PORT", port))
    assert (outcome.opened, outcome.errno) == (None, errno.ECONNREFUSED)


def test_a_service_that_ends_first_still_hears_the_rest(wire: Wire) -> None:
    """Half of a connection that is closed leaves the other."""
    heard = []

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        while got := connection.recv(PIECE):
            heard.append(got)

    with service(serve) as port:
        stream = dial(wire, port)
        assert wire.receive_on(stream).payload == b"\x01bye"
        assert wire.receive_on(stream) == Frame(Kind.EOF, stream, b"\x01")
        say(wire, stream, b"one last word")
        end(wire, stream)
        assert wire.finish(stream).errno == 0
        deadline = time.monotonic() + 5
        while b"".join(heard) != b"one last word":
            assert time.monotonic() < deadline


def test_a_service_that_hangs_up_rudely_is_an_error(wire: Wire) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    with service(serve) as port:
        stream = dial(wire, port)
        say(wire, stream, b"x")
        assert wire.finish(stream).errno == errno.ECONNRESET


@pytest.mark.parametrize("mode", [b"\x00", b"\x01"])
def test_leaving_closes_the_connection(wire: Wire, tmp_path: Path, mode: bytes) -> None:
    """Also while a worker that was forked meanwhile holds copies of the agent's descriptors."""
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        over.set()

    with service(serve) as port:
        stream = dial(wire, port)
        assert wire.finish_opened(wire.open(Op.WATCH, ("PATH", str(tmp_path)))) == {}
        wire.send(Kind.CLOSE, stream, mode)
        assert wire.finish(stream).errno == errno.ECANCELED
        assert over.wait(5)


def test_the_loss_of_the_host_closes_the_connection(served: Agent, wire: Wire) -> None:
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        over.set()

    with service(serve) as port:
        dial(wire, port)
        wire.connection.close()
        assert over.wait(5)


def test_input_before_the_connection_is_made_breaks_the_stream(wire: Wire) -> None:
    with service(echo) as port:
        stream = wire.next_stream
        wire.next_stream += 1
        payload = bytes([Op.DIAL]) + b"\x5a\x08\0\0\0" + port.to_bytes(8, "little")
        wire.connection.sendall(
            b"".join(
                (len(body) + 5).to_bytes(4, "little") + bytes([kind]) + stream.to_bytes(4, "little") + body
                for kind, body in ((Kind.OPEN, payload), (Kind.DATA, b"\x00early"))
            )
        )
        assert wire.finish(stream).errno == errno.EPROTO
    wire.ping()


def upload(wire: Wire, stream: int, content: bytes) -> Outcome:
    """Send all of it, as the guest allows, while what comes back is taken."""
    outcome, window, at = Outcome(), WINDOW, 0
    while not outcome.done:
        size = min(window, PIECE, len(content) - at)
        if size:
            say(wire, stream, content[at : at + size])
            window, at = window - size, at + size
            if at == len(content):
                end(wire, stream)
            continue
        frame = wire.receive_on(stream)
        if frame.kind == Kind.CREDIT:
            window += int.from_bytes(frame.payload, "little")
        else:
            outcome.take(frame)
            if frame.kind == Kind.DATA:
                wire.allow(stream, len(frame.payload) - 1)
    return outcome


def test_16_mib_there_and_back_at_once(wire: Wire) -> None:
    content = os.urandom(16 << 20)
    with service(echo) as port:
        outcome = upload(wire, dial(wire, port), content)
    assert hashlib.sha256(outcome.out).digest() == hashlib.sha256(content).digest()


def test_a_service_that_does_not_read_holds_up_nobody_else(wire: Wire) -> None:
    release = threading.Event()

    def serve(connection: socket.socket) -> None:
        release.wait(30)
        while connection.recv(PIECE):
            pass

    with service(serve) as port:
        connection = dial(wire, port)
        window = WINDOW
        while window:
            say(wire, connection, bytes(min(window, PIECE)))
            window -= min(window, PIECE)
            try:
                window += int.from_bytes(wire.receive_on(connection, 0.2).payload, "little")
            except TimeoutError:
                continue
        began = time.monotonic()
        assert wire.shell("echo fine").out == b"fine\n"
        assert time.monotonic() - began < 2
        release.set()
        assert wire.receive_on(connection).kind == Kind.CREDIT


def test_a_service_that_floods_waits_for_credit(wire: Wire) -> None:
    def serve(connection: socket.socket) -> None:
        try:
            while True:
                connection.sendall(bytes(PIECE))
        except OSError:
            return

    with service(serve) as port:
        stream = dial(wire, port)
        got = 0
        while got < WINDOW:
            got += len(wire.receive_on(stream).payload) - 1
        assert got == WINDOW
        assert wire.silent(0.3)
        assert wire.shell("echo fine").out == b"fine\n"
        wire.send(Kind.CLOSE, stream, b"\x00")


def test_connections_have_a_bound_of_their_own(wire: Wire) -> None:
    """As many as there may be leave commands all of their places, and the other way round."""
    with service(echo) as port:
        connections = [dial(wire, port) for _ in range(256)]
        assert wire.run(Op.DIAL, ("PORT", port)).errno == errno.EAGAIN
        commands = [wire.start("sleep 20") for _ in range(128)]
        assert all(wire.receive_on(stream).kind == Kind.OPENED for stream in commands)
        assert wire.run(Op.METRICS).errno == errno.EAGAIN
        say(wire, connections[-1], b"still here")
        assert wire.receive_on(connections[-1]).payload == b"\x01still here"
        wire.send(Kind.CLOSE, connections[0], b"\x00")
        assert wire.receive_on(connections[0]).kind == Kind.DONE
        dial(wire, port)


def test_a_service_that_never_answers_is_given_up(wire: Wire) -> None:
    """A full line of those who wait to be accepted drops who comes next, and is silent."""
    with socket.socket() as listener, ExitStack() as crowd:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = crowd.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        began = time.monotonic()
        outcome = wire.run(Op.DIAL, ("PORT", listener.getsockname()[1]))
        spent = time.monotonic() - began
    assert outcome.errno == errno.ETIMEDOUT
    assert 4.9 < spent < 8


def test_ports_tell_what_listens(wire: Wire) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as near,
        socket.create_server(("", 0)) as wide,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as near6,
        socket.create_server(("::", 0), family=socket.AF_INET6) as wide6,
        socket.create_connection(near.getsockname()) as connected,
    ):
        outcome = wire.run(Op.PORTS)
        found = {number(item["PORT"]): bool(number(item["LOOPBACK"])) for item in outcome.items}
        expected = {near: True, wide: False, near6: True, wide6: False}
        assert outcome.errno == 0
        assert len(found) == len(outcome.items)
        assert {listener.getsockname()[1] for listener in expected} <= set(found)
        assert all(found[listener.getsockname()[1]] is near for listener, near in expected.items())
        assert connected.getsockname()[1] not in found
