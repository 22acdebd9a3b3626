"""Room on a disk that was full."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pandastack.host.room import FULL_BYTES, Room


@pytest.mark.root
def test_room_is_back_once_after_it_was_gone(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={2 * FULL_BYTES}", "tmpfs", tmp_path], check=True)
    try:
        room = Room(tmp_path)
        assert not room.is_back()
        (tmp_path / "filler").write_bytes(os.urandom(FULL_BYTES + 4096))
        assert not room.is_back()
        (tmp_path / "filler").unlink()
        assert room.is_back()
        assert not room.is_back()
        assert not Room(tmp_path / "gone").is_back()
    finally:
        subprocess.run(["umount", tmp_path], check=True)
