"""Terminals."""

import struct
import time

from .wire import Kind, Op, Outcome, Wire, number, unpack_fields

SIZE = (("ROWS", 24), ("COLS", 80))


def read_until(wire: Wire, stream: int, outcome: Outcome, text: bytes) -> None:
    while text not in outcome.out:
        frame = wire.receive_on(stream)
        outcome.take(frame)
        wire.allow(stream, len(frame.payload) - 1)


def test_it_is_a_terminal(wire: Wire) -> None:
    outcome = wire.shell(
        "tty; stty size; echo $TERM; echo err >&2; test -t 0 && test -t 2 && echo yes", *SIZE
    )
    lines = outcome.out.split(b"\r\n")
    assert lines[0].startswith(b"/dev/pts/")
    assert lines[1:5] == [b"24 80", b"xterm-256color", b"err", b"yes"]
    assert outcome.err == b""


def test_it_controls_the_session(wire: Wire) -> None:
    assert b"ok" in wire.shell("echo ok > /dev/tty", *SIZE).out


def test_typing_and_resizing(wire: Wire) -> None:
    stream = wire.start("stty -echo; echo ready; read x; stty size; echo got $x", *SIZE)
    outcome = Outcome()
    read_until(wire, stream, outcome, b"ready")
    wire.send(Kind.RESIZE, stream, struct.pack("<HH", 50, 132))
    wire.send(Kind.DATA, stream, b"\x00word\n")
    read_until(wire, stream, outcome, b"got word\r\n")
    assert b"50 132\r\n" in outcome.out


def test_interrupt_by_key(wire: Wire) -> None:
    stream = wire.start("echo ready; sleep 100", *SIZE)
    outcome = Outcome()
    read_until(wire, stream, outcome, b"ready")
    wire.send(Kind.DATA, stream, b"\x00\x03")
    assert wire.finish(stream).number("EXIT_CODE") == 130


def test_end_of_input_is_typed(wire: Wire) -> None:
    stream = wire.start("stty -echo; echo ready; wc -l", *SIZE)
    outcome = Outcome()
    read_until(wire, stream, outcome, b"ready")
    wire.send(Kind.DATA, stream, b"\x00a\nb\n")
    wire.send(Kind.EOF, stream, b"\x00")
    assert wire.finish(stream).out.strip() == b"2"


def test_much_output_arrives_whole(wire: Wire) -> None:
    outcome = wire.shell("stty -opost; seq 200000; echo end", *SIZE)
    assert outcome.out.split() == [*(str(i).encode() for i in range(1, 200_001)), b"end"]


def test_last_words_with_a_child_in_the_background(wire: Wire) -> None:
    began = time.monotonic()
    for _ in range(20):
        outcome = wire.shell("trap '' HUP; sleep 10 & seq 2000; echo end", *SIZE)
        assert outcome.out.endswith(b"2000\r\nend\r\n")
    assert time.monotonic() - began < 9


def test_detach_and_come_back(wire: Wire) -> None:
    stream = wire.start("stty -echo; echo ready; read x; echo got $x", *SIZE, name="t")
    outcome = Outcome()
    read_until(wire, stream, outcome, b"ready")
    wire.hello()
    stream = wire.open(Op.ATTACH, ("PROCESS_ID", "t"))
    assert wire.receive_on(stream).kind == Kind.OPENED
    assert number(wire.run(Op.PROCESSES).items[0]["TTY"]) == 1
    wire.send(Kind.DATA, stream, b"\x00again\n")
    assert wire.finish(stream).out == b"ready\r\ngot again\r\n"


def test_hang_up_by_signal(wire: Wire) -> None:
    stream = wire.start("sleep 100", *SIZE)
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.send(Kind.SIGNAL, stream, b"\x01")
    assert wire.finish(stream).number("EXIT_CODE") == 129


def place(wire: Wire, stream: int) -> dict[str, int]:
    """Where an attached stream begins."""
    opened = wire.receive_on(stream)
    assert opened.kind == Kind.OPENED
    fields = unpack_fields(opened.payload)
    names = ("OFFSET", "SIZE", "ROWS", "COLS")
    return {name: number(fields[name]) for name in names if name in fields}


def test_who_comes_back_is_told_where_and_how_large_it_is(wire: Wire) -> None:
    stream = wire.start("stty -opost -echo; seq 20000; echo ready; read x", *SIZE, name="t")
    outcome = Outcome()
    read_until(wire, stream, outcome, b"ready\n")
    wire.send(Kind.RESIZE, stream, struct.pack("<HH", 50, 132))
    size = len("".join(f"{each}\n" for each in range(1, 20_001))) + len("ready\n")
    attached = wire.open(Op.ATTACH, ("PROCESS_ID", "t"))
    assert place(wire, attached) == {"OFFSET": size - 65_536, "SIZE": 65_536, "ROWS": 50, "COLS": 132}
    wire.send(Kind.DATA, attached, b"\x00\n")
    assert wire.finish(attached).out.endswith(b"ready\n")
    ended = wire.open(Op.ATTACH, ("PROCESS_ID", "t"))
    assert set(place(wire, ended)) == {"OFFSET", "SIZE"}
    quiet = wire.open(Op.ATTACH, ("PROCESS_ID", "t"), ("QUIET", 1))
    assert place(wire, quiet) == {}
