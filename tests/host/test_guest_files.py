"""Files of the guest, against the real agent on the file system of the test."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pandastack.errors import (
    FileMissing,
    FileRefused,
    GuestUnreachable,
    InvalidRequest,
    PandastackError,
)
from pandastack.host import unix
from pandastack.host.guest import Deadlines, GuestLink
from pandastack.model.guest import Command, FileEvent, FileKind, Guest
from pandastack.testing.machines import gate_facts
from pandastack.testing.process_driver import ProcessMachine

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def content(guest: GuestLink, path: Path, *, offset: int = 0, length: int | None = None) -> bytes:
    async with guest.read(str(path), offset=offset, length=length) as file:
        return b"".join([piece async for piece in file])


async def test_write_and_read(guest: GuestLink, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    assert await guest.write(str(path), pieces(b"hello ", b"world"), mode=0o640) == 11
    assert path.read_bytes() == b"hello world"
    assert path.stat().st_mode & 0o777 == 0o640
    assert await content(guest, path) == b"hello world"
    assert await content(guest, path, offset=6) == b"world"
    assert await content(guest, path, offset=2, length=3) == b"llo"
    assert await content(guest, path, offset=100) == b""
    async with guest.read(str(path)) as file:
        assert (file.entry.name, file.entry.size, file.entry.kind) == ("file", 11, FileKind.FILE)
        assert file.entry.mode == 0o640


async def test_an_empty_file(guest: GuestLink, tmp_path: Path) -> None:
    assert await guest.write(str(tmp_path / "empty"), pieces()) == 0
    assert await content(guest, tmp_path / "empty") == b""


async def test_64_mib_each_way_arrive_whole(guest: GuestLink, tmp_path: Path) -> None:
    block = os.urandom(1 << 20)
    assert await guest.write(str(tmp_path / "big"), pieces(*[block] * 64)) == 64 << 20
    received = hashlib.sha256()
    async with guest.read(str(tmp_path / "big")) as file:
        async for piece in file:
            received.update(piece)
    assert received.digest() == hashlib.sha256(block * 64).digest()


async def test_a_write_that_is_given_up_leaves_the_old_file(guest: GuestLink, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"new"
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(guest.write(str(path), endless()))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])

    async def broken() -> AsyncIterator[bytes]:
        yield b"new"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await guest.write(str(path), broken())
    await guest.stat(str(path))
    assert path.read_bytes() == b"old"
    assert {entry.name for entry in await guest.list(str(tmp_path))} == {"file", "home"}


async def test_a_file_that_is_not_read_to_its_end(guest: GuestLink, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(8 << 20))
    for _ in range(5):
        async with guest.read(str(tmp_path / "big")) as file:
            async for piece in file:
                assert piece
                break
    await guest.ping(deadline=5)


def plant(root: Path) -> None:
    (root / "deep" / "er").mkdir(parents=True)
    (root / "file").write_bytes(b"12345")
    (root / "link").symlink_to("file")
    (root / "deep" / "er" / "leaf").touch()
    os.mkfifo(root / "pipe")
    Path(os.fsdecode(bytes(root) + b"/caf\xe9")).touch()


async def test_listing(guest: GuestLink, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    plant(root)
    flat = {entry.name: entry for entry in await guest.list(str(root))}
    assert set(flat) == {"deep", "file", "link", "pipe", "caf\N{REPLACEMENT CHARACTER}"}
    assert (flat["file"].size, flat["file"].kind) == (5, FileKind.FILE)
    assert flat["file"].mtime_ns == (root / "file").stat().st_mtime_ns
    assert (flat["file"].uid, flat["file"].gid) == (os.getuid(), os.getgid())
    assert (flat["link"].kind, flat["link"].link) == (FileKind.LINK, "file")
    assert flat["pipe"].kind is FileKind.PIPE
    assert flat["deep"].kind is FileKind.DIRECTORY
    deep = {entry.name for entry in await guest.list(str(root), depth=3)}
    assert deep == {*flat, "deep/er", "deep/er/leaf"}
    assert await guest.list(str(root / "deep" / "er" / ".." / "er"), depth=1)


async def test_a_large_directory(guest: GuestLink, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    names = {f"file-with-a-rather-long-name-{number:05}" for number in range(5000)}
    for name in names:
        (folder / name).touch()
    assert {entry.name for entry in await guest.list(str(folder))} == names


async def test_stat_follows_links_or_not(guest: GuestLink, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    followed = await guest.stat(str(tmp_path / "link"))
    assert (followed.name, followed.kind, followed.size) == ("link", FileKind.FILE, 5)
    itself = await guest.stat(str(tmp_path / "link"), follow=False)
    assert (itself.name, itself.kind, itself.link) == ("link", FileKind.LINK, "file")
    assert (await guest.stat("/")).name == "/"


async def test_mkdir_move_chmod_remove(guest: GuestLink, tmp_path: Path) -> None:
    await guest.mkdir(str(tmp_path / "a" / "b"), mode=0o750)
    await guest.mkdir(str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o750
    (tmp_path / "a" / "file").write_bytes(b"x")
    await guest.move(str(tmp_path / "a"), str(tmp_path / "new" / "place"))
    assert (tmp_path / "new" / "place" / "file").read_bytes() == b"x"
    await guest.chmod(str(tmp_path / "new"), 0o700, recursive=True)
    assert (tmp_path / "new" / "place" / "file").stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileRefused, match="not empty"):
        await guest.remove(str(tmp_path / "new"))
    await guest.remove(str(tmp_path / "new"), recursive=True)
    assert not (tmp_path / "new").exists()


async def test_moving_across_file_systems(guest: GuestLink, tmp_path: Path) -> None:
    with TemporaryDirectory(dir="/dev/shm") as other:
        plant(tmp_path / "tree")
        await guest.move(str(tmp_path / "tree"), f"{other}/tree")
        moved = {entry.name: entry for entry in await guest.list(f"{other}/tree", depth=3)}
        assert (moved["file"].size, moved["link"].link) == (5, "file")
        assert "deep/er/leaf" in moved
        assert not (tmp_path / "tree").exists()


async def test_rights_are_those_of_the_user(guest: GuestLink, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    secret.chmod(0o600)
    for parent in (tmp_path, *tmp_path.parents[:4]):
        parent.chmod(parent.stat().st_mode | 0o055)
    with pytest.raises(FileRefused, match="permission denied"):
        async with guest.read(str(secret), user="nobody"):
            pass
    with pytest.raises(FileRefused, match="permission denied"):
        await guest.write(str(secret), pieces(b"y"), user="nobody")
    assert secret.read_bytes() == b"x"


Ask = Callable[[GuestLink, str], Awaitable[object]]
ASKS: list[Ask] = [
    lambda guest, path: content(guest, Path(path)) if path.startswith("/") else guest.read(path).__aenter__(),
    lambda guest, path: guest.list(path),
    lambda guest, path: guest.stat(path),
    lambda guest, path: guest.chmod(path, 0o600),
    lambda guest, path: guest.remove(path),
    lambda guest, path: guest.move(path, "/tmp/elsewhere"),
    lambda guest, path: guest.watch(path).__aenter__(),
]


@pytest.mark.parametrize("ask", ASKS)
async def test_a_missing_path_and_a_relative_one(guest: GuestLink, tmp_path: Path, ask: Ask) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(FileMissing, match=f'no such file or directory in the sandbox: "{missing}"'):
        await ask(guest, missing)
    with pytest.raises(InvalidRequest, match='path must be absolute, got "relative"'):
        await ask(guest, "relative")
    await guest.ping(deadline=5)


@pytest.mark.parametrize(
    ("ask", "kind", "words"),
    [
        (lambda g, p: content(g, p), FileRefused, "it is a directory"),
        (lambda g, p: g.list(str(p / "file")), FileRefused, "no directory"),
        (lambda g, p: g.write(str(p), pieces(b"x")), FileRefused, "it is a directory"),
        (lambda g, p: g.write(str(p / "file" / "x"), pieces(b"x")), FileRefused, "no directory"),
        (lambda g, p: g.mkdir(str(p / "file")), FileRefused, "exists already"),
        (lambda g, p: g.stat(str(p / ("n" * 300))), FileRefused, "name is too long"),
        (
            lambda g, p: g.write("/dev/full", pieces(b"x" * 100_000)),
            FileRefused,
            "the sandbox's disk is full",
        ),
        (lambda g, p: g.remove("/", recursive=True), InvalidRequest, "/"),
        (lambda g, p: g.stat(str(p), user="nosuchuser"), InvalidRequest, "no such user"),
        (lambda g, p: g.stat("/a\0b"), InvalidRequest, "NUL"),
        (lambda g, p: g.stat("/" + "a/" * 3000), InvalidRequest, "at most 4095 bytes"),
        (lambda g, p: g.stat("/", user=""), InvalidRequest, "user must have"),
        (lambda g, p: g.list("/", depth=0), InvalidRequest, "depth must be 1 to 64, got 0"),
        (lambda g, p: g.chmod(str(p), 0o10000), InvalidRequest, "mode must be 0 to 7777"),
        (lambda g, p: content(g, p / "file", offset=-1), InvalidRequest, "offset"),
    ],
)
async def test_refusals_say_what_and_why(
    guest: GuestLink,
    tmp_path: Path,
    ask: Callable[[GuestLink, Path], Awaitable[object]],
    kind: type[PandastackError],
    words: str,
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(kind, match=words):
        await ask(guest, tmp_path)
    await guest.ping(deadline=5)


async def test_what_is_no_regular_file_is_read_and_written_through(guest: GuestLink) -> None:
    assert (await content(guest, Path("/proc/version"))).startswith(b"Linux version")
    assert await guest.write("/dev/null", pieces(b"12345")) == 5
    assert (await guest.stat("/dev/null")).kind is FileKind.CHARACTER
    assert len(await content(guest, Path("/dev/zero"), length=1000)) == 1000


async def test_watching(guest: GuestLink, tmp_path: Path) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()

    async def until(events: AsyncIterator[FileEvent], wanted: FileEvent) -> None:
        async with asyncio.timeout(10):
            async for event in events:
                if event == wanted:
                    return

    async with guest.watch(str(folder)) as events:
        (folder / "file").write_bytes(b"x")
        await until(events, FileEvent("file", "create"))
        await until(events, FileEvent("file", "modify"))
        (folder / "file").chmod(0o600)
        await until(events, FileEvent("file", "attrib"))
        (folder / "file").unlink()
        await until(events, FileEvent("file", "remove"))
    async with guest.watch(str(folder), recursive=True) as events:
        (folder / "sub").mkdir()
        await until(events, FileEvent("sub", "create"))
        (folder / "sub" / "leaf").touch()
        await until(events, FileEvent("sub/leaf", "create"))


async def test_metrics(guest: GuestLink) -> None:
    metrics = await guest.metrics()
    assert 0 < metrics.memory_available <= metrics.memory_total
    assert 0 < metrics.disk_free <= metrics.disk_total
    assert metrics.process_count > 1
    assert metrics.uptime_ms > 0


async def test_an_agent_that_does_not_answer_is_unreachable_at_the_deadline(machine: ProcessMachine) -> None:
    socket = unix.connect(machine.guest_socket)
    async with await GuestLink.connect(socket, deadlines=Deadlines(answer=0.1, work=0.2)) as hasty:
        guest: Guest = hasty
        hasty.announce(os.urandom(16), gate_facts())
        await hasty.entered(deadline=5)
        await machine.pause()
        for ask in (
            guest.stat("/"),
            guest.list("/"),
            guest.remove("/nothing"),
            guest.write("/dev/null", pieces(b"x")),
            guest.read("/etc/passwd").__aenter__(),
            guest.run(Command(process_id="a", argv=("true",))).__aenter__(),
        ):
            with pytest.raises(GuestUnreachable, match=r"did not answer within 0\.[12] s"):
                await ask
        await machine.resume()
        assert (await guest.stat("/")).kind is FileKind.DIRECTORY
