"""Stores to test: directories, and buckets of SeaweedFS, which is a whole S3 server in one program."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from tempfile import gettempdir

import httpx2
import pytest

from pandastack.blobs.place import open_blobs
from pandastack.blobs.store import BlobStore

KEY, SECRET = "AKIAEXAMPLE", "not-a-secret-to-anybody"
START_SECONDS = 60.0
RIGHTS = ["Admin", "Read", "Write", "List"]


class Stores:
    """Stores by name."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self, name: str) -> str:
        return self._url.format(name)

    async def open(self, name: str) -> BlobStore:
        """The same one for the same name."""
        return await open_blobs(self.url(name), KEY, SECRET)


@asynccontextmanager
async def serving_s3(folder: Path) -> AsyncIterator[str]:
    """The address of an S3 server on the loopback, with its files in an empty folder."""
    ports = _free_ports(4)
    rights = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": RIGHTS}
    (folder / "rights.json").write_text(json.dumps({"identities": [rights]}))
    (folder / "data").mkdir()
    names = ("master", "volume", "filer", "s3")
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder / 'data'}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={folder / 'rights.json'}"),
        *(f"-{name}.port={port}" for name, port in zip(names, ports, strict=True)),
        *(f"-{name}.port.grpc={port + 1}" for name, port in zip(names, ports, strict=True)),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),  # which would be the same for all that run here
        *("-master.volumeSizeLimitMB=64", "-volume.max=16", "-master.telemetry=false"),
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{ports[-1]}"
        await _answers(url, process)
        yield url
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        for port in [*ports, *(port + 1 for port in ports)]:
            for path in Path(gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                path.unlink()


async def _answers(url: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(START_SECONDS), httpx2.AsyncClient() as http:
        while True:
            assert process.returncode is None, "the S3 server has ended"
            try:
                await http.get(url)
            except httpx2.TransportError:
                await asyncio.sleep(0.1)
            else:
                return


def _free_ports(count: int) -> list[int]:
    """So many ports that are free with the one behind each."""
    found: list[int] = []
    while len(found) < count:
        with closing(socket.socket()) as one, closing(socket.socket()) as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
        if all(abs(port - each) > 1 for each in found):
            found.append(port)
    return found


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Everything here runs on asyncio, the server of a file too."""
    return "asyncio"


@pytest.fixture(scope="module")
async def s3_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One for all tests of a file."""
    async with serving_s3(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture
def s3_url(s3_server: str, request: pytest.FixtureRequest) -> str:
    """Where stores of this test are, with `{}` for their name."""
    place = "".join(each if each.isalnum() else "-" for each in request.node.name)
    return f"s3://test/{place}/{{}}?endpoint={s3_server}"


@pytest.fixture(params=["directory", "bucket"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    """Those of one kind."""
    if request.param == "directory":
        return Stores(f"file://{tmp_path}/{{}}")
    return Stores(request.getfixturevalue("s3_url"))
