"""A running machine becomes another one: the gate passed anew, its proof, and what a fork finds again."""

import errno
import struct
from pathlib import Path

import pytest

from .conftest import Agent
from .wire import GATE_FIELDS, NONCE, Kind, Op, Value, Wire, number, pack_fields, pack_frame, unpack_fields

CHILD = "f" * 32
FRESH: list[tuple[str, Value]] = [*GATE_FIELDS[:3], ("MACHINE_ID", CHILD), ("FRESH", 1)]
HELLO_FRAME = pack_frame(Kind.HELLO, 0, NONCE + struct.pack("<I", 1))


def errno_of(gated: dict[str, bytes]) -> int:
    return number(gated["ERRNO"])


# -- the gate of a new life


def test_an_open_gate_is_passed_anew(wire: Wire) -> None:
    assert errno_of(wire.gate_with([*FRESH, ("ENV", "A=new")])) == 0
    assert wire.shell("echo $A").out == b"new\n"
    assert errno_of(wire.gate()) == errno.EALREADY


def test_the_environment_of_the_former_life_is_gone(served: Agent) -> None:
    with served.connect() as wire:
        wire.hello()
        wire.gate(("ENV", "A=old"), ("ENV", "B=old"))
        wire.gate_with([*FRESH, ("ENV", "A=new")])
        assert wire.shell("echo $A-$B-").out == b"new--\n"


def test_a_repeated_fresh_gate_is_answered_as_the_first(wire: Wire) -> None:
    first = wire.gate_with([*FRESH, ("ENV", "A=first")])
    assert errno_of(first) == 0
    assert wire.gate_with([*FRESH, ("ENV", "A=second")]) == first
    assert wire.gate_with([*FRESH[:4], ("ENV", "A=third")]) == first
    assert wire.shell("echo $A").out == b"first\n"


def test_a_fresh_gate_opens_a_closed_one(served: Agent) -> None:
    with served.connect() as wire:
        wire.hello()
        assert errno_of(wire.gate_with(FRESH)) == 0
        assert wire.shell("echo fine").out == b"fine\n"


def test_a_fresh_gate_that_fails_leaves_it_closed(wire: Wire) -> None:
    """The old life is over: nothing is served and no stream speaks until a whole GATE has passed."""
    stream = wire.start("while sleep 0.01; do echo tick; done", name="ticks")
    assert wire.receive_on(stream).kind == Kind.OPENED
    assert errno_of(wire.gate_with([*FRESH, ("ENV", "A=" + "x" * 70_000)])) == errno.E2BIG
    wire.waiting.clear()
    assert wire.silent(0.2)
    assert wire.run(Op.METRICS).errno == errno.ESHUTDOWN
    assert number(wire.hello()["GATE_OPEN"]) == 0
    assert errno_of(wire.gate_with(FRESH)) == 0
    assert wire.run(Op.METRICS).errno == 0


def test_a_malformed_fresh_gate_changes_nothing(wire: Wire) -> None:
    wrongs: list[tuple[str, Value]] = [("FRESH", 2), ("HOOK_MS", 0), ("HOOK_MS", 60_001), ("FRESH", 1)]
    for wrong in [*wrongs, ("BOOT_ID", "x")]:
        assert errno_of(wire.gate_with([*FRESH, wrong])) == errno.EPROTO
    assert wire.run(Op.METRICS).errno == 0


def test_fresh_0_is_as_without(wire: Wire) -> None:
    assert errno_of(wire.gate_with([*FRESH[:4], ("FRESH", 0)])) == errno.EALREADY


def test_what_an_agent_without_a_machine_proves(wire: Wire) -> None:
    """It has renewed nothing, and says so."""
    proof = wire.gate_with(FRESH)
    assert number(proof.pop("SPENT_US")) < 1_000_000
    zeros = ("ERRNO", "ENTROPY_BYTES", "CLOCK_STEP_US", "CLOCK_BACK", "HOOKS_RUN")
    assert proof == dict.fromkeys(zeros, bytes(8))


# -- a fork: the same agent, another host


def greet_as_child(wire: Wire) -> None:
    wire.connection.sendall(HELLO_FRAME + pack_frame(Kind.GATE, 0, pack_fields(FRESH)))
    while (frame := wire.receive()).kind != Kind.WELCOME or frame.payload[:16] != NONCE:
        continue
    assert number(unpack_fields(frame.payload[20:])["GATE_OPEN"]) == 1
    gated = wire.receive()
    assert gated.kind == Kind.GATED
    assert errno_of(unpack_fields(gated.payload)) == 0


def test_processes_of_the_parent_are_the_childs(served: Agent, wire: Wire) -> None:
    stream = wire.start("echo one; read line; echo $line", ("STDIN", 1), name="kept")
    assert wire.receive_on(stream).kind == Kind.OPENED
    assert wire.receive_on(stream).payload == b"\x01one\n"
    wire.connection.close()
    with served.connect() as child:
        greet_as_child(child)
        assert [item["PROCESS_ID"] for item in child.run(Op.PROCESSES).items] == [b"kept"]
        assert child.start("true", name="kept") == child.next_stream - 1
        assert child.finish(child.next_stream - 1).errno == errno.EEXIST
        stream = child.open(Op.ATTACH, ("PROCESS_ID", "kept"))
        child.send(Kind.DATA, stream, b"\x00two\n")
        assert child.finish(stream).out == b"one\ntwo\n"


