"""Files over HTTP, through a real socket where bytes matter."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from pandastack.testing.fixtures import eventually
from tests.api.conftest import TOKEN, World

pytestmark = pytest.mark.anyio


@pytest.fixture
def fs(box: str) -> str:
    return f"/v1/sandboxes/{box}/fs"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that the guest sees too, since it is a process of this machine."""
    folder = tmp_path / "in the guest"
    folder.mkdir()
    return folder


async def test_a_file_goes_in_and_comes_out(http: httpx2.AsyncClient, fs: str, place: Path) -> None:
    path = str(place / "deep" / "er" / "ü.txt")
    written = await http.put(
        fs, params={"path": path}, content=b"hello", headers={"content-type": "application/json"}
    )
    assert written.json() == {"path": path, "bytes": 5}
    read = await http.get(fs, params={"path": path})
    assert read.content == b"hello"
    assert read.headers["content-type"] == "application/octet-stream"
    assert read.headers["content-length"] == "5"


async def test_an_empty_file(http: httpx2.AsyncClient, fs: str, place: Path) -> None:
    path = str(place / "empty")
    assert (await http.put(fs, params={"path": path})).json()["bytes"] == 0
    assert (await http.get(fs, params={"path": path})).content == b""


async def test_a_file_that_tells_no_size_is_read_to_its_end(http: httpx2.AsyncClient, fs: str) -> None:
    read = await http.get(fs, params={"path": "/proc/self/status"})
    assert b"Name:" in read.content and "content-length" not in read.headers


async def test_mode_and_user(world: World, fs: str, place: Path) -> None:
    path = str(place / "run.sh")
    await world.http.put(fs, params={"path": path, "mode": "0750"}, content=b"")
    stat = (await world.http.get(f"{fs}/stat", params={"path": path})).json()
    assert stat["permissions"] == "0750"
    place.chmod(0o700)
    refused = await world.http.put(fs, params={"path": path, "user": "nobody"}, content=b"x")
    assert refused.status_code == 409 and "permission" in refused.json()["error"]


async def test_head_tells_the_size_alone(http: httpx2.AsyncClient, fs: str, place: Path) -> None:
    (place / "f").write_bytes(b"12345")
    head = await http.head(fs, params={"path": str(place / "f")})
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "5", b"")
    assert (await http.head(fs, params={"path": str(place / "none")})).status_code == 404


