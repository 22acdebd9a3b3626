"""Commands: what they get, what they give, how they end."""

import errno
import os
import pwd
import time

import pytest

from .conftest import Agent
from .wire import Kind, Op, Wire, number


def test_output_and_exit_code(wire: Wire) -> None:
    outcome = wire.shell("echo out; echo err >&2; exit 3")
    assert (outcome.out, outcome.err, outcome.number("EXIT_CODE")) == (b"out\n", b"err\n", 3)
    assert (outcome.errno, outcome.number("TIMED_OUT")) == (0, 0)
    assert outcome.opened is not None and number(outcome.opened["PID"]) > 1
    assert outcome.number("DURATION_US") > 0


def test_arguments_arrive_as_they_are(wire: Wire) -> None:
    awkward = [b"", b"a b", b"$HOME", b"\xff\xfe", "ü".encode(), b"-n", b"x" * 100_000]
    arguments = [("ARG", b"printf"), ("ARG", b"%s|"), *(("ARG", one) for one in awkward)]
    outcome = wire.run(Op.EXEC, ("PROCESS_ID", "p"), *arguments)
    assert outcome.out == b"".join(one + b"|" for one in awkward)


def test_default_environment_and_directory(wire: Wire) -> None:
    me = pwd.getpwuid(os.geteuid())
    outcome = wire.run(Op.EXEC, ("PROCESS_ID", "p"), ("ARG", "env"), ("ENV", "OWN=1=2"), ("ENV", "LANG=C"))
    environment = dict(line.split("=", 1) for line in outcome.out.decode().splitlines())
    assert environment["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert (environment["USER"], environment["LOGNAME"], environment["HOME"]) == (
        me.pw_name,
        me.pw_name,
        me.pw_dir,
    )
    assert (environment["OWN"], environment["LANG"]) == ("1=2", "C")
    assert "TERM" not in environment
    assert wire.shell("pwd").out.decode().strip() == me.pw_dir


def test_a_later_entry_wins(wire: Wire) -> None:
    assert wire.shell("echo $A", ("ENV", "A=1"), ("ENV", "A=2")).out == b"2\n"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ([("ARG", "no-such-program")], errno.ENOENT),
        ([("ARG", "/etc/passwd")], errno.EACCES),
        ([("ARG", "true"), ("CWD", "/no/such")], errno.ENOENT),
        ([("ARG", "true"), ("CWD", "relative")], errno.EINVAL),
        ([("ARG", "true"), ("USER", "no-such-user")], errno.EINVAL),
        ([("ARG", "x" * 200_000)], errno.ENAMETOOLONG),
        ([("ARG", b"caf\xe9")], errno.ENOENT),
    ],
)
def test_what_cannot_start(wire: Wire, fields: list[tuple[str, str | bytes]], error: int) -> None:
    """DONE with a reason and no OPENED; the name is free again."""
    for _ in range(2):
        outcome = wire.run(Op.EXEC, ("PROCESS_ID", "p"), *fields)
        assert outcome.opened is None and outcome.errno == error
        assert outcome.done["MESSAGE"].decode()
        assert "EXIT_CODE" not in outcome.done
    assert wire.run(Op.PROCESSES).items == []


def test_a_name_is_used_once(wire: Wire) -> None:
    assert wire.shell("true", name="p").errno == 0
    assert wire.shell("true", name="p").errno == errno.EEXIST


def test_directory(wire: Wire) -> None:
    assert wire.shell("pwd", ("CWD", "/usr/bin")).out == b"/usr/bin\n"


def test_input_and_its_end(wire: Wire) -> None:
    stream = wire.start("wc -c", ("STDIN", 1))
    wire.send(Kind.DATA, stream, b"\x00" + b"x" * 1000)
    wire.send(Kind.DATA, stream, b"\x00" + b"x" * 24)
    wire.send(Kind.EOF, stream, b"\x00")
    assert wire.finish(stream).out.strip() == b"1024"


def test_without_input_it_reads_nothing(wire: Wire) -> None:
    assert wire.shell("wc -c; readlink /proc/self/fd/0").out == b"0\n/dev/null\n"


