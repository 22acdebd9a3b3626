"""Blobs as objects of an S3 bucket, or of what speaks as S3 does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from msgspec import Struct
from obstore import exceptions
from obstore.store import S3Store

from pandastack.blobs.store import Blob, BlobMissing, checked
from pandastack.errors import BlobsDown

if TYPE_CHECKING:
    from obstore.store import S3Config

CONNECT_SECONDS, ANSWER_SECONDS = 5, 60
"""Longest wait for a connection, and for all of one answer."""
RETRIES, RETRY_SECONDS = 5, 60
"""How often, and how long in all, what may be sent again is."""


class BucketPlace(Struct, frozen=True):
    """Which bucket, where in it, and how to come in; without keys as the machine that this runs on may."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str = "us-east-1"
    access_key: str | None = None
    secret_key: str | None = None


class Bucket:
    """The blobs below a prefix of a bucket. S3 has an object on its disks before it says so."""

    def __init__(self, place: BucketPlace) -> None:
        config: S3Config = {"region": place.region}
        if place.access_key is not None and place.secret_key is not None:
            config["access_key_id"], config["secret_access_key"] = place.access_key, place.secret_key
        if place.endpoint is not None:
            config["endpoint"] = place.endpoint
        self._named = place.bucket
        self._store = S3Store(
            place.bucket,
            prefix=place.prefix or None,
            config=config,
            client_options={
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                "timeout": timedelta(seconds=ANSWER_SECONDS),
                "allow_http": (place.endpoint or "").startswith("http://"),
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
        )

    async def put(self, name: str, data: bytes) -> None:
        with self._said(name):
            await obstore.put_async(self._store, checked(name), data, use_multipart=False)

    async def create(self, name: str, data: bytes) -> bool:
        try:
            with self._said(name):
                await obstore.put_async(self._store, checked(name), data, mode="create", use_multipart=False)
        except exceptions.AlreadyExistsError:
            return False
        return True

    async def get(self, name: str) -> bytes:
        with self._said(name):
            answer = await obstore.get_async(self._store, checked(name))
            return bytes(await answer.bytes_async())

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        with self._said(name):
            size = (await obstore.head_async(self._store, checked(name)))["size"]
            end = min(size, start + length)
            if start >= end:
                return b""
            return bytes(await obstore.get_range_async(self._store, name, start=start, end=end))

    async def list(self, folder: str) -> AsyncIterator[Blob]:
        with self._said(folder):
            async for page in obstore.list(self._store, prefix=checked(folder)):
                for each in page:
                    yield Blob(each["path"], each["size"])

    async def delete(self, name: str) -> None:
        with self._said(name):
            try:
                await obstore.delete_async(self._store, checked(name))
            except FileNotFoundError:
                return

    @contextmanager
    def _said(self, name: str) -> Iterator[None]:
        """The library's errors as ours. What it says is not handed on: it may have all of an answer in it."""
        try:
            yield
        except (FileNotFoundError, exceptions.NotFoundError) as error:
            raise BlobMissing(name) from error
        except exceptions.AlreadyExistsError:
            raise
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise BlobsDown(f"The bucket {self._named!r} does not let this server in.") from error
        except (exceptions.BaseError, OSError) as error:
            raise BlobsDown(
                f"The bucket {self._named!r} does not answer as it should ({type(error).__name__})."
            ) from error
