"""HELLO, the gate, SEAL, and what happens to a session whose bytes go wrong."""

import errno
import struct
import time

import pytest

from .conftest import Agent
from .wire import GATE_FIELDS, NONCE, Kind, Op, Value, Wire, number, pack_fields, pack_frame, unpack_fields

HELLO_FRAME = pack_frame(Kind.HELLO, 0, NONCE + struct.pack("<I", 1))


def test_hello_and_gate_sent_back_to_back(served: Agent) -> None:
    with served.connect() as wire:
        wire.connection.sendall(HELLO_FRAME + pack_frame(Kind.GATE, 0, pack_fields(GATE_FIELDS)))
        welcome = wire.receive()
        assert (welcome.kind, welcome.payload[:16]) == (Kind.WELCOME, NONCE)
        told = unpack_fields(welcome.payload[20:])
        assert number(told["GATE_OPEN"]) == 0 and told["AGENT"] and told["KERNEL"]
        gated = wire.receive()
        assert gated.kind == Kind.GATED
        assert number(unpack_fields(gated.payload)["ERRNO"]) == 0


def test_nothing_is_served_before_the_gate(served: Agent) -> None:
    with served.connect() as wire:
        wire.hello()
        wire.ping()
        for operation in (Op.EXEC, Op.READ, Op.METRICS):
            assert wire.run(operation).errno == errno.ESHUTDOWN


def test_an_open_gate_stays_as_it_is(wire: Wire) -> None:
    another = [*GATE_FIELDS[:3], ("MACHINE_ID", "f" * 32), ("ENV", "A=changed")]
    assert number(wire.gate_with(another)["ERRNO"]) == errno.EALREADY
    assert wire.shell("echo $A").out == b"\n"
    assert number(wire.hello()["GATE_OPEN"]) == 1


def test_a_repeated_gate_is_answered_as_the_first(wire: Wire) -> None:
    assert number(wire.gate(("ENV", "A=changed"))["ERRNO"]) == 0
    assert wire.shell("echo $A").out == b"\n"
    assert number(wire.hello()["GATE_OPEN"]) == 1


WRONG_GATES: dict[str, list[tuple[str, Value]]] = {
    "no entropy": GATE_FIELDS[1:],
    "no clock": [GATE_FIELDS[0], *GATE_FIELDS[2:]],
    "no machine id": GATE_FIELDS[:3],
    "little entropy": [("ENTROPY", bytes(31)), *GATE_FIELDS[1:]],
    "much entropy": [("ENTROPY", bytes(513)), *GATE_FIELDS[1:]],
    "hostname of no length": [*GATE_FIELDS[:2], ("HOSTNAME", ""), GATE_FIELDS[3]],
    "long hostname": [*GATE_FIELDS[:2], ("HOSTNAME", "h" * 65), GATE_FIELDS[3]],
    "hostname that is no text": [*GATE_FIELDS[:2], ("HOSTNAME", b"\xff"), GATE_FIELDS[3]],
    "machine id in capitals": [*GATE_FIELDS[:3], ("MACHINE_ID", "0123456789ABCDEF" * 2)],
    "entropy twice": [*GATE_FIELDS, GATE_FIELDS[0]],
    "environment without a name": [*GATE_FIELDS, ("ENV", "=x")],
    "environment without a value": [*GATE_FIELDS, ("ENV", "NAME")],
    "field of another frame": [*GATE_FIELDS, ("PATH", "/")],
    "address without prefix": [*GATE_FIELDS, ("NET_ADDRESS", "10.0.2.15")],
    "prefix too long": [*GATE_FIELDS, ("NET_ADDRESS", "10.0.2.15/33")],
    "prefix of nothing": [*GATE_FIELDS, ("NET_ADDRESS", "10.0.2.15/")],
    "address of words": [*GATE_FIELDS, ("NET_ADDRESS", "ten.0.2.15/24")],
    "gateway alone": [*GATE_FIELDS, ("NET_GATEWAY", "10.0.2.2")],
    "wrong hardware address": [
        *GATE_FIELDS,
        ("NET_ADDRESS", "10.0.2.15/24"),
        ("NET_MAC", "52:54:00:12:34:5g"),
    ],
}