def test_input_that_nobody_reads_is_dropped(wire: Wire) -> None:
    stream = wire.start("exec <&-; sleep 0.5; echo done", ("STDIN", 1))
    assert wire.receive_on(stream).kind == Kind.OPENED
    time.sleep(0.2)
    for _ in range(4):
        wire.send(Kind.DATA, stream, b"\x00" + bytes(60_000))
    assert wire.finish(stream).out == b"done\n"


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("KILL", 137), ("SEGV", 139)])
def test_exit_code_of_a_killed_process(wire: Wire, name: str, code: int) -> None:
    assert wire.shell(f"kill -{name} $$").number("EXIT_CODE") == code


def test_signal_goes_to_the_group(wire: Wire) -> None:
    stream = wire.start("sleep 100 | sleep 100")
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.send(Kind.SIGNAL, stream, b"\x0f")
    assert wire.finish(stream).number("EXIT_CODE") == 143


def test_signals_are_as_a_program_expects_them(wire: Wire) -> None:
    """Nothing is blocked or ignored, though the agent blocks everything for itself."""
    outcome = wire.run(
        Op.EXEC, ("PROCESS_ID", "p"), ("ARG", "grep"), ("ARG", "Sig[BI]"), ("ARG", "/proc/self/status")
    )
    assert [int(line.split()[1], 16) for line in outcome.out.splitlines()] == [0, 0]


def test_no_descriptor_of_the_agent_is_left_open(wire: Wire) -> None:
    assert wire.shell("ls /proc/self/fd").out.split() == [b"0", b"1", b"2", b"3"]


def test_own_session_and_group(wire: Wire) -> None:
    outcome = wire.shell("cut -d' ' -f1,5,6 /proc/$$/stat")
    pid, group, session = outcome.out.split()
    assert pid == group == session


def test_timeout_kills_the_group(wire: Wire) -> None:
    began = time.monotonic()
    outcome = wire.shell("sleep 100 & echo $!; echo started; wait", ("TIMEOUT_MS", 300))
    assert 0.2 < time.monotonic() - began < 5
    assert (outcome.number("EXIT_CODE"), outcome.number("TIMED_OUT")) == (137, 1)
    child, started = outcome.out.split()
    assert started == b"started"
    assert wire.shell(f"sleep 0.1; kill -0 {int(child)}").number("EXIT_CODE") == 1


ESCAPES = {
    "a session of its own": "setsid sleep 100 & echo $!; wait",
    "a session of its own, without a parent": "setsid sh -c 'sleep 100 & echo $!; exit' ; sleep 100",
    "deep down": """setsid sh -c 'setsid -w sh -c "sleep 100 & echo \\$!" & sleep 100' & sleep 100""",
}


@pytest.mark.parametrize("how", ESCAPES)
def test_timeout_kills_what_has_left_the_group(wire: Wire, how: str) -> None:
    outcome = wire.shell(ESCAPES[how], ("TIMEOUT_MS", 500))
    assert outcome.number("TIMED_OUT") == 1
    assert wire.shell(f"sleep 0.1; kill -0 {int(outcome.out)}").number("EXIT_CODE") == 1


def test_what_left_the_group_lives_on_behind_an_ordinary_end(wire: Wire) -> None:
    outcome = wire.shell("setsid -w sh -c 'sleep 100 & echo $!'", ("TIMEOUT_MS", 60_000))
    child = int(outcome.out)
    assert (outcome.number("EXIT_CODE"), outcome.number("TIMED_OUT")) == (0, 0)
    assert wire.shell(f"sleep 0.1; kill {child}").number("EXIT_CODE") == 0


def test_timeout_leaves_the_others(wire: Wire) -> None:
    """Also those that an ordinary command before has left behind."""
    left = int(wire.shell("setsid -w sh -c 'sleep 100 & echo $!'").out)
    other = wire.start("sleep 1; echo fine", ("TIMEOUT_MS", 60_000))
    assert wire.shell("setsid sleep 100 & sleep 100", ("TIMEOUT_MS", 300)).number("TIMED_OUT") == 1
    assert wire.finish(other).out == b"fine\n"
    assert wire.shell(f"kill {left}").number("EXIT_CODE") == 0


