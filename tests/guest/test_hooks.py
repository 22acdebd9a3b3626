"""What the gate tells the programs of a machine: its hooks, and the generation that they live in."""

import errno
import os
import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Agent, serve
from .wire import GATE_FIELDS, Kind, Op, Value, Wire, number, pack_fields, unpack_fields, walk_fields

PARENT = "0123456789abcdef" * 2
CHILD = "f" * 32


class Root:
    """The folder that stands for the root of a machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hooks = path / "etc/pandastack/on-restore.d"
        self.log = path / "log"
        self.generation = path / "run/pandastack/generation"

    def hook(self, name: str, script: str, mode: int = 0o755) -> Path:
        self.hooks.mkdir(parents=True, exist_ok=True)
        file = self.hooks / name
        file.write_text(f"#!/bin/sh\n{script}\n".replace("LOG", str(self.log)))
        file.chmod(mode)
        return file

    def lines(self) -> list[str]:
        return self.log.read_text().split("\n")[:-1] if self.log.exists() else []


@pytest.fixture
def root(tmp_path: Path) -> Root:
    path = tmp_path / "root"
    path.mkdir()
    return Root(path)


@pytest.fixture
def rooted(binary: Path, root: Root, tmp_path: Path) -> Iterator[Agent]:
    with serve(binary, tmp_path / "agent.socket", "--root", root.path) as agent:
        yield agent


@pytest.fixture
def line(rooted: Agent) -> Iterator[Wire]:
    """A session before its gate."""
    with rooted.connect() as wire:
        wire.hello()
        yield wire


def life(machine: str, *fields: tuple[str, Value]) -> list[tuple[str, Value]]:
    return [*GATE_FIELDS[:3], ("MACHINE_ID", machine), ("FRESH", 1), *fields]


def send_gate(wire: Wire, machine: str, *fields: tuple[str, Value]) -> None:
    wire.send(Kind.GATE, 0, pack_fields(life(machine, *fields)))


def gated(wire: Wire) -> tuple[int, int, list[bytes]]:
    """Of the next GATED: its errno, how many hooks ran well, and which did not."""
    frame = wire.receive_on(0)
    assert frame.kind == Kind.GATED
    fields = walk_fields(frame.payload)
    failed = [value for name, value in fields if name == "HOOKS_FAILED"]
    told = {name: number(value) for name, value in fields if name in ("ERRNO", "HOOKS_RUN")}
    return told["ERRNO"], told.get("HOOKS_RUN", 0), failed


def test_hooks_run_in_the_order_of_their_names(root: Root, line: Wire) -> None:
    for name in ("20-second", "30-third", "10-first"):
        root.hook(name, f"echo {name} >> LOG")
    send_gate(line, PARENT)
    assert gated(line) == (0, 3, [])
    assert root.lines() == ["10-first", "20-second", "30-third"]


def test_what_a_hook_is_given(root: Root, line: Wire) -> None:
    script = (
        "echo $PANDASTACK_MACHINE_ID $PANDASTACK_HOSTNAME $A- >> LOG; pwd >> LOG; echo x; echo y >&2; cat"
    )
    root.hook("one", script)
    send_gate(line, PARENT, ("ENV", "A=tenants"))
    assert gated(line) == (0, 1, [])
    assert root.lines() == [f"{PARENT} sandbox -", "/"]


def test_a_hook_that_fails_is_named_and_the_others_run(root: Root, line: Wire) -> None:
    root.hook("10-fails", "exit 3")
    root.hook("20-dies", "kill -9 $$")
    root.hook("30-runs", "echo fine >> LOG")
    root.hook("40-no-program", "").write_bytes(b"\x7fELF nothing")
    send_gate(line, PARENT)
    assert gated(line) == (0, 1, [b"10-fails", b"20-dies", b"40-no-program"])
    assert line.run(Op.METRICS).errno == 0


def test_the_deadline_is_for_all_of_them(root: Root, line: Wire) -> None:
    """Whoever runs then is killed with its group, and who comes later is not started."""
    root.hook("10-quick", "exit 0")
    root.hook("20-slow", "sleep 60 & echo $! >> LOG; wait")
    root.hook("30-late", "echo late >> LOG")
    began = time.monotonic()
    send_gate(line, PARENT, ("HOOK_MS", 300))
    assert gated(line) == (0, 1, [b"20-slow", b"30-late"])
    assert 0.25 < time.monotonic() - began < 3
    assert len(root.lines()) == 1
    deadline = time.monotonic() + 5
    while is_running(int(root.lines()[0])):
        assert time.monotonic() < deadline
        line.ping()


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_gate_is_closed_while_hooks_run(root: Root, line: Wire) -> None:
    """The agent answers, but serves nothing; a repeated GATE waits with the first."""
    root.hook("one", f"until [ -e {root.path}/go ]; do sleep 0.02; done")
    send_gate(line, PARENT, ("HOOK_MS", 15_000))
    line.ping()
    assert line.run(Op.METRICS).errno == errno.ESHUTDOWN
    assert number(line.hello()["GATE_OPEN"]) == 0
    send_gate(line, PARENT)
    line.ping()
    (root.path / "go").touch()
    assert gated(line) == (0, 1, [])
    assert line.run(Op.METRICS).errno == 0
    assert line.silent(0.1)


def test_another_life_begins_while_hooks_run(root: Root, line: Wire) -> None:
    root.hook("one", f"[ $PANDASTACK_MACHINE_ID = {CHILD} ] || sleep 60")
    send_gate(line, PARENT, ("HOOK_MS", 60_000))
    line.ping()
    send_gate(line, CHILD)
    assert gated(line) == (0, 1, [])
    assert root.generation.read_text() == f"{CHILD} 2\n"
    assert line.silent(0.1)


def test_seal_ends_the_hooks(root: Root, line: Wire) -> None:
    root.hook("one", "sleep 60")
    send_gate(line, PARENT, ("HOOK_MS", 60_000))
    line.send(Kind.SEAL, 0)
    assert gated(line)[0] == errno.ECANCELED
    assert line.receive_on(0).kind == Kind.SEALED
    assert line.run(Op.METRICS).errno == errno.ESHUTDOWN


def test_the_agent_ends_with_a_hook_that_runs(root: Root, line: Wire) -> None:
    root.hook("one", "sleep 60")
    send_gate(line, PARENT, ("HOOK_MS", 60_000))
    line.ping()


def test_what_is_no_hook(root: Root, line: Wire) -> None:
    root.hook("not-executable", "echo $0 >> LOG", 0o644)
    root.hook("writable-by-the-group", "echo $0 >> LOG", 0o775)
    root.hook("writable-by-all", "echo $0 >> LOG", 0o757)
    (root.hooks / "link").symlink_to(root.hook("hook", "echo hook >> LOG"))
    (root.hooks / "folder").mkdir()
    os.mkfifo(root.hooks / "pipe", 0o755)
    send_gate(line, PARENT)
    assert gated(line) == (0, 1, [])
    assert root.lines() == ["hook"]


def test_hooks_of_a_template(root: Root, line: Wire) -> None:
    """What is there when it is sealed runs in each sandbox; what comes later, from the next gate on."""
    send_gate(line, PARENT)
    assert gated(line) == (0, 0, [])
    line.seal()
    root.hook("one", "exit 0")
    send_gate(line, PARENT)
    assert gated(line) == (0, 0, [])
    line.seal()
    send_gate(line, PARENT)
    assert gated(line) == (0, 1, [])


@pytest.mark.root
def test_a_hook_of_another_user_is_none(root: Root, line: Wire) -> None:
    os.chown(root.hook("theirs", "echo theirs >> LOG"), 65534, 65534)
    send_gate(line, PARENT)
    assert gated(line) == (0, 0, [])


def test_a_folder_that_others_may_write_to_is_not_trusted(root: Root, line: Wire) -> None:
    root.hook("one", "echo one >> LOG")
    root.hooks.chmod(0o777)
    send_gate(line, PARENT)
    assert gated(line) == (0, 0, [b"."])
    assert root.lines() == []


def test_more_hooks_than_are_run(root: Root, line: Wire) -> None:
    for at in range(66):
        root.hook(f"{at:02}", "exit 0")
    send_gate(line, PARENT, ("HOOK_MS", 20_000))
    assert gated(line) == (0, 64, [b"."])


def test_a_name_that_is_no_text(root: Root, line: Wire) -> None:
    root.hook("x", "exit 1").rename(root.hooks / os.fsdecode(b"a\xff"))
    send_gate(line, PARENT)
    assert gated(line) == (0, 0, [b"a?"])


def test_hooks_run_once_for_each_life(root: Root, line: Wire) -> None:
    root.hook("one", "echo $PANDASTACK_MACHINE_ID >> LOG")
    for machine in (PARENT, PARENT, CHILD):
        send_gate(line, machine)
        assert gated(line) == (0, 1, [])
    assert root.lines() == [PARENT, CHILD]


def test_the_generation_counts_lives(root: Root, line: Wire) -> None:
    assert root.generation.read_text() == ""
    send_gate(line, PARENT)
    gated(line)
    assert root.generation.read_text() == f"{PARENT} 1\n"
    send_gate(line, PARENT)
    gated(line)
    assert root.generation.read_text() == f"{PARENT} 1\n"
    send_gate(line, CHILD)
    gated(line)
    assert root.generation.read_text() == f"{CHILD} 2\n"


def test_a_program_that_runs_on_notices_its_new_life(root: Root, line: Wire) -> None:
    """The file is there before the first gate, and a change of it is an event of inotify."""
    send_gate(line, PARENT)
    gated(line)
    watch = line.open(Op.WATCH, ("PATH", str(root.generation)))
    assert line.receive_on(watch).kind == Kind.OPENED
    send_gate(line, CHILD)
    gated(line)
    item = walk_fields(line.receive_on(watch).payload)[0][1]
    assert unpack_fields(item)["EVENT"] == b"modify"


SEEDED_ANEW = """
import random, sys