@pytest.mark.parametrize("name", WRONG_GATES)
def test_a_wrong_gate_stays_closed(served: Agent, name: str) -> None:
    with served.connect() as wire:
        wire.hello()
        assert number(wire.gate_with(WRONG_GATES[name])["ERRNO"]) == errno.EPROTO
        assert number(wire.hello()["GATE_OPEN"]) == 0


def test_a_full_gate_opens(served: Agent) -> None:
    with served.connect() as wire:
        wire.hello()
        network: list[tuple[str, Value]] = [
            ("NET_ADDRESS", "10.0.2.15/24"), ("NET_GATEWAY", "10.0.2.2"), ("NET_DNS", "10.0.2.3"),
            ("NET_MAC", "52:54:00:12:34:56"),
        ]  # fmt: skip
        assert number(wire.gate(*network, ("ENV", "A=1"), ("ENV", "B=2"))["ERRNO"]) == 0
        assert wire.shell("echo $A$B").out == b"12\n"


def test_environment_of_the_gate_has_a_bound(served: Agent) -> None:
    with served.connect() as wire:
        wire.hello()
        assert number(wire.gate(("ENV", "A=" + "x" * 70_000))["ERRNO"]) == errno.E2BIG


def test_seal_closes_the_gate_and_silences_streams(wire: Wire) -> None:
    stream = wire.start("while sleep 0.01; do echo tick; done")
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.seal()
    wire.waiting.clear()
    assert wire.silent(0.3)
    assert wire.run(Op.METRICS).errno == errno.ESHUTDOWN
    assert number(wire.gate()["ERRNO"]) == 0
    assert wire.receive_on(stream).payload[:6] == b"\x01tick\n"


def test_seal_forgets_what_has_ended(wire: Wire) -> None:
    assert wire.shell("echo before").out == b"before\n"
    stream = wire.start("sleep 100", name="runs")
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.seal()
    wire.waiting.clear()
    assert number(wire.gate()["ERRNO"]) == 0
    assert [item["PROCESS_ID"] for item in wire.run(Op.PROCESSES).items] == [b"runs"]


def test_processes_outlive_the_session(served: Agent, wire: Wire) -> None:
    stream = wire.start("echo one; read line; echo $line", ("STDIN", 1), name="survivor")
    assert wire.receive_on(stream).kind == Kind.OPENED
    assert wire.receive_on(stream).payload == b"\x01one\n"
    wire.connection.close()
    with served.connect() as second:
        second.hello()
        second.next_stream = 100
        stream = second.open(Op.ATTACH, ("PROCESS_ID", "survivor"))
        second.send(Kind.DATA, stream, b"\x00two\n")
        assert second.finish(stream).out == b"one\ntwo\n"


def test_hello_forgets_every_stream(wire: Wire) -> None:
    stream = wire.start("sleep 0.2; echo late; sleep 5", name="s")
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.hello()
    assert wire.silent(0.5)
    items = wire.run(Op.PROCESSES).items
    assert [item["PROCESS_ID"] for item in items] == [b"s"] and number(items[0]["RUNNING"]) == 1


@pytest.mark.parametrize("cut", [1, 4, 9, 20])
def test_hello_after_a_session_cut_in_mid_frame(served: Agent, wire: Wire, cut: int) -> None:
    """The host lost its place and begins anew on the same bytes: some repetition of HELLO is heard."""
    frame = pack_frame(Kind.OPEN, 7, bytes([Op.METRICS]) + b"x" * 100)
    wire.connection.sendall(frame[:cut])
    began = time.monotonic()
    welcomed = False
    while not welcomed and time.monotonic() - began < 6:
        wire.connection.sendall(HELLO_FRAME)
        try:
            welcomed = wire.receive(1.5).kind == Kind.WELCOME
        except TimeoutError:
            continue
    assert welcomed
    wire.ping()


