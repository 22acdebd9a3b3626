"""Sparse files: what is copied is the same, holes stay holes, also between two file systems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pandastack.host import sparse

SIZE = 64 << 20
HERE = Path("/dev/shm")


def make(path: Path) -> None:
    """Data in the middle and at the end, and a hole of zeros that takes room."""
    with path.open("wb") as file:
        file.truncate(SIZE)
        os.pwrite(file.fileno(), b"middle" * 1000, 20 << 20)
        os.pwrite(file.fileno(), bytes(1 << 20), 40 << 20)
        os.pwrite(file.fileno(), b"end", SIZE - 3)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_copy_has_the_same_bytes_and_holes(tmp_path: Path, elsewhere: bool) -> None:
    source = tmp_path / "source"
    target = (HERE / f"{os.getpid()}-{tmp_path.name}") if elsewhere else tmp_path / "target"
    make(source)
    try:
        sparse.copy(source, target)
        assert target.read_bytes() == source.read_bytes()
        assert target.stat().st_blocks * 512 < 4 << 20
        with source.open("rb") as one, target.open("rb") as two:
            assert list(sparse.chunks(one.fileno())) == list(sparse.chunks(two.fileno()))
    finally:
        target.unlink(missing_ok=True)


def test_chunks_pass_over_what_is_zero(tmp_path: Path) -> None:
    make(tmp_path / "file")
    with (tmp_path / "file").open("rb") as file:
        assert [offset >> 20 for offset, _ in sparse.chunks(file.fileno())] == [20, 63]


def test_an_empty_file_and_a_hole(tmp_path: Path) -> None:
    for name, size in (("empty", 0), ("hole", SIZE)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
        sparse.copy(tmp_path / name, tmp_path / f"{name}-copy")
        assert (tmp_path / f"{name}-copy").stat().st_size == size
        assert (tmp_path / f"{name}-copy").stat().st_blocks == 0
