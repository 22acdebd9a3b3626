"""INPUT: bytes for a process that runs already; and what the streams say of a process's input."""

import errno

import pytest

from .conftest import Agent
from .wire import WINDOW, Fields, Kind, Op, Outcome, Wire, number


def running(wire: Wire, text: str, *, given: bool = True, name: str = "p") -> None:
    """Start a process and let its stream go."""
    stream = wire.start(text, ("STDIN", int(given)), ("DETACHED", 1), name=name)
    assert number(wire.finish_opened(stream)["STDIN"]) == given
    wire.send(Kind.CLOSE, stream, b"\x00")
    assert wire.finish(stream).errno == errno.ECANCELED


def feed(wire: Wire, content: bytes, *, last: bool = False, name: str = "p") -> Outcome:
    stream = wire.open(Op.INPUT, ("PROCESS_ID", name), ("LAST", int(last)))
    if content:
        wire.send(Kind.DATA, stream, b"\x00" + content)
    wire.send(Kind.EOF, stream, b"\x00")
    return wire.finish(stream)


def listed(wire: Wire, name: str = "p") -> Fields:
    return next(item for item in wire.run(Op.PROCESSES).items if item["PROCESS_ID"] == name.encode())


def test_input_comes_in_parts_and_ends(wire: Wire) -> None:
    running(wire, "cat")
    outcome = feed(wire, b"one ")
    assert (outcome.errno, outcome.opened) == (0, {})
    assert feed(wire, b"").errno == 0
    assert number(listed(wire)["STDIN"]) == 1
    assert feed(wire, b"two", last=True).errno == 0
    assert wire.run(Op.ATTACH, ("PROCESS_ID", "p")).out == b"one two"


def test_what_was_taken_is_not_lost_with_its_stream(wire: Wire) -> None:
    """Much more than the pipe holds: DONE comes when the last byte is in it."""
    running(wire, "sleep 0.3; wc -c")
    assert feed(wire, bytes(WINDOW), last=True).errno == 0
    assert int(wire.run(Op.ATTACH, ("PROCESS_ID", "p")).out) == WINDOW


def test_a_process_that_does_not_read_holds_its_input_up(wire: Wire) -> None:
    running(wire, "sleep 100")
    stream = wire.open(Op.INPUT, ("PROCESS_ID", "p"))
    assert wire.finish_opened(stream) == {}
    wire.send(Kind.DATA, stream, b"\x00" + bytes(WINDOW))
    wire.send(Kind.EOF, stream, b"\x00")
    while not wire.silent(0.3):
        assert wire.waiting[0].pop().kind == Kind.CREDIT
    assert wire.run(Op.KILL, ("PROCESS_ID", "p"), ("SIGNAL_NUMBER", 9)).errno == 0
    assert wire.finish(stream).errno == errno.EPIPE


def test_output_that_nobody_reads_holds_no_input_up(wire: Wire) -> None:
    running(wire, "cat; echo end >&2")
    for _ in range(20):
        assert feed(wire, bytes(WINDOW)).errno == 0
    assert feed(wire, b"", last=True).errno == 0
    assert wire.run(Op.ATTACH, ("PROCESS_ID", "p")).err == b"end\n"


@pytest.mark.parametrize(
    ("text", "given", "error"),
    [
        ("sleep 100", False, errno.EBADF),
        ("sleep 0.05; exit 3", True, errno.EPIPE),
        ("exec <&-; sleep 100", True, errno.EPIPE),
    ],
)
def test_a_process_that_takes_none(wire: Wire, text: str, given: bool, error: int) -> None:
    running(wire, text, given=given)
    wire.shell("sleep 0.1", name="pause")
    outcome = feed(wire, b"x")
    assert outcome.errno == error and outcome.done["MESSAGE"]
    assert number(listed(wire)["STDIN"]) == 0
    assert feed(wire, b"", name="nobody").errno == errno.ESRCH


def test_input_after_its_end(wire: Wire) -> None:
    running(wire, "cat; sleep 100")
    assert feed(wire, b"", last=True).errno == 0
    assert feed(wire, b"x").errno == errno.EPIPE
    assert wire.run(Op.KILL, ("PROCESS_ID", "p"), ("SIGNAL_NUMBER", 9)).errno == 0


def test_a_process_that_ends_in_the_middle(wire: Wire) -> None:
    running(wire, "read line; exit 4")
    stream = wire.open(Op.INPUT, ("PROCESS_ID", "p"))
    assert wire.finish_opened(stream) == {}
    wire.send(Kind.DATA, stream, b"\x00go\n")
    assert wire.finish(stream).errno == errno.EPIPE


def test_a_stream_that_is_closed_ends_nothing(wire: Wire) -> None:
    running(wire, "cat")
    stream = wire.open(Op.INPUT, ("PROCESS_ID", "p"), ("LAST", 1))
    assert wire.finish_opened(stream) == {}
    wire.send(Kind.DATA, stream, b"\x00one ")
    wire.send(Kind.CLOSE, stream, b"\x00")
    assert wire.finish(stream).errno == errno.ECANCELED
    assert feed(wire, b"two", last=True).errno == 0
    assert wire.run(Op.ATTACH, ("PROCESS_ID", "p")).out == b"one two"


def test_a_terminal_is_typed_into(wire: Wire) -> None:
    stream = wire.start("stty -echo; cat; echo end", ("ROWS", 24), ("COLS", 80), name="p")
    assert number(wire.finish_opened(stream)["STDIN"]) == 1
    wire.shell("sleep 0.2", name="pause")
    assert feed(wire, b"line\n").errno == 0
    assert feed(wire, b"", last=True).errno == 0
    assert wire.finish(stream).out == b"line\r\nend\r\n"


def test_another_session_knows_whether_input_is_taken(served: Agent, wire: Wire) -> None:
    running(wire, "cat", name="fed")
    running(wire, "sleep 100", given=False, name="unfed")
    wire.connection.close()
    with served.connect() as second:
        second.hello()
        second.next_stream = 100
        for name, given in (("fed", 1), ("unfed", 0)):
            stream = second.open(Op.ATTACH, ("PROCESS_ID", name))
            assert number(second.finish_opened(stream)["STDIN"]) == given
        assert feed(second, b"still", last=True, name="fed").errno == 0
        assert second.run(Op.ATTACH, ("PROCESS_ID", "fed")).out == b"still"


def test_a_quiet_follower_hears_of_the_end_alone(wire: Wire) -> None:
    """And holds nothing up, whatever the process writes."""
    running(wire, "head -c 3000000 /dev/zero; read line; exit 5")
    stream = wire.open(Op.ATTACH, ("PROCESS_ID", "p"), ("QUIET", 1))
    assert number(wire.finish_opened(stream)["STDIN"]) == 1
    assert wire.silent(0.2)
    wire.send(Kind.DATA, stream, b"\x00\n")
    outcome = wire.finish(stream)
    assert (outcome.order, outcome.number("EXIT_CODE")) == ([], 5)
    assert wire.run(Op.ATTACH, ("PROCESS_ID", "p"), ("QUIET", 1)).number("EXIT_CODE") == 5