def test_a_partial_frame_that_does_not_grow_ends_the_session(wire: Wire) -> None:
    wire.connection.sendall(pack_frame(Kind.PING, 0, b"12345678")[:-1])
    time.sleep(1.3)
    wire.connection.sendall(HELLO_FRAME)
    assert wire.receive(1.0).kind == Kind.WELCOME


def test_a_slow_frame_that_grows_is_taken(wire: Wire) -> None:
    for byte in pack_frame(Kind.PING, 0, b"12345678")[:4]:
        wire.connection.sendall(bytes([byte]))
        time.sleep(0.5)
    wire.connection.sendall(pack_frame(Kind.PING, 0, b"12345678")[4:])
    assert wire.receive(1.0).kind == Kind.PONG


SESSION_ERRORS = {
    "length too small": struct.pack("<IBI", 4, Kind.PING, 0),
    "length too large": struct.pack("<IBI", 1_048_577, Kind.OPEN, 1),
    "type 0": pack_frame(0, 0),
    "unknown type": pack_frame(0x1A, 1),
    "type between": pack_frame(0x0D, 0),
    "type of the guest": pack_frame(Kind.OPENED, 1),
    "ping of 7 bytes": pack_frame(Kind.PING, 0, bytes(7)),
    "ping on a stream": pack_frame(Kind.PING, 1, bytes(8)),
    "hello of another size": pack_frame(Kind.HELLO, 0, bytes(21)),
    "seal with a payload": pack_frame(Kind.SEAL, 0, b"x"),
    "freeze of 3 bytes": pack_frame(Kind.FREEZE, 0, bytes(3)),
    "freeze of 8 bytes": pack_frame(Kind.FREEZE, 0, bytes(8)),
    "freeze on a stream": pack_frame(Kind.FREEZE, 1, bytes(4)),
    "thaw with a payload": pack_frame(Kind.THAW, 0, b"x"),
    "answer to a freeze": pack_frame(Kind.FROZEN, 0),
    "a still without its time": pack_frame(Kind.STILL, 0, b"x"),
    "go with a payload": pack_frame(Kind.GO, 0, b"x"),
    "answer to a still": pack_frame(Kind.STILLED, 0),
    "open on the session": pack_frame(Kind.OPEN, 0, bytes([Op.METRICS])),
    "open of nothing": pack_frame(Kind.OPEN, 1),
    "data on the session": pack_frame(Kind.DATA, 0, b"\x00x"),
    "data of no bytes": pack_frame(Kind.DATA, 1, b"\x00"),
    "end without channel": pack_frame(Kind.EOF, 1),
    "credit of 8 bytes": pack_frame(Kind.CREDIT, 1, bytes(8)),
    "resize of 2 bytes": pack_frame(Kind.RESIZE, 1, bytes(2)),
    "signal of 2 bytes": pack_frame(Kind.SIGNAL, 1, bytes(2)),
    "close without mode": pack_frame(Kind.CLOSE, 1),
    "garbage": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("name", SESSION_ERRORS)
def test_an_error_of_the_session_ends_it(wire: Wire, name: str) -> None:
    """Nothing behind the error is answered, until a HELLO that is found among whatever bytes."""
    stream = wire.start("sleep 5", name="s")
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.connection.sendall(
        SESSION_ERRORS[name] + pack_frame(Kind.PING, 0, bytes(8)) + b"\x19\x00" + HELLO_FRAME[:7]
    )
    assert wire.silent(0.2)
    wire.connection.sendall(HELLO_FRAME)
    assert wire.receive().kind == Kind.WELCOME
    assert wire.silent(0.1)
    assert wire.run(Op.PROCESSES).errno == 0


def test_open_of_a_stream_that_is_open(wire: Wire) -> None:
    wire.next_stream = 5
    stream = wire.start("sleep 5")
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.send(Kind.OPEN, stream, bytes([Op.METRICS]))
    wire.send(Kind.PING, 0, bytes(8))
    assert wire.silent(0.2)


def test_frames_of_unknown_streams_are_ignored(wire: Wire) -> None:
    for kind, payload in (
        (Kind.DATA, b"\x00x"),
        (Kind.EOF, b"\x00"),
        (Kind.CREDIT, bytes(4)),
        (Kind.SIGNAL, b"\x09"),
        (Kind.CLOSE, b"\x01"),
    ):
        wire.send(kind, 99, payload)
    wire.ping()


EXEC_FIELDS: list[tuple[str, Value]] = [("PROCESS_ID", "p"), ("ARG", "true")]

WRONG_OPENS: dict[str, tuple[int, list[tuple[str, Value]]]] = {
    "operation 0": (0, []),
    "operation 18": (18, []),
    "operation 255": (255, []),
    "no process id": (Op.EXEC, EXEC_FIELDS[1:]),
    "empty process id": (Op.EXEC, [("PROCESS_ID", ""), ("ARG", "true")]),
    "long process id": (Op.EXEC, [("PROCESS_ID", "p" * 65), ("ARG", "true")]),
    "process id with NUL": (Op.EXEC, [("PROCESS_ID", "p\0"), ("ARG", "true")]),
    "process id that is no text": (Op.EXEC, [("PROCESS_ID", b"\xc0\x80"), ("ARG", "true")]),
    "process id of a surrogate": (Op.EXEC, [("PROCESS_ID", b"\xed\xa0\x80"), ("ARG", "true")]),
    "process id beyond Unicode": (Op.EXEC, [("PROCESS_ID", b"\xf4\x90\x80\x80"), ("ARG", "true")]),
    "process id cut in a letter": (Op.EXEC, [("PROCESS_ID", b"\xe2\x82"), ("ARG", "true")]),
    "process id twice": (Op.EXEC, [*EXEC_FIELDS, ("PROCESS_ID", "q")]),
    "nothing to run": (Op.EXEC, EXEC_FIELDS[:1]),
    "argument and shell": (Op.EXEC, [*EXEC_FIELDS, ("SHELL", "true")]),
    "argument with NUL": (Op.EXEC, [*EXEC_FIELDS, ("ARG", "a\0b")]),
    "environment without a name": (Op.EXEC, [*EXEC_FIELDS, ("ENV", "=b")]),
    "environment without a value": (Op.EXEC, [*EXEC_FIELDS, ("ENV", "ab")]),
    "flag that is 2": (Op.EXEC, [*EXEC_FIELDS, ("STDIN", 2)]),
    "number of 4 bytes": (Op.EXEC, [*EXEC_FIELDS, ("TIMEOUT_MS", bytes(4))]),
    "rows alone": (Op.EXEC, [*EXEC_FIELDS, ("ROWS", 24)]),
    "no columns": (Op.EXEC, [*EXEC_FIELDS, ("ROWS", 24), ("COLS", 0)]),
    "too many columns": (Op.EXEC, [*EXEC_FIELDS, ("ROWS", 24), ("COLS", 65_536)]),
    "field of an answer": (Op.EXEC, [*EXEC_FIELDS, ("PID", 1)]),
    "field of another operation": (Op.EXEC, [*EXEC_FIELDS, ("PATH", "/")]),
    "signal 0": (4, [("PROCESS_ID", "p"), ("SIGNAL_NUMBER", 0)]),
    "signal 65": (4, [("PROCESS_ID", "p"), ("SIGNAL_NUMBER", 65)]),
    "no path": (Op.READ, []),
    "empty path": (Op.READ, [("PATH", "")]),
    "path with NUL": (Op.READ, [("PATH", "/a\0b")]),
    "long path": (Op.READ, [("PATH", "/" * 4096)]),
    "empty user": (Op.READ, [("PATH", "/"), ("USER", "")]),
    "negative offset": (Op.READ, [("PATH", "/"), ("OFFSET", 1 << 63)]),
    "depth 0": (7, [("PATH", "/"), ("DEPTH", 0)]),
    "depth 65": (7, [("PATH", "/"), ("DEPTH", 65)]),
    "mode of a file type": (9, [("PATH", "/tmp"), ("FILE_MODE", 0o100644)]),
    "no mode": (12, [("PATH", "/tmp")]),
    "input for nobody": (Op.INPUT, []),
    "last that is 2": (Op.INPUT, [("PROCESS_ID", "p"), ("LAST", 2)]),
    "port 0": (Op.DIAL, [("PORT", 0)]),
    "port 65536": (Op.DIAL, [("PORT", 65_536)]),
    "no port": (Op.DIAL, []),
    "fields of an operation without": (Op.METRICS, [("PATH", "/")]),
}


@pytest.mark.parametrize("name", WRONG_OPENS)
def test_a_wrong_open_is_answered_on_its_stream(wire: Wire, name: str) -> None:
    operation, fields = WRONG_OPENS[name]
    assert wire.run(operation, *fields).errno == errno.EPROTO
    wire.ping()


@pytest.mark.parametrize(
    "tail", [b"\x21", b"\x21\x05\x00\x00\x00abcd", b"\x21\xff\xff\xff\xffabcd", b"\x00" * 5]
)
def test_bytes_that_are_no_fields(wire: Wire, tail: bytes) -> None:
    wire.send(Kind.OPEN, 1, bytes([Op.EXEC]) + pack_fields(EXEC_FIELDS) + tail)
    assert wire.finish(1).errno == errno.EPROTO


WRONG_STREAM_FRAMES = {
    "data on channel 1": (Kind.DATA, b"\x01x"),
    "data beyond the window": (Kind.DATA, b"\x00" + bytes(262_145)),
    "end of channel 1": (Kind.EOF, b"\x01"),
    "resize to nothing": (Kind.RESIZE, bytes(4)),
    "signal 0": (Kind.SIGNAL, b"\x00"),
    "signal 65": (Kind.SIGNAL, b"\x41"),
    "close mode 2": (Kind.CLOSE, b"\x02"),
}


@pytest.mark.parametrize("name", WRONG_STREAM_FRAMES)
def test_a_wrong_frame_ends_its_stream_alone(wire: Wire, name: str) -> None:
    stream = wire.start("sleep 5", ("STDIN", 1), name="s")
    other = wire.start("sleep 0.3; echo fine")
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.send(WRONG_STREAM_FRAMES[name][0], stream, WRONG_STREAM_FRAMES[name][1])
    assert wire.finish(stream).errno == errno.EPROTO
    assert wire.finish(other).out == b"fine\n"
    assert number(next(i for i in wire.run(Op.PROCESSES).items if i["PROCESS_ID"] == b"s")["RUNNING"]) == 1


def test_input_for_what_takes_none(wire: Wire) -> None:
    stream = wire.start("sleep 5")
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.send(Kind.DATA, stream, b"\x00x")
    assert wire.finish(stream).errno == errno.EPROTO


def test_input_behind_its_end(wire: Wire) -> None:
    stream = wire.start("sleep 5", ("STDIN", 1))
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.send(Kind.EOF, stream, b"\x00")
    wire.send(Kind.EOF, stream, b"\x00")
    assert wire.finish(stream).errno == errno.EPROTO


def test_streams_have_a_bound(wire: Wire) -> None:
    streams = [wire.start("sleep 10") for _ in range(128)]
    assert all(wire.receive_on(stream).kind == Kind.OPENED for stream in streams)
    assert wire.run(Op.METRICS).errno == errno.EAGAIN
    wire.send(Kind.CLOSE, streams[0], b"\x01")
    assert wire.receive_on(streams[0]).kind == Kind.DONE
    assert wire.run(Op.METRICS).errno == 0


def test_the_next_connection_waits_for_the_first_to_end(served: Agent, wire: Wire) -> None:
    with served.connect() as second:
        second.connection.sendall(HELLO_FRAME)
        assert second.silent(0.2)
        wire.connection.close()
        assert second.receive().kind == Kind.WELCOME