@pytest.mark.parametrize(
    ("wanted", "status", "content", "told"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
async def test_a_part_of_a_file(
    http: httpx2.AsyncClient,
    fs: str,
    place: Path,
    *,
    wanted: str,
    status: int,
    content: bytes,
    told: str | None,
) -> None:
    (place / "f").write_bytes(b"0123456789")
    read = await http.get(fs, params={"path": str(place / "f")}, headers={"range": wanted})
    assert (read.status_code, read.content, read.headers.get("content-range")) == (status, content, told)


async def test_a_part_beyond_the_file_is_refused(http: httpx2.AsyncClient, fs: str, place: Path) -> None:
    (place / "f").write_bytes(b"0123456789")
    path = str(place / "f")
    read = await http.get(fs, params={"path": path}, headers={"range": "bytes=10-"})
    assert read.status_code == 416 and read.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize("verb", ["", "/stat", "/dir"])
async def test_a_missing_file_is_404_and_a_relative_path_400(
    http: httpx2.AsyncClient, fs: str, place: Path, verb: str
) -> None:
    missing = await http.get(fs + verb, params={"path": str(place / "none")})
    assert (missing.status_code, missing.json()["code"]) == (404, "file.not_found")
    relative = await http.get(fs + verb, params={"path": "a/b"})
    assert relative.status_code == 400
    assert relative.json()["error"] == 'path must be absolute, got "a/b"'
    assert (await http.get(fs + verb, params={"path": "/a\0b"})).status_code == 400


async def test_a_path_is_needed(http: httpx2.AsyncClient, fs: str) -> None:
    answer = await http.get(fs)
    assert answer.status_code == 400 and "lacks the field `path`" in answer.json()["error"]


async def test_a_directory_is_no_file_and_a_file_no_directory(
    http: httpx2.AsyncClient, fs: str, place: Path
) -> None:
    (place / "f").write_bytes(b"")
    directory = await http.get(fs, params={"path": str(place)})
    assert directory.status_code == 400 and "directory" in directory.json()["error"]
    assert (await http.head(fs, params={"path": str(place)})).status_code == 400
    assert (await http.get(f"{fs}/dir", params={"path": str(place / "f")})).status_code == 400
    assert (await http.put(fs, params={"path": str(place)}, content=b"x")).status_code == 400


async def test_a_listing_has_the_entries_of_the_wire(http: httpx2.AsyncClient, fs: str, place: Path) -> None:
    (place / "file").write_bytes(b"123")
    (place / "sub").mkdir()
    (place / "link").symlink_to("file")
    listing = (await http.get(f"{fs}/dir", params={"path": str(place)})).json()
    entries = {entry["name"]: entry for entry in listing["entries"]}
    assert listing["path"] == str(place) and entries.keys() == {"file", "sub", "link"}
    assert (entries["file"]["mode"], entries["file"]["size"], entries["file"]["is_dir"]) == ("f", 3, False)
    assert (entries["sub"]["mode"], entries["sub"]["is_dir"]) == ("d", True)
    assert (entries["link"]["mode"], entries["link"]["link"]) == ("l", "file")
    assert entries["file"]["path"] == str(place / "file")
    assert abs(entries["file"]["mtime"] - (place / "file").stat().st_mtime) < 2
    assert entries["file"]["uid"] == os.getuid()


async def test_a_listing_may_be_deep_or_empty(http: httpx2.AsyncClient, fs: str, place: Path) -> None:
    assert (await http.get(f"{fs}/dir", params={"path": str(place)})).json()["entries"] == []
    (place / "a" / "b").mkdir(parents=True)
    deep = (await http.get(f"{fs}/dir", params={"path": str(place), "depth": "3"})).json()["entries"]
    assert {entry["path"] for entry in deep} == {str(place / "a"), str(place / "a" / "b")}


async def test_stat_follows_links_unless_told_otherwise(
    http: httpx2.AsyncClient, fs: str, place: Path
) -> None:
    (place / "file").write_bytes(b"x" * 15)
    (place / "link").symlink_to("file")
    path = str(place / "link")
    followed = (await http.get(f"{fs}/stat", params={"path": path})).json()
    assert (followed["name"], followed["size"], followed["mode"]) == ("link", 15, "f")
    itself = (await http.get(f"{fs}/stat", params={"path": path, "follow": "0"})).json()
    assert itself["mode"] == "l"


async def test_make_move_chmod_and_remove(http: httpx2.AsyncClient, fs: str, place: Path) -> None:
    made = await http.post(f"{fs}/mkdir", json={"path": str(place / "a" / "b"), "mode": "0711"})
    assert (made.status_code, made.json()["is_dir"], made.json()["permissions"]) == (201, True, "0711")
    (place / "a" / "b" / "f").write_bytes(b"1")
    moved = await http.post(
        f"{fs}/move", json={"path": str(place / "a" / "b" / "f"), "target": str(place / "c" / "g")}
    )
    assert moved.status_code == 204 and (place / "c" / "g").read_bytes() == b"1"
    mode = {"path": str(place / "c"), "mode": "700", "recursive": True}
    assert (await http.post(f"{fs}/chmod", json=mode)).status_code == 204
    assert (place / "c" / "g").stat().st_mode & 0o777 == 0o700
    assert (await http.delete(fs, params={"path": str(place / "c")})).status_code == 204
    assert not (place / "c").exists()
    assert (await http.delete(fs, params={"path": str(place / "c")})).status_code == 404
    assert (await http.delete(fs, params={"path": "/"})).status_code in {400, 409}


async def test_a_directory_that_is_not_empty_may_be_spared(
    http: httpx2.AsyncClient, fs: str, place: Path
) -> None:
    (place / "d").mkdir()
    (place / "d" / "f").write_bytes(b"1")
    spared = await http.delete(fs, params={"path": str(place / "d"), "recursive": "false"})
    assert (spared.status_code, spared.json()["code"]) == (409, "file.refused")
    assert "not empty" in spared.json()["error"] and (place / "d" / "f").exists()
    for name in ("d/f", "d"):
        gone = await http.delete(fs, params={"path": str(place / name), "recursive": "false"})
        assert gone.status_code == 204
    assert not (place / "d").exists()


async def chunks(count: int, seed: bytes) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield seed * 4096


async def test_a_large_file_streams_both_ways(wire: httpx2.AsyncClient, fs: str, place: Path) -> None:
    seed, count = os.urandom(16), 256
    path = str(place / "large")
    written = await wire.put(fs, params={"path": path}, content=chunks(count, seed))
    assert written.json()["bytes"] == count * 65536
    digest = sha256()
    async with wire.stream("GET", fs, params={"path": path}) as read:
        assert read.headers["content-length"] == str(count * 65536)
        async for part in read.aiter_bytes():
            digest.update(part)
    assert digest.digest() == sha256(seed * 4096 * count).digest()


async def test_a_file_that_is_too_large_is_refused_and_the_old_one_kept(
    idle_world: World, tmp_path: Path
) -> None:
    await idle_world.start(max_upload_bytes=100)
    fs = f"/v1/sandboxes/{(await idle_world.create())['id']}/fs"
    old = tmp_path / "old"
    old.write_bytes(b"old")
    declared = await idle_world.http.put(fs, params={"path": str(old)}, content=b"x" * 101)
    assert declared.status_code == 413
    streamed = await idle_world.http.put(fs, params={"path": str(old)}, content=chunks(1, b"x"))
    assert streamed.status_code == 413
    assert old.read_bytes() == b"old" and [path.name for path in tmp_path.glob("*old*")] == ["old"]


async def test_a_client_that_leaves_in_the_middle_leaves_the_old_file(url: str, fs: str, place: Path) -> None:
    old = place / "old"
    old.write_bytes(b"old")
    target = f"{fs}?path={str(old).replace(' ', '%20')}"
    head = f"PUT {target} HTTP/1.1\r\nhost: x\r\nx-api-key: {TOKEN}\r\ncontent-length: 1000000\r\n\r\n"
    with socket.create_connection((str(urlsplit(url).hostname), urlsplit(url).port or 0)) as line:
        await asyncio.to_thread(line.sendall, head.encode() + b"x" * 500_000)
        await eventually(lambda: len(list(place.iterdir())) == 2)
    await eventually(lambda: [path.name for path in place.iterdir()] == ["old"])
    assert old.read_bytes() == b"old"


async def test_changes_are_watched(wire: httpx2.AsyncClient, fs: str, place: Path) -> None:
    async with wire.stream("GET", f"{fs}/watch", params={"path": str(place), "recursive": "1"}) as watch:
        lines = watch.aiter_lines()
        assert await anext(lines) == ": ready"
        (place / "new").write_bytes(b"x")
        async with asyncio.timeout(5):
            async for line in lines:
                if line.startswith("data: ") and '"new"' in line:
                    break
