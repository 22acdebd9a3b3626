"""What every blob store does: a directory, and a bucket of a real S3 server on the loopback."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from pandastack.blobs.directory import DRAFTS, Directory
from pandastack.blobs.place import claim, open_blobs
from pandastack.blobs.store import Blob, BlobMissing, BlobStore
from pandastack.errors import BlobsDown, Conflict, InternalError, InvalidRequest
from tests.blobs.conftest import KEY, SECRET, Stores

pytestmark = pytest.mark.anyio


async def names(blobs: BlobStore, folder: str) -> list[Blob]:
    return sorted([each async for each in blobs.list(folder)], key=lambda each: each.name)


async def test_what_is_put_is_there(stores: Stores) -> None:
    blobs = await stores.open("one")
    data = os.urandom(100_000)
    await blobs.put("a/b/data", b"before")
    await blobs.put("a/b/data", data)
    await blobs.put("a/empty", b"")
    await blobs.put("ab", b"beside")
    again = await stores.open("one")
    assert await again.get("a/b/data") == data and await again.get("a/empty") == b""
    assert await again.get_range("a/b/data", 10, 20) == data[10:30]
    assert await again.get_range("a/b/data", len(data) - 5, 20) == data[-5:]
    assert await again.get_range("a/b/data", len(data) + 5, 20) == b""
    assert await names(again, "a") == [Blob("a/b/data", len(data)), Blob("a/empty", 0)]
    assert await names(again, "nothing") == []
    await again.delete("a/b/data")
    await again.delete("a/b/data")
    assert await names(blobs, "a") == [Blob("a/empty", 0)]
    for asked in (blobs.get("a/b/data"), blobs.get("a"), blobs.get_range("a/b/data", 0, 1)):
        with pytest.raises(BlobMissing):
            await asked


async def test_of_many_who_create_one_does(stores: Stores) -> None:
    blobs = await stores.open("one")
    made = await asyncio.gather(*(blobs.create("x/y", b"%d" % n) for n in range(8)))
    assert sorted(made) == [False] * 7 + [True]
    assert await blobs.get("x/y") == b"%d" % made.index(True)


async def test_it_is_one_server_s(stores: Stores) -> None:
    blobs = await stores.open("one")
    await claim(blobs, "mine")
    await claim(await stores.open("one"), "mine")
    with pytest.raises(Conflict, match="another server"):
        await claim(await stores.open("one"), "yours")
    await claim(await stores.open("two"), "yours")


@pytest.mark.parametrize("name", ["", "/a", "a/", "../a", "a//b", "a/../b", ".drafts/x", "a/.hidden", "a\nb"])
async def test_no_name_leads_elsewhere(stores: Stores, name: str) -> None:
    blobs = await stores.open("one")
    for asked in (blobs.put(name, b""), blobs.get(name), blobs.delete(name), blobs.create(name, b"")):
        with pytest.raises(InternalError):
            await asked


async def test_a_bucket_that_is_down_or_closed_is_told_without_its_keys(s3_url: str) -> None:
    closed = await open_blobs(s3_url.format("x"), KEY, "wrong" * 8)
    with pytest.raises(BlobsDown, match="does not let") as refused:
        await closed.put("a", b"")
    assert KEY not in str(refused.value) and "wrong" not in str(refused.value)


async def test_a_directory_has_no_half_blob(tmp_path: Path) -> None:
    blobs = Directory(tmp_path / "deep" / "store")
    blobs.open()
    await blobs.put("a", b"whole")
    half = tmp_path / "deep" / "store" / DRAFTS / "tmpx"
    half.write_bytes(b"wh")
    blobs.open()
    assert not half.exists() and await blobs.get("a") == b"whole"
    (tmp_path / "deep" / "store" / "b").write_text("a file where a folder should be")
    with pytest.raises(BlobsDown):
        await blobs.put("b/c", b"")
    assert [*(tmp_path / "deep" / "store" / DRAFTS).iterdir()] == []


@pytest.mark.parametrize(
    "url",
    [
        *("/var/lib/blobs", "file:blobs", "file://elsewhere/blobs", "http://bucket", "s3:///prefix"),
        *(f"s3://{KEY}:{SECRET}@bucket", "s3://bucket?secret=x", "gs://bucket"),
    ],
)
async def test_a_place_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await open_blobs(url)
    assert SECRET not in str(refused.value)


async def test_keys_come_in_pairs() -> None:
    with pytest.raises(InvalidRequest, match="together"):
        await open_blobs("s3://bucket", KEY)