def test_streams_of_the_parent_are_forgotten(served: Agent, wire: Wire, tmp_path: Path) -> None:
    """Their numbers are free again, and an upload that was under way leaves no file in the child."""
    target = tmp_path / "upload"
    shout = wire.start("while sleep 0.01; do echo tick; done", name="ticks")
    upload = wire.open(Op.WRITE, ("PATH", str(target)))
    assert wire.receive_on(upload).kind == wire.receive_on(shout).kind == Kind.OPENED
    wire.send(Kind.DATA, upload, b"\x00half of it")
    wire.connection.close()
    with served.connect() as child:
        greet_as_child(child)
        assert child.silent(0.2)
        child.next_stream = upload
        assert child.shell("echo mine").out == b"mine\n"
        assert not target.exists()
        assert number(child.run(Op.PROCESSES).items[0]["RUNNING"]) == 1


@pytest.mark.parametrize("cut", [1, 8, 9, 60])
def test_half_a_frame_of_the_parents_host(served: Agent, wire: Wire, cut: int) -> None:
    """It is in the memory of the child; nobody will ever send the rest."""
    upload = pack_frame(Kind.DATA, 7, b"\x00" + b"x" * 100)
    wire.connection.sendall(upload[:cut])
    wire.connection.close()
    with served.connect() as child:
        greet_as_child(child)
        assert child.shell("echo fine").out == b"fine\n"


def test_what_the_parent_had_not_read_yet(wire: Wire) -> None:
    """On a line that goes on: the child's host finds its own WELCOME behind whatever was under way."""
    stream = wire.start("head -c 2000000 /dev/zero")
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.allow(stream, 1_000_000)
    nonce = bytes(range(16, 32))
    hello = pack_frame(Kind.HELLO, 0, nonce + struct.pack("<I", 1))
    wire.connection.sendall(hello + pack_frame(Kind.GATE, 0, pack_fields(FRESH)))
    head, received = bytes([Kind.WELCOME, 0, 0, 0, 0]) + nonce, bytes(wire.buffer)
    while (at := received.find(head)) < 4:
        received += wire.connection.recv(1 << 18)
    wire.buffer = bytearray(received[at - 4 :])
    assert [wire.receive().kind for _ in range(2)] == [Kind.WELCOME, Kind.GATED]
    assert wire.silent(0.2)


# -- freezing, as far as an agent without a machine has anything to freeze


def ask(wire: Wire, kind: Kind, payload: bytes, answer: Kind) -> int:
    wire.send(kind, 0, payload)
    frame = wire.receive_on(0)
    assert frame.kind == answer
    return errno_of(unpack_fields(frame.payload))


def test_freeze_and_thaw_are_answered(wire: Wire) -> None:
    assert ask(wire, Kind.FREEZE, struct.pack("<I", 1000), Kind.FROZEN) == 0
    assert ask(wire, Kind.FREEZE, struct.pack("<I", 30_000), Kind.FROZEN) == 0
    assert wire.shell("echo fine").out == b"fine\n"
    assert ask(wire, Kind.THAW, b"", Kind.THAWED) == 0
    assert ask(wire, Kind.THAW, b"", Kind.THAWED) == 0


@pytest.mark.parametrize("ttl_ms", [0, 30_001, 0xFFFFFFFF])
def test_a_freeze_for_too_long(wire: Wire, ttl_ms: int) -> None:
    assert ask(wire, Kind.FREEZE, struct.pack("<I", ttl_ms), Kind.FROZEN) == errno.EPROTO
    wire.ping()


def test_freeze_is_answered_behind_what_came_before(wire: Wire, tmp_path: Path) -> None:
    """So nothing of the host's is under way any more when the answer comes."""
    stream = wire.open(Op.WRITE, ("PATH", str(tmp_path / "file")))
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.connection.sendall(
        pack_frame(Kind.DATA, stream, b"\x00" + bytes(200_000))
        + pack_frame(Kind.PING, 0, b"12345678")
        + pack_frame(Kind.FREEZE, 0, struct.pack("<I", 1000))
    )
    assert [wire.receive_on(0).kind for _ in range(2)] == [Kind.PONG, Kind.FROZEN]


# -- standing still, of which an agent without a machine has the words only


def test_still_and_go(wire: Wire) -> None:
    assert ask(wire, Kind.STILL, struct.pack("<I", 900), Kind.STILLED) == 0
    assert wire.shell("echo fine").out == b"fine\n"
    wire.send(Kind.GO, 0)
    wire.send(Kind.GO, 0)
    wire.ping()


@pytest.mark.parametrize("ttl_ms", [0, 901, 0xFFFFFFFF])
def test_still_for_too_long(wire: Wire, ttl_ms: int) -> None:
    assert ask(wire, Kind.STILL, struct.pack("<I", ttl_ms), Kind.STILLED) == errno.EPROTO
    wire.ping()


def test_still_is_answered_behind_a_freeze(wire: Wire) -> None:
    wire.connection.sendall(
        pack_frame(Kind.FREEZE, 0, struct.pack("<I", 1000))
        + pack_frame(Kind.STILL, 0, struct.pack("<I", 100))
    )
    assert [wire.receive_on(0).kind for _ in range(2)] == [Kind.FROZEN, Kind.STILLED]
