"""Files: reading, telling, making, moving, removing."""

import errno
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Agent
from .wire import Fields, Kind, Op, Value, Wire, number


def listing(wire: Wire, path: Path, *fields: tuple[str, Value]) -> dict[str, Fields]:
    outcome = wire.run(Op.LIST, ("PATH", str(path)), *fields)
    assert outcome.errno == 0
    return {os.fsdecode(item["NAME"]): item for item in outcome.items}


def test_read(wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    path.chmod(0o640)
    os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    outcome = wire.run(Op.READ, ("PATH", str(path)))
    assert outcome.opened is not None
    assert (outcome.out, outcome.ended, outcome.errno) == (b"0123456789", True, 0)
    assert number(outcome.opened["SIZE"]) == 10
    assert number(outcome.opened["MODE"]) == 0o640
    assert number(outcome.opened["MTIME_NS"]) == 1_600_000_000_123_456_789
    assert outcome.opened["KIND"] == b"f"


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 3, b"012"), (4, 3, b"456"), (8, 100, b"89"), (10, 1, b""), (1 << 40, 5, b""), (3, 0, b"")],
)
def test_read_a_part(wire: Wire, tmp_path: Path, offset: int, length: int, expected: bytes) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    outcome = wire.run(Op.READ, ("PATH", str(tmp_path / "file")), ("OFFSET", offset), ("LENGTH", length))
    assert (outcome.out, outcome.ended, outcome.errno) == (expected, True, 0)


def test_read_what_has_no_size(wire: Wire) -> None:
    outcome = wire.run(Op.READ, ("PATH", "/proc/self/status"))
    assert outcome.out.startswith(b"Name:") and outcome.opened is not None
    assert number(outcome.opened["SIZE"]) == 0
    outcome = wire.run(Op.READ, ("PATH", "/dev/zero"), ("LENGTH", 300_000))
    assert len(outcome.out) == 300_000


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/no/such", errno.ENOENT),
        ("/tmp", errno.EISDIR),
        ("tmp", errno.EINVAL),
        ("/etc/passwd/x", errno.ENOTDIR),
    ],
)
def test_read_what_cannot_be(wire: Wire, path: str, error: int) -> None:
    outcome = wire.run(Op.READ, ("PATH", path))
    assert (outcome.opened, outcome.ended, outcome.errno) == (None, False, error)