def test_a_timeout_that_is_not_reached(wire: Wire) -> None:
    outcome = wire.shell("true", ("TIMEOUT_MS", 60_000))
    assert (outcome.number("EXIT_CODE"), outcome.number("TIMED_OUT")) == (0, 0)
    assert wire.shell("true", ("TIMEOUT_MS", 2**64 - 1)).number("EXIT_CODE") == 0


def test_kill_by_name(wire: Wire) -> None:
    stream = wire.start("sleep 100", name="victim")
    assert wire.receive_on(stream).kind == Kind.OPENED
    assert wire.run(Op.KILL, ("PROCESS_ID", "victim"), ("SIGNAL_NUMBER", 9)).errno == 0
    assert wire.finish(stream).number("EXIT_CODE") == 137
    assert wire.run(Op.KILL, ("PROCESS_ID", "victim"), ("SIGNAL_NUMBER", 9)).errno == errno.ESRCH
    assert wire.run(Op.KILL, ("PROCESS_ID", "nobody"), ("SIGNAL_NUMBER", 9)).errno == errno.ESRCH


def test_done_does_not_wait_for_children_in_the_background(wire: Wire) -> None:
    began = time.monotonic()
    outcome = wire.shell("(sleep 2; echo late) & echo early")
    assert (outcome.out, outcome.number("EXIT_CODE")) == (b"early\n", 0)
    assert time.monotonic() - began < 1.5


def test_done_waits_for_what_was_written(wire: Wire) -> None:
    """With more than the pipe, the ring and the window hold, and a child that keeps the pipe open."""
    outcome = wire.shell("sleep 30 & head -c 3000000 /dev/zero; echo end >&2")
    assert (len(outcome.out), outcome.err) == (3_000_000, b"end\n")


def test_children_in_the_background_keep_their_pipe(wire: Wire) -> None:
    wire.shell("(sleep 0.3; echo late; echo $? >&2; sleep 30) &", name="p")
    time.sleep(0.6)
    outcome = wire.run(Op.ATTACH, ("PROCESS_ID", "p"))
    assert (outcome.out, outcome.err) == (b"late\n", b"0\n")


def test_detach_leaves_the_process(wire: Wire) -> None:
    stream = wire.start("echo first; sleep 0.3; echo second", name="p")
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.send(Kind.CLOSE, stream, b"\x00")
    outcome = wire.finish(stream)
    assert (outcome.errno, "EXIT_CODE" in outcome.done) == (errno.ECANCELED, False)
    outcome = wire.run(Op.ATTACH, ("PROCESS_ID", "p"))
    assert (outcome.out, outcome.number("EXIT_CODE")) == (b"first\nsecond\n", 0)


def test_close_kills(wire: Wire) -> None:
    stream = wire.start("sleep 100", name="p")
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.send(Kind.CLOSE, stream, b"\x01")
    assert wire.finish(stream).errno == errno.ECANCELED
    assert wire.run(Op.ATTACH, ("PROCESS_ID", "p")).number("EXIT_CODE") == 137


def test_attach_replays_both_channels_in_order(wire: Wire) -> None:
    script = "for i in 1 2 3; do echo out$i; sleep 0.05; echo err$i >&2; sleep 0.05; done"
    wire.shell(script, name="p")
    outcome = wire.run(Op.ATTACH, ("PROCESS_ID", "p"))
    assert outcome.order == [
        (channel, f"{word}{turn}\n".encode())
        for turn in (1, 2, 3)
        for channel, word in ((1, "out"), (2, "err"))
    ]


def test_attach_replays_the_last_64_kib(wire: Wire) -> None:
    whole = wire.shell("seq 100000", name="p").out
    assert wire.run(Op.ATTACH, ("PROCESS_ID", "p")).out == whole[-65_536:]


def test_two_followers_see_the_same(wire: Wire) -> None:
    first = wire.start("read go; seq 50000; echo end", ("STDIN", 1), name="p")
    assert wire.receive_on(first).kind == Kind.OPENED
    second = wire.open(Op.ATTACH, ("PROCESS_ID", "p"))
    wire.send(Kind.DATA, second, b"\x00go\n")
    one, other = wire.finish(first), wire.finish(second)
    assert one.out == other.out and one.out.endswith(b"50000\nend\n")


