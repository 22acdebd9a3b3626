"""Snapshots as files from the command line, between two servers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ..wire.conftest import running
from .conftest import program_of

pytestmark = pytest.mark.wire


def test_a_snapshot_moves_to_a_server_that_has_the_key(tmp_path: Path) -> None:
    file, keys = tmp_path / "file", tmp_path / "keys"
    for folder in ("keys", "old", "new"):
        (tmp_path / folder).mkdir()
    with running(tmp_path / "old", "process") as server:
        old = program_of(server)
        box = old("sandbox", "create", "-t", "base").stdout.strip()
        taken = old("snapshot", "create", box).stdout.strip()
        assert old("snapshot", "export", taken, str(file)).stdout.strip() == str(file)
        before = file.read_bytes()
        missing = old("snapshot", "export", "nothing", str(file), status=1)
        assert "snapshot ls" in missing.stderr and file.read_bytes() == before
        old("sandbox", "rm", "--all")
    with running(tmp_path / "new", "process", {"PANDASTACK_ARCHIVE_KEYS": str(keys)}) as server:
        new = program_of(server)
        assert "archive_keys" in new("snapshot", "import", str(file), status=1).stderr
        shutil.copy(tmp_path / "old" / "state" / "archive.key", keys / "old")
        made = new("snapshot", "import", str(file), "--name", "moved").stdout.strip()
        assert json.loads(new("snapshot", "get", made, "--json").stdout)["name"] == "moved"
        child = new("sandbox", "create", "--from-snapshot", made).stdout.strip()
        assert new("sandbox", "exec", child, "echo on").stdout == "on\n"
        new("sandbox", "rm", "--all")
