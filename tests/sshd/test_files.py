"""Files by `scp`, `sftp` and `rsync`, all of which are the sandbox's own."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from pandastack.sshd.files import Files
from tests.api.conftest import World
from tests.sshd.conftest import Pass, admitted

pytestmark = pytest.mark.anyio

MEGABYTE = 1 << 20
HARMLESS = frozenset(
    {
        *("channel", "connection", "env", "logger", "convert_attrs", "format_longname"),
        *("lock", "unlock", "_to_sftpname", "__init__"),
    }
)
"""Of asyncssh's own server: what looks at nothing of this machine's."""


def test_nothing_of_asyncsshs_own_server_is_left() -> None:
    """Its verbs are about the disk of the machine that it runs on."""
    own = {name for name, _ in inspect.getmembers(asyncssh.SFTPServer, inspect.isfunction)}
    own = {name for name in own if name in vars(asyncssh.SFTPServer)}
    assert own - set(vars(Files)) - HARMLESS == set()


@pytest.fixture
async def folder(world: World, box: str, tmp_path: Path) -> str:
    """A directory in the sandbox; under the process driver that is one of this machine."""
    place = str(tmp_path / "in")
    await world.exec(box, f"mkdir -p {place}")
    return place


async def test_20_megabytes_each_way(
    visit: Pass, world: World, box: str, folder: str, tmp_path: Path
) -> None:
    data = os.urandom(20 * MEGABYTE + 17)
    (tmp_path / "there").write_bytes(data)
    (tmp_path / "there").chmod(0o640)
    done = await visit.run("scp", "-p", str(tmp_path / "there"), f"HOST:{folder}/file")
    assert done.status == 0, done.err
    found = await world.exec(box, f"sha256sum < {folder}/file; stat -c %a {folder}/file")
    assert found["stdout"].split() == [hashlib.sha256(data).hexdigest(), "-", "640"]
    done = await visit.run("scp", f"HOST:{folder}/file", str(tmp_path / "back"))
    assert done.status == 0, done.err
    assert (tmp_path / "back").read_bytes() == data


async def test_a_tree(visit: Pass, world: World, box: str, folder: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "er" / "name with 'quotes' $(x)\nand more").write_text("one")
    (tree / "empty").touch()
    (tree / "program").touch(0o755)
    assert (await visit.run("scp", "-r", str(tree), f"HOST:{folder}")).status == 0
    assert (await visit.run("scp", "-r", f"HOST:{folder}/tree", str(tmp_path / "back"))).status == 0
    assert stat.S_IMODE((tmp_path / "back" / "program").stat().st_mode) == 0o755
    names = {str(path.relative_to(tree)) for path in tree.rglob("*")}
    assert {str(path.relative_to(tmp_path / "back")) for path in (tmp_path / "back").rglob("*")} == names
    assert (tmp_path / "back" / "deep" / "er" / "name with 'quotes' $(x)\nand more").read_text() == "one"


async def test_paths_begin_where_commands_do(visit: Pass, tmp_path: Path) -> None:
    here = (await visit.ssh("pwd")).out.decode().strip()
    async with visit.connected() as connection, connection.start_sftp_client() as sftp:
        assert await sftp.realpath(".") == here


async def test_the_verbs(visit: Pass, folder: str) -> None:
    async with visit.connected() as connection, connection.start_sftp_client() as sftp:
        await sftp.chdir(folder)
        await sftp.mkdir("d")
        async with sftp.open("d/a", "w") as file:
            await file.write("one\n")
        await sftp.symlink("a", "d/link")
        assert await sftp.readlink("d/link") == "a"
        assert (await sftp.lstat("d/link")).type == asyncssh.FILEXFER_TYPE_SYMLINK
        assert (await sftp.stat("d/link")).size == 4
        await sftp.link("d/a", "d/hard")
        await sftp.rename("d/hard", "d/moved")
        with pytest.raises(asyncssh.SFTPFailure, match="exists"):
            await sftp.rename("d/moved", "d/a")
        await sftp.posix_rename("d/moved", "d/b")
        await sftp.posix_rename("d/b", "d/link")
        assert (await sftp.lstat("d/link")).type == asyncssh.FILEXFER_TYPE_REGULAR
        await sftp.setstat("d/a", asyncssh.SFTPAttrs(permissions=0o600, atime=1_000_000, mtime=2_000_000))
        found = await sftp.stat("d/a")
        assert (stat.S_IMODE(found.permissions or 0), found.mtime) == (0o600, 2_000_000)
        await sftp.truncate("d/a", 2)
        assert sorted([name async for name in _names(sftp, "d")]) == ["a", "link"]
        with pytest.raises(asyncssh.SFTPFailure):
            await sftp.rmdir("d")
        with pytest.raises(asyncssh.SFTPFailure):
            await sftp.remove("d")
        with pytest.raises(asyncssh.SFTPFailure):
            await sftp.rmdir("d/a")
        with pytest.raises(asyncssh.SFTPFailure):
            await sftp.mkdir("d")
        with pytest.raises(asyncssh.SFTPNoSuchFile):
            await sftp.mkdir("not/there")
        assert (await sftp.statvfs("d")).blocks > 0
        async with sftp.open("d/a") as file:
            assert await file.read() == "on"
        await sftp.remove("d/link")
        await sftp.remove("d/a")
        await sftp.rmdir("d")
        with pytest.raises(asyncssh.SFTPNoSuchFile):
            await sftp.stat("d")


async def _names(sftp: asyncssh.SFTPClient, path: str) -> AsyncIterator[str]:
    async for entry in sftp.scandir(path):
        if entry.filename not in (".", ".."):
            yield str(entry.filename)


async def test_reading_and_writing_anywhere_in_a_file(visit: Pass, folder: str) -> None:
    async with visit.connected() as connection, connection.start_sftp_client() as sftp:
        path = f"{folder}/file"
        async with sftp.open(path, "wb") as file:
            await file.write(b"0123456789" * 1000)
        async with sftp.open(path, "r+b") as file:
            await file.write(b"XY", 5)
            await file.write(b"Z", 9999)
            assert await _bytes(file, 4, 4) == b"4XY7"
            assert await _bytes(file, 10, 9995) == b"5678Z"
            await file.write(b"+", 10_005)
            assert (await file.stat()).size == 10_006
        async with sftp.open(path, "ab") as file:
            await file.write(b"end")
        async with sftp.open(path, "rb") as file:
            data = await _bytes(file, -1, 0)
        assert data[:8] == b"01234XY7" and data[9999:] == b"Z\0\0\0\0\0+end"
        with pytest.raises(asyncssh.SFTPFailure):
            async with sftp.open(path, "xb"):
                pass
        with pytest.raises(asyncssh.SFTPNoSuchFile):
            async with sftp.open(f"{folder}/never", "r+b"):
                pass
        with pytest.raises(asyncssh.SFTPError):
            async with sftp.open(folder, "wb"):
                pass
        with pytest.raises(asyncssh.SFTPError):
            async with sftp.open(folder, "rb"):
                pass


async def _bytes(file: asyncssh.SFTPClientFile, size: int, offset: int) -> bytes:
    """A part of a file that was opened for bytes."""
    data: object = await file.read(size, offset)
    assert isinstance(data, bytes)
    return data


async def test_a_full_disk_is_told(visit: Pass) -> None:
    async with visit.connected() as connection, connection.start_sftp_client() as sftp:
        with pytest.raises(asyncssh.SFTPFailure, match="No space"):
            async with sftp.open("/dev/full", "wb") as file:
                await file.write(b"x" * 100_000)


async def test_names_are_no_code(visit: Pass, world: World, box: str, folder: str) -> None:
    names = ["-rf", "--help", "$(touch pwned)", "`touch pwned`", "a;touch pwned", "'\"", "*", "~", "ä\n€"]
    async with visit.connected() as connection, connection.start_sftp_client() as sftp:
        await sftp.chdir(folder)
        for name in names:
            async with sftp.open(name, "w") as file:
                await file.write(name)
            await sftp.symlink(name, f"{name}.link")
            await sftp.utime(name, (5, 5))
            assert (await sftp.stat(f"{name}.link")).mtime == 5
            assert await sftp.realpath(f"{name}.link") == f"{folder}/{name}"
        found = {name async for name in _names(sftp, ".")}
    assert found == {*names, *(f"{name}.link" for name in names)}


async def test_it_is_the_sandboxs_disk(visit: Pass, world: World, box: str, tmp_path: Path) -> None:
    """No path leads to this machine. The process driver, which keeps nobody apart, is the control."""
    secret = tmp_path / "secret"
    secret.write_text("of this machine")
    apart = world.host.vms.driver.name != "process"
    seen = []
    ways = [str(secret), f"/../../..{secret}", f"../../../../../../..{secret}", f"/proc/self/root{secret}"]
    async with visit.connected() as connection, connection.start_sftp_client() as sftp:
        await sftp.symlink(str(secret), f"/tmp/{box}")
        for way in (*ways, f"/tmp/{box}"):
            try:
                async with sftp.open(way) as file:
                    seen.append(await file.read())
            except asyncssh.SFTPNoSuchFile:
                seen.append("")
        await sftp.remove(f"/tmp/{box}")
    assert seen == ["" if apart else "of this machine"] * 5


async def test_with_the_rights_of_its_user(
    world: World, address: tuple[str, int], box: str, tmp_path: Path
) -> None:
    await world.exec(box, f"mkdir -p /tmp/{box} && chmod 700 /tmp/{box} && echo x > /tmp/{box}/file")
    visit = await admitted(world, tmp_path / "nobody", box, user="nobody")
    root = await admitted(world, tmp_path / "root", box)
    assert (await root.ssh(f"cat /tmp/{box}/file")).out == b"x\n"
    async with visit.connected() as connection, connection.start_sftp_client() as sftp:
        for mode in ("r", "w", "a", "r+"):
            with pytest.raises(asyncssh.SFTPPermissionDenied):
                async with sftp.open(f"/tmp/{box}/file", mode):
                    pass
        with pytest.raises(asyncssh.SFTPPermissionDenied):
            await sftp.symlink("x", f"/tmp/{box}/link")
        with pytest.raises(asyncssh.SFTPPermissionDenied):
            await sftp.remove(f"/tmp/{box}/file")
    await world.exec(box, f"rm -r /tmp/{box}")


async def test_a_client_that_goes_in_the_middle(visit: Pass, world: World, box: str, folder: str) -> None:
    """What wrote for it ends."""
    path = f"{folder}/file"
    async with visit.connected() as connection:
        sftp = await connection.start_sftp_client()
        file = await sftp.open(path, "wb")
        await file.write(b"x" * MEGABYTE)
        assert await _writers(world, box, path)
        connection.abort()
    for _ in range(100):
        if not await _writers(world, box, path):
            return
        await asyncio.sleep(0.1)
    pytest.fail("its writer goes on")


async def _writers(world: World, box: str, path: str) -> int:
    """How many processes of the sandbox have a file open."""
    line = f"ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c -- '-> {path}$'"
    return int((await world.exec(box, line))["stdout"])


async def test_so_many_files_may_be_open(visit: Pass, folder: str) -> None:
    async with visit.connected() as connection, connection.start_sftp_client() as sftp:
        async with sftp.open(f"{folder}/file", "wb") as file:
            await file.write(b"x")
        handles = []
        with pytest.raises(asyncssh.SFTPFailure, match="Too many"):
            for _ in range(200):
                handles.append(await sftp.open(f"{folder}/file"))
        await handles.pop().close()
        handles.append(await sftp.open(f"{folder}/file"))
        for handle in handles:
            await handle.close()


async def test_other_subsystems(visit: Pass) -> None:
    done = await visit.run("ssh", "-s", "HOST", "netconf")
    assert done.status == 255 and "subsystem request failed" in done.err


async def test_rsync(visit: Pass, world: World, box: str, folder: str, tmp_path: Path) -> None:
    """With the sandbox's own `rsync`, which is put there first."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(20):
        (tree / str(number)).write_bytes(os.urandom(50_000))
    (tree / "link").symlink_to("7")
    program = await _rsync_in(visit, folder, tmp_path)
    shell = " ".join(["ssh", *visit.options])
    words = ("rsync", "-a", "--delete", "-e", shell, "--rsync-path", program)
    for source, target in (
        (f"{tree}/", f"{visit.address[0]}:{folder}/tree/"),
        (f"{visit.address[0]}:{folder}/tree/", f"{tmp_path}/back/"),
    ):
        process = await asyncio.create_subprocess_exec(*words, source, target)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    for path in tree.iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "back" / "link").is_symlink()


async def _rsync_in(visit: Pass, folder: str, tmp_path: Path) -> str:
    """How this machine's rsync is called in the sandbox, with the libraries that it was made for."""
    process = await asyncio.create_subprocess_exec("ldd", "/usr/bin/rsync", stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    needed = [word for word in out.decode().split() if word.startswith("/")]
    assert (await visit.ssh(f"mkdir -p {folder}/rs")).status == 0
    done = await visit.run("scp", "/usr/bin/rsync", *needed, f"HOST:{folder}/rs/")
    assert done.status == 0, done.err
    loader = next(Path(path).name for path in needed if Path(path).name.startswith("ld-linux"))
    return f"{folder}/rs/{loader} --library-path {folder}/rs {folder}/rs/rsync"