def test_reading_that_blocks_can_be_closed(served: Agent, wire: Wire, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    stream = wire.open(Op.READ, ("PATH", str(tmp_path / "pipe")))
    assert wire.silent(0.2)
    wire.send(Kind.CLOSE, stream, b"\x00")
    assert wire.receive_on(stream).kind == Kind.DONE
    time.sleep(0.1)
    assert served.children() == []


def test_closing_a_read_stops_it(wire: Wire) -> None:
    stream = wire.open(Op.READ, ("PATH", "/dev/zero"))
    assert wire.receive_on(stream).kind == Kind.OPENED
    wire.send(Kind.CLOSE, stream, b"\x00")
    assert wire.finish(stream).errno == errno.ECANCELED
    assert wire.silent(0.1)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A file of every kind that needs no rights, and awkward names."""
    root = tmp_path / "tree"
    (root / "dir" / "deep" / "deeper").mkdir(parents=True)
    (root / "file").write_bytes(b"12345")
    (root / "dir" / "inner").write_bytes(b"x")
    (root / "dir" / "deep" / "deeper" / "leaf").write_bytes(b"leaf")
    (root / "link").symlink_to("dir")
    (root / "dangling").symlink_to("no/such")
    os.mkfifo(root / "pipe")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\n ")).write_bytes(b"")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    return root


def test_list(wire: Wire, tree: Path) -> None:
    items = listing(wire, tree)
    kinds = {name: item["KIND"].decode() for name, item in items.items()}
    assert kinds == {
        "dir": "d", "file": "f", "link": "l", "dangling": "l", "pipe": "p", "socket": "s", "\udcff\n ": "f",
    }  # fmt: skip
    assert number(items["file"]["SIZE"]) == 5
    assert number(items["file"]["UID"]) == os.geteuid() and number(items["file"]["GID"]) == os.getegid()
    assert number(items["file"]["MODE"]) == stat.S_IMODE((tree / "file").stat().st_mode)
    assert number(items["file"]["CTIME_NS"]) == (tree / "file").stat().st_ctime_ns
    assert items["link"]["LINK"] == b"dir" and items["dangling"]["LINK"] == b"no/such"
    assert "LINK" not in items["file"]
    assert items["file"]["NAME"] == b"file" and b"\xff\n " in {item["NAME"] for item in items.values()}


def test_list_deeper(wire: Wire, tree: Path) -> None:
    first = set(listing(wire, tree))
    second = first | {"dir/inner", "dir/deep"}
    assert set(listing(wire, tree, ("DEPTH", 2))) == second
    whole = second | {"dir/deep/deeper", "dir/deep/deeper/leaf"}
    assert set(listing(wire, tree, ("DEPTH", 64))) == whole


def test_list_through_a_link(wire: Wire, tree: Path) -> None:
    assert set(listing(wire, tree / "link")) == {"inner", "deep"}


def test_list_many(wire: Wire, tmp_path: Path) -> None:
    names = {f"{'n' * 100}{i}" for i in range(3000)}
    many = tmp_path / "many"
    many.mkdir()
    for name in names:
        (many / name).touch()
    assert set(listing(wire, many)) == names


@pytest.mark.parametrize(
    ("name", "error"), [("file", errno.ENOTDIR), ("none", errno.ENOENT), ("pipe", errno.ENOTDIR)]
)
def test_list_what_cannot_be(wire: Wire, tree: Path, name: str, error: int) -> None:
    assert wire.run(Op.LIST, ("PATH", str(tree / name))).errno == error


def test_stat(wire: Wire, tree: Path) -> None:
    followed = wire.run(Op.STAT, ("PATH", f"{tree}/link/"))
    assert len(followed.items) == 1
    assert (followed.items[0]["NAME"], followed.items[0]["KIND"]) == (b"link", b"d")
    itself = wire.run(Op.STAT, ("PATH", f"{tree}/link"), ("NOFOLLOW", 1)).items[0]
    assert (itself["KIND"], itself["LINK"]) == (b"l", b"dir")
    assert wire.run(Op.STAT, ("PATH", "/")).items[0]["NAME"] == b"/"
    assert wire.run(Op.STAT, ("PATH", str(tree / "dangling"))).errno == errno.ENOENT
    assert wire.run(Op.STAT, ("PATH", str(tree / "none"))).errno == errno.ENOENT


def test_mkdir(wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c"
    assert wire.run(Op.MKDIR, ("PATH", str(path)), ("FILE_MODE", 0o1777)).errno == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o1777
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert wire.run(Op.MKDIR, ("PATH", str(path)), ("FILE_MODE", 0o700)).errno == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o1777
    (tmp_path / "file").touch()
    assert wire.run(Op.MKDIR, ("PATH", str(tmp_path / "file"))).errno == errno.EEXIST
    assert wire.run(Op.MKDIR, ("PATH", str(tmp_path / "file" / "x"))).errno == errno.ENOTDIR
    assert wire.run(Op.MKDIR, ("PATH", str(tmp_path / "d") + "//")).errno == 0


def test_remove(wire: Wire, tree: Path) -> None:
    assert wire.run(Op.REMOVE, ("PATH", str(tree / "dir"))).errno == errno.ENOTEMPTY
    assert wire.run(Op.REMOVE, ("PATH", str(tree / "link"))).errno == 0
    assert wire.run(Op.REMOVE, ("PATH", str(tree / "file"))).errno == 0
    assert (
        wire.run(Op.REMOVE, ("PATH", str(tree / "dir" / "deep" / "deeper")), ("RECURSIVE", 0)).errno
        == errno.ENOTEMPTY
    )
    assert wire.run(Op.REMOVE, ("PATH", str(tree / "none"))).errno == errno.ENOENT
    assert wire.run(Op.REMOVE, ("PATH", str(tree / "none")), ("RECURSIVE", 1)).errno == errno.ENOENT
    assert (tree / "dir" / "inner").exists()


def test_remove_a_tree_and_not_what_it_links_to(wire: Wire, tree: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (tree / "dir" / "out").symlink_to(kept)
    for turn in range(2000):
        (tree / "dir" / f"{turn}").touch()
    assert wire.run(Op.REMOVE, ("PATH", str(tree)), ("RECURSIVE", 1)).errno == 0
    assert not tree.exists() and (kept / "file").exists()


def test_a_slash_behind_a_link_means_the_link(wire: Wire, tree: Path) -> None:
    assert wire.run(Op.REMOVE, ("PATH", f"{tree}/link/"), ("RECURSIVE", 1)).errno == 0
    assert (tree / "dir" / "inner").exists() and not (tree / "link").is_symlink()


@pytest.mark.parametrize("path", ["/", "//", "/.", "/..", "/tmp/.."])
def test_the_root_is_not_removed(wire: Wire, path: str) -> None:
    assert wire.run(Op.REMOVE, ("PATH", path), ("RECURSIVE", 1)).errno == errno.EINVAL


def test_chmod(wire: Wire, tree: Path) -> None:
    assert wire.run(Op.CHMOD, ("PATH", str(tree / "file")), ("FILE_MODE", 0o4711)).errno == 0
    assert stat.S_IMODE((tree / "file").stat().st_mode) == 0o4711
    outside = tree.parent / "outside"
    outside.touch(0o600)
    (tree / "dir" / "out").symlink_to(outside)
    assert wire.run(Op.CHMOD, ("PATH", str(tree / "dir")), ("FILE_MODE", 0o500), ("RECURSIVE", 1)).errno == 0
    for path in (tree / "dir", tree / "dir" / "inner", tree / "dir" / "deep" / "deeper" / "leaf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o500
    assert stat.S_IMODE(outside.stat().st_mode) == 0o600
    assert wire.run(Op.CHMOD, ("PATH", str(tree / "link")), ("FILE_MODE", 0o750), ("RECURSIVE", 1)).errno == 0
    assert stat.S_IMODE((tree / "dir" / "inner").stat().st_mode) == 0o750
    assert wire.run(Op.CHMOD, ("PATH", str(tree / "none")), ("FILE_MODE", 0)).errno == errno.ENOENT
    assert wire.run(Op.CHMOD, ("PATH", str(tree / "dir")), ("FILE_MODE", 0o755), ("RECURSIVE", 1)).errno == 0


def test_move(wire: Wire, tree: Path) -> None:
    target = tree / "new" / "place"
    assert wire.run(Op.MOVE, ("PATH", str(tree / "dir")), ("TARGET", str(target))).errno == 0
    assert (target / "deep" / "deeper" / "leaf").read_bytes() == b"leaf" and not (tree / "dir").exists()
    assert wire.run(Op.MOVE, ("PATH", str(tree / "file")), ("TARGET", str(target))).errno == errno.EISDIR
    assert (
        wire.run(Op.MOVE, ("PATH", str(tree / "none")), ("TARGET", str(tree / "x" / "y"))).errno
        == errno.ENOENT
    )
    assert not (tree / "x").exists()
    assert (
        wire.run(Op.MOVE, ("PATH", str(target)), ("TARGET", str(target / "in" / "itself"))).errno
        == errno.EINVAL
    )


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory on another file system than the tests' own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def test_move_across_file_systems(wire: Wire, tree: Path, elsewhere: Path) -> None:
    assert elsewhere.stat().st_dev != tree.stat().st_dev
    (tree / "file").chmod(0o604)
    os.utime(tree / "file", ns=(5, 1_500_000_000_000_000_007))
    (tree / "big").write_bytes(os.urandom(3_000_000))
    content = (tree / "big").read_bytes()
    before = {name: item["KIND"] for name, item in listing(wire, tree, ("DEPTH", 64)).items()}
    assert wire.run(Op.MOVE, ("PATH", str(tree)), ("TARGET", str(elsewhere / "a" / "tree"))).errno == 0
    moved = elsewhere / "a" / "tree"
    assert not tree.exists() and list((elsewhere / "a").iterdir()) == [moved]
    assert {name: item["KIND"] for name, item in listing(wire, moved, ("DEPTH", 64)).items()} == before
    status = (moved / "file").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o604, 1_500_000_000_000_000_007)
    assert (moved / "big").read_bytes() == content
    assert (moved / "link").readlink() == Path("dir")


def test_a_move_across_that_fails_leaves_both_sides(wire: Wire, tree: Path, elsewhere: Path) -> None:
    (elsewhere / "full").mkdir()
    (elsewhere / "full" / "file").touch()
    assert (
        wire.run(Op.MOVE, ("PATH", str(tree)), ("TARGET", str(elsewhere / "full"))).errno == errno.ENOTEMPTY
    )
    assert (tree / "file").exists()
    assert [path.name for path in elsewhere.iterdir()] == ["full"]


def test_metrics(wire: Wire) -> None:
    (item,) = wire.run(Op.METRICS).items
    values = {name: number(value) for name, value in item.items()}
    disk = os.statvfs("/")
    assert abs(values["UPTIME_MS"] / 1000 - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5
    assert values["MEMORY_TOTAL"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < values["MEMORY_AVAILABLE"] <= values["MEMORY_TOTAL"]
    assert values["DISK_TOTAL"] == disk.f_blocks * disk.f_frsize
    assert 0 < values["DISK_FREE"] <= values["DISK_TOTAL"]
    assert values["PROCESS_COUNT"] > 1 and values["CPU_BUSY_MS"] > 0 and "LOAD1" in values
