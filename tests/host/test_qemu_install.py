"""Which QEMU is taken, without asking the network when there is nothing new to hear."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pandastack.host.paths import Cache
from pandastack.host.qemu_install import ensure_qemu, find_qemu

pytestmark = pytest.mark.anyio


def settled_on(cache: Cache, version: str) -> Path:
    """A cache that has a QEMU of this version, as an earlier start has left it."""
    binary = cache.qemu(version) / "qemu-system-x86_64"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/false\n")
    status = binary.stat()
    install = {"binary": str(binary), "firmware": [], "version": version, "build": version, "env": {}}
    record = {"install": install, "stamp": [status.st_mtime_ns, status.st_size]}
    cache.current_qemu.write_text(json.dumps(record))
    return binary


@pytest.mark.parametrize("version", ["8.2.2", "10.0.2"])
async def test_what_was_settled_on_stays_while_the_package_lists_do(tmp_path: Path, version: str) -> None:
    cache = Cache(tmp_path)
    binary = settled_on(cache, version)
    told: list[str] = []
    install = await ensure_qemu(cache, lambda line, fraction: told.append(line))
    assert (install.binary, told) == (binary, [])


def test_one_that_the_owner_has_replaced_is_looked_at_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    binary = settled_on(cache, "8.2.2")
    assert find_qemu(cache) is not None
    os.utime(binary, (1, 1))
    assert find_qemu(cache) is None
