"""Backups by our SDK and our command line, of real machines' volumes, in a bucket, whoever is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.blobs.conftest import KEY, SECRET, serving_s3

from pandastack import Client
from pandastack.testing.server import Server, running_server

pytestmark = [pytest.mark.anyio, pytest.mark.wire, pytest.mark.vm, pytest.mark.timeout(300)]

PROGRAM = Path(sys.executable).with_name("pandastack")


def told(server: Server, *words: str) -> str:
    """What our command line prints."""
    env = {**os.environ, "PANDASTACK_API": server.url, "PANDASTACK_API_KEY": server.token}
    done = subprocess.run([PROGRAM, *words], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def first_life(home: Path, settings: Mapping[str, str], data: bytes) -> tuple[str, str]:
    """A volume with files, a backup of it, and one that the server is killed in the middle of; their ids."""
    with (
        running_server(home, settings=settings) as server,
        Client(api_url=server.url, api_key=server.token) as client,
    ):
        client.volumes.create("data", 64)
        files = client.volumes.files("data")
        files.write("/file", data)
        first = told(server, "volume", "backup", "data")
        files.write("/more", b"a little")
        begun = client.volumes.backup("data")
        os.kill(server.pid, signal.SIGKILL)
        return first, begun["id"]


def second_life(home: Path, settings: Mapping[str, str], ids: tuple[str, str], data: bytes) -> None:
    """The next server has made it whole, and both bring back what the volume had then."""
    first, second = ids
    with (
        running_server(home, settings=settings) as server,
        Client(api_url=server.url, api_key=server.token) as client,
    ):
        done = client.backups.wait(second, timeout_seconds=60)
        assert done["stored_bytes"] < 2 << 20 < done["total_bytes"], "only what has changed was sent"
        listed = json.loads(told(server, "volume", "backups", "data", "--json"))
        assert [(each["id"], each["status"]) for each in listed] == [(second, "ready"), (first, "ready")]
        assert told(server, "volume", "verify", first) == "whole"
        client.volumes.delete("data")
        told(server, "volume", "restore", first, "one")
        client.volumes.create("two", from_backup=second)
        volumes: list[dict[str, Any]] = [{"name": "one"}, {"name": "two", "read_only": True}]
        with client.sandboxes.create("base", volumes=volumes) as sandbox:
            assert sandbox.filesystem.read("/mnt/one/file") == data
            found = sandbox.exec("cmp /mnt/one/file /mnt/two/file && ls /mnt/one && cat /mnt/two/more").stdout
        assert found.split() == ["file", "lost+found", "a", "little"]
        told(server, "volume", "rm-backup", first)
        assert [each["id"] for each in client.backups.list()] == [second]
    log = server.log.read_text()
    assert SECRET not in log and KEY not in log


async def test_what_volumes_had_comes_back_from_a_bucket(tmp_path: Path) -> None:
    data = os.urandom(8 << 20)
    (tmp_path / "s3").mkdir()
    async with serving_s3(tmp_path / "s3") as url:
        settings = {
            "PANDASTACK_BLOBS": f"s3://backups/of/us?endpoint={url}",
            "PANDASTACK_BLOBS_ACCESS_KEY": KEY,
            "PANDASTACK_BLOBS_SECRET_KEY": SECRET,
            "PANDASTACK_REHEARSE": "false",
        }
        home = tmp_path / "home"
        home.mkdir()
        ids = await asyncio.to_thread(partial(first_life, home, settings, data))
        await asyncio.to_thread(partial(second_life, home, settings, ids, data))
