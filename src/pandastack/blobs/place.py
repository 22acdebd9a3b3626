"""Which store a URL means."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from pandastack.blobs.bucket import Bucket, BucketPlace
from pandastack.blobs.directory import Directory
from pandastack.blobs.store import BlobMissing, BlobStore
from pandastack.errors import Conflict, InvalidRequest

OPTIONS = {"endpoint", "region"}
OWNER = "owner"
"""The blob that tells whose the others are."""


async def open_blobs(url: str, access_key: str | None = None, secret_key: str | None = None) -> BlobStore:
    """The store at `file:///path` or `s3://bucket/prefix?endpoint=URL&region=NAME`. A directory is made; a
    bucket is not asked for anything yet. Errors: InvalidRequest, BlobsDown.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        directory = Directory(Path(unquote(parts.path)))
        await asyncio.to_thread(directory.open)
        return directory
    if parts.scheme != "s3":
        raise InvalidRequest("blobs is file:///path or s3://bucket/prefix?endpoint=URL&region=NAME.")
    return Bucket(_place(url, access_key, secret_key))


async def claim(blobs: BlobStore, owner: str) -> None:
    """Have it be this server's: another one would take for garbage what this one keeps. Errors: Conflict when
    it is another's, BlobsDown.
    """
    if await blobs.create(OWNER, owner.encode()):
        return
    try:
        held = (await blobs.get(OWNER)).decode(errors="replace")
    except BlobMissing:
        held = "nobody, just now"
    if held != owner:
        raise Conflict(
            "The blob store belongs to another server: give each a prefix of its own. When that server is no "
            f"more, remove the blob {OWNER!r} from the store."
        )


def _place(url: str, access_key: str | None, secret_key: str | None) -> BucketPlace:
    parts = urlsplit(url)
    if not parts.hostname or "@" in parts.netloc:
        raise InvalidRequest(
            "blobs names a bucket, s3://bucket/prefix, and no keys: these are settings by themselves."
        )
    if (access_key is None) != (secret_key is None):
        raise InvalidRequest("blobs_access_key and blobs_secret_key go together.")
    options = parse_qs(parts.query, keep_blank_values=True)
    if unknown := sorted(set(options) - OPTIONS):
        raise InvalidRequest(f"blobs has no option {unknown[0]!r}: it has {' and '.join(sorted(OPTIONS))}.")
    told = {name: values[-1] for name, values in options.items()}
    return BucketPlace(
        parts.netloc, unquote(parts.path).strip("/"), access_key=access_key, secret_key=secret_key, **told
    )
