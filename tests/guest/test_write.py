"""Writing files: whole or not at all."""

import errno
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from .conftest import Agent
from .wire import Kind, Op, Outcome, Value, Wire


def put(wire: Wire, path: Path | str, content: bytes, *fields: tuple[str, Value]) -> Outcome:
    stream = wire.open(Op.WRITE, ("PATH", str(path)), *fields)
    if content:
        wire.send(Kind.DATA, stream, b"\x00" + content)
    wire.send(Kind.EOF, stream, b"\x00")
    return wire.finish(stream)


def test_a_new_file_and_its_parents(wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    outcome = put(wire, path, b"content")
    assert (outcome.errno, outcome.number("SIZE"), outcome.opened) == (0, 7, {})
    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_an_empty_file(wire: Wire, tmp_path: Path) -> None:
    assert put(wire, tmp_path / "empty", b"", ("FILE_MODE", 0o600)).number("SIZE") == 0
    assert (tmp_path / "empty").read_bytes() == b""
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o600


def test_mode_of_the_old_file_is_kept(wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o4751)
    put(wire, path, b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o4751)
    put(wire, path, b"newer", ("FILE_MODE", 0o666))
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_links_lead_to_the_file_that_is_replaced(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "file").write_bytes(b"old")
    (tmp_path / "first").symlink_to(tmp_path / "second")
    (tmp_path / "second").symlink_to("dir/file")
    put(wire, tmp_path / "first", b"new")
    assert (tmp_path / "dir" / "file").read_bytes() == b"new" and (tmp_path / "second").is_symlink()
    (tmp_path / "dangling").symlink_to("made/by/write")
    put(wire, tmp_path / "dangling", b"made")
    assert (tmp_path / "made" / "by" / "write").read_bytes() == b"made"
    (tmp_path / "loop").symlink_to("loop")
    assert put(wire, tmp_path / "loop", b"x").errno == errno.ELOOP


def test_what_is_no_regular_file_is_written_through(wire: Wire, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = wire.start(f"cat {tmp_path}/pipe")
    assert put(wire, tmp_path / "pipe", b"through").number("SIZE") == 7
    assert wire.finish(reader).out == b"through"
    assert put(wire, "/dev/null", b"x").errno == 0 and stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/tmp", errno.EISDIR),
        ("/", errno.EINVAL),
        ("relative", errno.EINVAL),
        ("/etc/passwd/x", errno.ENOTDIR),
        ("/tmp/" + "n" * 256, errno.ENAMETOOLONG),
        ("/proc/none", errno.ENOENT),
    ],
)
def test_what_cannot_be_written(wire: Wire, path: str, error: int) -> None:
    assert put(wire, path, b"x").errno in (error, errno.EACCES)


def begin(wire: Wire, path: Path) -> int:
    """A write of an existing file, half way."""
    path.write_bytes(b"old")
    stream = wire.open(Op.WRITE, ("PATH", str(path)))
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.send(Kind.DATA, stream, b"\x00" + bytes(60_000))
    return stream


def settles(directory: Path) -> bool:
    """True once nothing but the file itself is left in the directory."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if [entry.name for entry in directory.iterdir()] == ["file"]:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of its own for the file."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def test_closed_half_way_leaves_the_old(wire: Wire, place: Path) -> None:
    stream = begin(wire, place / "file")
    wire.send(Kind.CLOSE, stream, b"\x00")
    assert wire.finish(stream).errno == errno.ECANCELED
    assert settles(place) and (place / "file").read_bytes() == b"old"


def test_a_lost_host_leaves_the_old(wire: Wire, place: Path) -> None:
    begin(wire, place / "file")
    wire.connection.close()
    assert settles(place) and (place / "file").read_bytes() == b"old"


def test_too_much_at_once_leaves_the_old(wire: Wire, place: Path) -> None:
    stream = begin(wire, place / "file")
    wire.send(Kind.DATA, stream, b"\x00" + bytes(262_144))
    assert wire.finish(stream).errno == errno.EPROTO
    assert settles(place) and (place / "file").read_bytes() == b"old"


def test_an_agent_killed_half_way_leaves_the_old(served: Agent, place: Path) -> None:
    with served.connect() as wire:
        wire.hello()
        wire.gate()
        begin(wire, place / "file")
        agent = int(wire.shell("echo $PPID").out)
        assert agent == served.process.pid
        os.kill(agent, signal.SIGKILL)
    served.expect_status(-signal.SIGKILL)
    assert settles(place) and (place / "file").read_bytes() == b"old"


def test_an_agent_that_is_asked_to_go_leaves_the_old(served: Agent, wire: Wire, place: Path) -> None:
    begin(wire, place / "file")
    served.process.terminate()
    served.process.wait(10)
    assert settles(place) and (place / "file").read_bytes() == b"old"


def test_readers_see_the_old_or_the_new(wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "file"
    put(wire, path, b"0" * 100_000)
    for turn in range(1, 20):
        stream = wire.open(Op.WRITE, ("PATH", str(path)))
        wire.send(Kind.DATA, stream, b"\x00" + b"%d" % (turn % 10) * 100_000)
        assert path.read_bytes() == b"%d" % ((turn - 1) % 10) * 100_000
        wire.send(Kind.EOF, stream, b"\x00")
        assert wire.finish(stream).errno == 0
        assert path.read_bytes() == b"%d" % (turn % 10) * 100_000