def generation():
    with open(sys.argv[1], "rb") as file:
        return file.read()

random.seed(1)
seeded = generation()
for line in sys.stdin:
    if generation() != seeded:
        random.seed()
        seeded = generation()
    print(random.random(), flush=True)
"""


def test_a_long_lived_python_seeds_its_generator_anew(root: Root, line: Wire) -> None:
    """Its memory is the parent's: what it draws is, too, but for what it does about a new generation."""
    send_gate(line, PARENT)
    gated(line)
    stream = line.open(
        Op.EXEC,
        *(("PROCESS_ID", "python"), ("STDIN", 1), ("ARG", "python3"), ("ARG", "-c"), ("ARG", SEEDED_ANEW)),
        ("ARG", str(root.generation)),
    )
    assert line.receive_on(stream).kind == Kind.OPENED

    def draw() -> float:
        line.send(Kind.DATA, stream, b"\x00\n")
        return float(line.receive_on(stream).payload[1:])

    expected = random.Random(1)  # noqa: S311 - the very generator that is predicted
    assert [draw(), draw()] == [expected.random(), expected.random()]
    send_gate(line, CHILD)
    gated(line)
    assert draw() != expected.random()


def test_a_machine_without_hooks_needs_no_folder(root: Root, line: Wire) -> None:
    send_gate(line, PARENT)
    assert gated(line) == (0, 0, [])
    line.send(Kind.FREEZE, 0, struct.pack("<I", 100))
    assert line.receive_on(0).kind == Kind.FROZEN
