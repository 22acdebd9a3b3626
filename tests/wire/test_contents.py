"""What is on volumes, read and written without a sandbox, by our SDK against a running server."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

import pandastack
from pandastack import Client

from .conftest import Server

pytestmark = [pytest.mark.wire, pytest.mark.vm, pytest.mark.timeout(120, func_only=True)]


@pytest.fixture
def volume(server: Server, client: Client) -> Iterator[str]:
    name = f"data-{uuid4().hex[:8]}"
    client.volumes.create(name, 64)
    yield name
    client.volumes.delete(name)


@pytest.mark.parametrize("server", ["qemu"], indirect=True)
def test_files_come_and_go(client: Client, volume: str, tmp_path: Path) -> None:
    files = client.volumes.files(volume)
    data = os.urandom(3 << 20)
    files.write("/deep/er/data", io.BytesIO(data), mode=0o640)
    files.mkdir("/empty")
    files.write("/text", "words\n")
    files.move("/text", "/deep/text")
    assert files.read("/deep/text") == b"words\n"
    assert files.read("/deep/er/data", offset=1000, length=10) == data[1000:1010]
    files.download("/deep/er/data", tmp_path / "data")
    assert (tmp_path / "data").read_bytes() == data
    told = files.stat("/deep/er/data")
    assert (told.size, told.permissions, told.path) == (len(data), 0o640, "/deep/er/data")
    assert {entry.name for entry in files.listdir()} == {"deep", "empty", "lost+found"}
    assert [entry.path for entry in files.listdir("/deep/er")] == ["/deep/er/data"]
    with client.sandboxes.create("base", volumes=[{"name": volume}]) as sandbox:
        digest = sandbox.exec(f"sha256sum < /mnt/{volume}/deep/er/data", check=True).stdout.split()[0]
        assert digest == hashlib.sha256(data).hexdigest()
        for refused in (lambda: files.read("/deep/text"), lambda: files.write("/text", "x")):
            with pytest.raises(pandastack.BadRequestError, match="is attached"):
                refused()
    files.remove("/deep")
    assert not files.exists("/deep/text")
    assert client.sandboxes.list() == [], "who looked is gone"


@pytest.mark.parametrize("server", ["qemu"], indirect=True)
def test_a_link_leads_nowhere_but_into_what_looks(client: Client, volume: str) -> None:
    """A tenant's volume may hold anything: it is a machine of no value that follows it."""
    with client.sandboxes.create("base", volumes=[{"name": volume}]) as sandbox:
        line = f"cd /mnt/{volume}; ln -s /proc/sys/kernel/hostname name; ln -s ../../../etc out; mkfifo pipe"
        sandbox.exec(line, check=True)
    files = client.volumes.files(volume)
    assert files.read("/name").startswith(b"sandbox-"), "its own"
    assert {entry.mode for entry in files.listdir()} >= {"l", "p"}
    with pytest.raises(pandastack.BadRequestError):
        files.read("/../etc/passwd")
