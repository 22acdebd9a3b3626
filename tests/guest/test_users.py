"""Operations run with the rights of the asked user, and no others."""

import errno
import grp
import os
import pwd
import stat
from pathlib import Path

import pytest

from .wire import Kind, Op, Outcome, Value, Wire, number

pytestmark = [
    pytest.mark.root,
]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A directory that only root may enter, with a file in it."""
    for parent in (tmp_path, *tmp_path.parents[:4]):
        parent.chmod(parent.stat().st_mode | 0o055)
    path = tmp_path / "secret"
    path.mkdir(mode=0o700)
    (path / "file").write_bytes(b"secret")
    return path


def test_identity(wire: Wire) -> None:
    outcome = wire.shell("id -u; id -g; id -G; echo $HOME $USER $SHELL", ("USER", "nobody"))
    nobody = pwd.getpwnam("nobody")
    uid, gid, groups, names = outcome.out.decode().splitlines()
    assert (int(uid), int(gid)) == (nobody.pw_uid, nobody.pw_gid)
    assert {int(one) for one in groups.split()} == set(os.getgrouplist("nobody", nobody.pw_gid))
    assert names == f"{nobody.pw_dir} nobody /bin/sh"


def test_supplementary_groups(wire: Wire) -> None:
    members = [(member, group) for group in grp.getgrall() for member in group.gr_mem]
    name = next(
        (member for member, group in members if pwd.getpwnam(member).pw_gid != group.gr_gid), "nobody"
    )
    entry = pwd.getpwnam(name)
    out = wire.shell("id -G", ("USER", name)).out
    assert {int(one) for one in out.split()} == set(os.getgrouplist(name, entry.pw_gid))


def test_a_number_without_entry(wire: Wire) -> None:
    outcome = wire.shell("id -u; id -g; id -G; pwd; echo $HOME-$USER-", ("USER", "54321"))
    assert outcome.out == b"54321\n54321\n54321\n/\n/--\n"
    assert wire.shell("id -u", ("USER", "4294967295")).errno == errno.EINVAL
    assert wire.shell("id -un", ("USER", str(pwd.getpwnam("nobody").pw_uid))).out == b"nobody\n"


def test_no_rights_are_kept(wire: Wire) -> None:
    out = wire.run(
        Op.EXEC, ("PROCESS_ID", "p"), ("ARG", "cat"), ("ARG", "/proc/self/status"), ("USER", "nobody")
    ).out
    status = dict(line.split(":\t", 1) for line in out.decode().splitlines() if ":\t" in line)
    nobody = pwd.getpwnam("nobody")
    assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
    assert status["Gid"].split() == [str(nobody.pw_gid)] * 4
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0


def test_a_terminal_of_the_user(wire: Wire) -> None:
    outcome = wire.shell(
        "stat -c %U:%a $(tty); echo again > $(tty)", ("USER", "nobody"), ("ROWS", 24), ("COLS", 80)
    )
    assert outcome.out == b"nobody:620\r\nagain\r\n"


DENIED: list[tuple[Op, list[tuple[str, Value]]]] = [
    *((operation, []) for operation in (Op.READ, Op.STAT, Op.LIST, Op.MKDIR, Op.REMOVE, Op.WATCH, Op.WRITE)),
    (Op.CHMOD, [("FILE_MODE", 0o777)]),
    (Op.MOVE, [("TARGET", "/tmp/stolen")]),
]


@pytest.mark.parametrize(("operation", "fields"), DENIED)
def test_what_the_user_may_not(
    wire: Wire, secret: Path, operation: Op, fields: list[tuple[str, Value]]
) -> None:
    """And what root may: the control of the test."""
    path = ("PATH", str(secret / "file"))
    assert wire.run(operation, path, *fields, ("USER", "nobody")).errno == errno.EACCES
    assert (secret / "file").read_bytes() == b"secret"
    if operation in (Op.READ, Op.STAT):
        assert wire.run(operation, path).errno == 0


def test_a_directory_that_the_user_may_not_enter(wire: Wire, secret: Path) -> None:
    assert wire.shell("true", ("CWD", str(secret)), ("USER", "nobody")).errno == errno.EACCES
    assert wire.shell("true", ("CWD", str(secret))).errno == 0


def test_new_files_belong_to_the_user(wire: Wire, tmp_path: Path, secret: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    stream = wire.open(Op.WRITE, ("PATH", str(shared / "dir" / "file")), ("USER", "nobody"))
    wire.send(Kind.DATA, stream, b"\x00x")
    wire.send(Kind.EOF, stream, b"\x00")
    assert wire.finish(stream).errno == 0
    assert (shared / "dir" / "file").owner() == "nobody" and (shared / "dir").owner() == "nobody"


def write(wire: Wire, path: Path, *fields: tuple[str, Value]) -> Outcome:
    stream = wire.open(Op.WRITE, ("PATH", str(path)), *fields)
    frame = wire.receive_on(stream)
    if frame.kind == Kind.OPENED:
        wire.send(Kind.DATA, stream, b"\x00new")
        wire.send(Kind.EOF, stream, b"\x00")
        return wire.finish(stream)
    outcome = Outcome()
    outcome.take(frame)
    return outcome


def test_owner_of_the_old_file_is_kept(wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    nobody = pwd.getpwnam("nobody")
    os.chown(path, nobody.pw_uid, nobody.pw_gid)
    path.chmod(0o6755)
    assert write(wire, path).errno == 0
    status = path.stat()
    assert (status.st_uid, status.st_gid) == (nobody.pw_uid, nobody.pw_gid)
    assert stat.S_IMODE(status.st_mode) == 0o6755


def test_an_owner_that_cannot_be_kept_leaves_the_old(wire: Wire, tmp_path: Path, secret: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "file").write_bytes(b"old")
    (shared / "file").chmod(0o666)
    assert write(wire, shared / "file", ("USER", "nobody")).errno == errno.EPERM
    assert (shared / "file").read_bytes() == b"old" and [p.name for p in shared.iterdir()] == ["file"]


def test_what_is_hidden_in_a_tree_is_told_as_a_name(wire: Wire, tmp_path: Path, secret: Path) -> None:
    items = wire.run(Op.LIST, ("PATH", str(tmp_path)), ("DEPTH", 5), ("USER", "nobody")).items
    names = {item["NAME"] for item in items}
    assert b"secret" in names and b"secret/file" not in names
    assert wire.run(Op.METRICS).errno == 0
    assert number(items[0]["UID"]) == 0