def test_attach_to_nothing(wire: Wire) -> None:
    assert wire.run(Op.ATTACH, ("PROCESS_ID", "p")).errno == errno.ESRCH


def test_processes(wire: Wire) -> None:
    before = time.time_ns()
    stream = wire.start("sleep 100", name="running")
    opened = wire.receive_on(stream)
    wire.run(Op.EXEC, ("PROCESS_ID", "ended"), ("ARG", "sh"), ("ARG", "-c"), ("ARG", "exit 7"))
    items = {item["PROCESS_ID"].decode(): item for item in wire.run(Op.PROCESSES).items}
    assert set(items) == {"running", "ended"}
    running, ended = items["running"], items["ended"]
    assert (running["COMMAND"], ended["COMMAND"]) == (b"sleep 100", b"sh")
    assert (number(running["RUNNING"]), "EXIT_CODE" in running) == (1, False)
    assert (number(ended["RUNNING"]), number(ended["EXIT_CODE"])) == (0, 7)
    assert running["PID"] == opened.payload[5:13]
    assert before <= number(running["STARTED_NS"]) <= time.time_ns()
    assert number(running["TTY"]) == 0


def test_ended_processes_are_forgotten_oldest_first_and_detached_last(wire: Wire) -> None:
    wire.shell("exit 9", ("DETACHED", 1), name="kept")
    for turn in range(300):
        wire.run(Op.EXEC, ("PROCESS_ID", f"p{turn}"), ("ARG", "true"))
    names = {item["PROCESS_ID"].decode() for item in wire.run(Op.PROCESSES).items}
    assert names == {"kept", *(f"p{turn}" for turn in range(268, 300))}
    assert wire.run(Op.ATTACH, ("PROCESS_ID", "kept")).number("EXIT_CODE") == 9


def test_processes_have_a_bound(wire: Wire) -> None:
    for turn in range(256):
        stream = wire.start("exec sleep 100", name=f"p{turn}")
        assert wire.receive_on(stream).kind == Kind.OPENED
        wire.send(Kind.CLOSE, stream, b"\x00")
        assert wire.finish(stream).errno == errno.ECANCELED
    assert wire.shell("true", name="more").errno == errno.EAGAIN
    assert wire.run(Op.KILL, ("PROCESS_ID", "p7"), ("SIGNAL_NUMBER", 9)).errno == 0
    assert wire.run(Op.ATTACH, ("PROCESS_ID", "p7")).number("EXIT_CODE") == 137
    assert wire.shell("true", name="more").errno == 0
    assert len(wire.run(Op.PROCESSES).items) == 256


def test_many_at_once(wire: Wire) -> None:
    streams = [wire.start(f"sleep 0.2; echo {turn}") for turn in range(50)]
    assert [int(wire.finish(stream).out) for stream in streams] == list(range(50))


def test_orphans_are_adopted_and_reaped(served: Agent, wire: Wire) -> None:
    """A grandchild whose parent is gone ends as a child of the agent, and leaves no zombie."""
    outcome = wire.shell("(sleep 0.5 >/dev/null 2>&1 & echo $!) | cat")
    orphan = int(outcome.out)
    parent = wire.shell(f"cut -d' ' -f4 /proc/{orphan}/stat").out
    assert int(parent) == served.process.pid
    time.sleep(0.7)
    outcome = wire.shell(f"cat /proc/{orphan}/stat")
    assert outcome.number("EXIT_CODE") == 1


def test_the_agent_takes_everything_along(served: Agent) -> None:
    """Also what left its session and its parent behind."""
    with served.connect() as wire:
        wire.hello()
        wire.gate()
        escaped = int(wire.shell("setsid -w sh -c 'sleep 100 >/dev/null & echo $!'").out)
        started = number(wire.finish_opened(wire.start("sleep 100"))["PID"])
    served.process.terminate()
    served.process.wait(10)
    for pid in (escaped, started):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_done_is_the_last_word(wire: Wire) -> None:
    stream = wire.start("echo x")
    kinds: list[int] = []
    while not kinds or kinds[-1] != Kind.DONE:
        kinds.append(wire.receive_on(stream).kind)
    assert kinds == [Kind.OPENED, Kind.DATA, Kind.DONE]
    assert wire.silent(0.1)
