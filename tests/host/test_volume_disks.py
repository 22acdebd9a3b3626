"""The file systems that volumes are made with."""

from __future__ import annotations

import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from pandastack.host.volumes import make_disk

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("size_mb", [16, 96, 8192])
async def test_it_keeps_a_journal(tmp_path: Path, size_mb: int) -> None:
    """Whoever kills its machine would find names without files otherwise, and files without names."""
    disk = tmp_path / "disk"
    await make_disk(disk, size_mb, str(uuid4()))
    told = subprocess.run(["/sbin/dumpe2fs", "-h", disk], check=True, capture_output=True, text=True).stdout
    features = next(line for line in told.splitlines() if line.startswith("Filesystem features:"))
    assert {"has_journal", "extent", "metadata_csum", "64bit"} <= set(features.split())
