"""Watching directories."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from .conftest import Agent
from .wire import Kind, Op, Outcome, Value, Wire


def watch(wire: Wire, path: Path, *fields: tuple[str, Value]) -> int:
    stream = wire.open(Op.WATCH, ("PATH", str(path)), *fields)
    assert wire.receive_on(stream).kind == Kind.OPENED
    return stream


def events(wire: Wire, stream: int, until: tuple[str, str]) -> list[tuple[str, str]]:
    """What is told up to and with `until`, as (event, name)."""
    outcome = Outcome()
    told: list[tuple[str, str]] = []
    while until not in told:
        outcome.take(wire.receive_on(stream, 5))
        told = [(item["EVENT"].decode(), os.fsdecode(item["NAME"])) for item in outcome.items]
    return told


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of its own."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def test_what_happens_is_told_in_order(wire: Wire, place: Path) -> None:
    stream = watch(wire, place)
    (place / "a").write_bytes(b"x")
    (place / "a").chmod(0o600)
    (place / "a").rename(place / "b")
    (place / "b").unlink()
    told = events(wire, stream, ("remove", "b"))
    assert told == [
        ("create", "a"), ("modify", "a"), ("attrib", "a"), ("move", "a"), ("create", "b"), ("remove", "b"),
    ]  # fmt: skip


def test_a_plain_watch_does_not_look_deeper(wire: Wire, place: Path) -> None:
    (place / "dir").mkdir()
    stream = watch(wire, place)
    (place / "dir" / "inner").touch()
    (place / "end").touch()
    told = events(wire, stream, ("create", "end"))
    assert all("inner" not in name for _, name in told)


def test_a_recursive_watch_follows_new_and_moved_directories(wire: Wire, place: Path) -> None:
    (place / "old" / "deep").mkdir(parents=True)
    stream = watch(wire, place, ("RECURSIVE", 1))
    (place / "old" / "deep" / "file").touch()
    assert ("create", "old/deep/file") in events(wire, stream, ("create", "old/deep/file"))
    (place / "new" / "deeper").mkdir(parents=True)
    assert events(wire, stream, ("create", "new/deeper"))
    (place / "new" / "deeper" / "file").touch()
    assert events(wire, stream, ("create", "new/deeper/file"))
    (place / "old").rename(place / "renamed")
    assert events(wire, stream, ("create", "renamed"))
    time.sleep(0.1)
    (place / "renamed" / "deep" / "late").touch()
    told = events(wire, stream, ("create", "renamed/deep/late"))
    assert all(not name.startswith("old") for _, name in told)


def test_a_link_to_a_directory(wire: Wire, place: Path) -> None:
    (place / "real" / "deep").mkdir(parents=True)
    (place / "link").symlink_to("real")
    stream = watch(wire, place / "link", ("RECURSIVE", 1))
    (place / "real" / "deep" / "file").touch()
    assert events(wire, stream, ("create", "deep/file"))


def test_a_file_and_the_directory_itself(wire: Wire, place: Path) -> None:
    (place / "file").touch()
    stream = watch(wire, place / "file")
    with (place / "file").open("ab") as file:
        file.write(b"x")
    assert events(wire, stream, ("modify", ".")) == [("modify", ".")]
    stream = watch(wire, place)
    place.chmod(0o700)
    assert events(wire, stream, ("attrib", ".")) == [("attrib", ".")]


def test_the_end_of_what_is_watched(wire: Wire, place: Path) -> None:
    stream = watch(wire, place, ("RECURSIVE", 1))
    place.rmdir()
    outcome = wire.finish(stream)
    assert (outcome.items[-1]["EVENT"], outcome.items[-1]["NAME"]) == (b"remove", b".")
    assert outcome.errno == errno.ENOENT


def test_lost_events_are_told_and_the_watch_goes_on(served: Agent, wire: Wire, place: Path) -> None:
    """More happens than the kernel keeps while the worker is held up."""
    stream = watch(wire, place, ("RECURSIVE", 1))
    kept = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    (worker,) = served.children()
    os.kill(worker, signal.SIGSTOP)
    for turn in range(kept // 2 + 100):
        (place / "file").write_bytes(b"%d" % turn)
        (place / "file").unlink()
    (place / "after").mkdir()
    os.kill(worker, signal.SIGCONT)
    events(wire, stream, ("overflow", "."))
    (place / "after" / "file").touch()
    assert events(wire, stream, ("create", "after/file"))


def test_close_ends_the_worker(served: Agent, wire: Wire, place: Path) -> None:
    stream = watch(wire, place)
    wire.send(Kind.CLOSE, stream, b"\x00")
    assert wire.finish(stream).errno == errno.ECANCELED
    time.sleep(0.1)
    assert served.children() == []


@pytest.mark.parametrize(("name", "error"), [("none", errno.ENOENT), ("file/x", errno.ENOTDIR)])
def test_what_cannot_be_watched(wire: Wire, place: Path, name: str, error: int) -> None:
    (place / "file").touch()
    assert wire.run(Op.WATCH, ("PATH", str(place / name))).errno == error
