"""Credit, back-pressure and bulk: no stream holds up another, and nothing is lost or repeated."""

import errno
import hashlib
import os
import time
from pathlib import Path

from .conftest import Agent
from .wire import WINDOW, Kind, Op, Outcome, Wire, number, pack_frame

SIZE = 64 << 20
PIECE = 65_536


def take_without_credit(wire: Wire, stream: int) -> int:
    """Everything that the guest sends on the stream by itself."""
    got = 0
    while True:
        try:
            frame = wire.receive_on(stream, 0.5)
        except TimeoutError:
            return got
        assert frame.kind in (Kind.OPENED, Kind.DATA)
        got += len(frame.payload) - 1 if frame.kind == Kind.DATA else 0


def test_a_stream_without_credit_waits_and_holds_up_nobody(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(4 << 20))
    stuck = [wire.start("yes"), wire.open(Op.READ, ("PATH", str(tmp_path / "big")))]
    assert [take_without_credit(wire, stream) for stream in stuck] == [WINDOW, WINDOW]
    for _ in range(20):
        began = time.monotonic()
        assert wire.shell("echo fine").out == b"fine\n"
        wire.ping()
        assert time.monotonic() - began < 1
    for stream in stuck:
        wire.allow(stream, 1)
        assert len(wire.receive_on(stream).payload) == 2
        wire.allow(stream, 70_000)
        assert take_without_credit(wire, stream) == 70_000
        wire.send(Kind.CLOSE, stream, b"\x01")
        assert wire.finish(stream).errno == errno.ECANCELED


def busy_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def test_a_host_that_does_not_read_loses_nothing(served: Agent, wire: Wire) -> None:
    """The socket is full of answers while requests keep coming: the agent rests, then answers them all."""
    stream = wire.start("seq 1000000")
    for _ in range(40):
        wire.allow(stream, 1 << 20)
    time.sleep(0.5)
    pings = 10_000
    wire.connection.sendall(pack_frame(Kind.PING, 0, bytes(8)) * pings)
    time.sleep(0.2)
    before = busy_seconds(served.process.pid)
    time.sleep(1.5)
    assert busy_seconds(served.process.pid) - before < 0.1
    outcome = Outcome()
    answered = 0
    while not outcome.done or answered < pings:
        frame = wire.receive()
        if frame.stream == 0:
            answered += 1
        else:
            outcome.take(frame)
    assert (
        hashlib.sha256(outcome.out).digest()
        == hashlib.sha256(b"".join(b"%d\n" % i for i in range(1, 1_000_001))).digest()
    )


FAIR, ENOUGH = 8 << 20, 1 << 30


def test_fast_streams_share(wire: Wire) -> None:
    streams = [wire.start("yes") for _ in range(4)]
    got = dict.fromkeys(streams, 0)
    for stream in streams:
        wire.allow(stream, 1 << 30)
    while min(got.values()) <= FAIR and sum(got.values()) < ENOUGH:
        frame = wire.receive()
        if frame.kind == Kind.DATA:
            if not min(got.values()):
                got = {stream: min(count, 1) for stream, count in got.items()}  # counted once all four run
            got[frame.stream] += len(frame.payload)
    assert min(got.values()) > FAIR, "nobody starves, however few processors the programs have"


def test_input_is_allowed_as_it_is_taken(wire: Wire) -> None:
    """A program that does not read leaves its host without credit; one that does gets the rest."""
    stream = wire.start("sleep 0.5; wc -c", ("STDIN", 1))
    assert wire.receive_on(stream).kind == Kind.OPENED
    window, sent, total = WINDOW, 0, 3 << 20
    waited = 0.0
    while sent < total:
        while window < PIECE:
            began = time.monotonic()
            frame = wire.receive_on(stream)
            waited = max(waited, time.monotonic() - began)
            assert frame.kind == Kind.CREDIT
            window += int.from_bytes(frame.payload, "little")
        wire.send(Kind.DATA, stream, b"\x00" + bytes(PIECE))
        window -= PIECE
        sent += PIECE
    wire.send(Kind.EOF, stream, b"\x00")
    assert waited > 0.2
    assert int(wire.finish(stream).out) == total


def upload(wire: Wire, path: Path, content: bytes, piece: int) -> Outcome:
    stream = wire.open(Op.WRITE, ("PATH", str(path)))
    assert wire.receive_on(stream).kind == Kind.OPENED
    window = WINDOW
    for at in range(0, len(content), piece):
        part = content[at : at + piece]
        while window < len(part):
            frame = wire.receive_on(stream)
            if frame.kind == Kind.DONE:
                raise AssertionError(frame)
            window += int.from_bytes(frame.payload, "little")
        wire.send(Kind.DATA, stream, b"\x00" + part)
        window -= len(part)
    wire.send(Kind.EOF, stream, b"\x00")
    return wire.finish(stream)


def test_64_mib_there_and_back(wire: Wire, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * (SIZE >> 20)
    assert upload(wire, tmp_path / "file", content, PIECE).number("SIZE") == SIZE
    assert (tmp_path / "file").read_bytes() == content
    back = wire.run(Op.READ, ("PATH", str(tmp_path / "file")))
    assert back.ended and back.opened is not None and number(back.opened["SIZE"]) == SIZE
    assert hashlib.sha256(back.out).digest() == hashlib.sha256(content).digest()


def test_uneven_pieces(wire: Wire, tmp_path: Path) -> None:
    content = os.urandom(2_000_003)
    for piece in (1_021, 65_537, 262_144):
        upload(wire, tmp_path / "file", content, piece)
        assert (tmp_path / "file").read_bytes() == content
        assert wire.run(Op.READ, ("PATH", str(tmp_path / "file"))).out == content


def memory_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def test_memory_stays_flat(wire: Wire, tmp_path: Path) -> None:
    agent = int(wire.shell("echo $PPID").out)
    before = memory_kib(agent)
    upload(wire, tmp_path / "file", bytes(SIZE), PIECE)
    assert len(wire.run(Op.READ, ("PATH", str(tmp_path / "file"))).out) == SIZE
    assert len(wire.shell(f"head -c {SIZE} /dev/zero").out) == SIZE
    assert memory_kib(agent) - before < 2_048
