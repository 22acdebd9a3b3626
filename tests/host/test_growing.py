"""A file that is hashed while it is written has the mark of one that is hashed when it has been written."""

from __future__ import annotations

import ctypes
import random
from pathlib import Path

import pytest

from pandastack.host import marks
from pandastack.host.growing import PART, Growing
from pandastack.host.marks import CHUNK, FileMark

PAGE = 4096


def grown(path: Path, content: bytes, chance: random.Random) -> FileMark:
    """The content in parts of all sizes, as pages are."""
    with Growing(path) as growing:
        at = 0
        while at < len(content):
            size = min(growing.room(), chance.randrange(1, 300) * PAGE, len(content) - at)
            ctypes.memmove(growing.address(), content[at : at + size], size)
            growing.grown(size)
            at += size
        return growing.mark()


@pytest.mark.parametrize("size", [PAGE, PART, PART + PAGE, CHUNK, 2 * CHUNK + 3 * PAGE, 3 * CHUNK])
@pytest.mark.parametrize("nothing", [(0, 0), (0, PART), (PART, 2 * PART), (0, CHUNK), (CHUNK, 3 * CHUNK)])
def test_it_has_the_mark_of_the_file(tmp_path: Path, size: int, nothing: tuple[int, int]) -> None:
    chance = random.Random(f"{size} {nothing}")  # noqa: S311  # the same each time
    content = bytearray(chance.randbytes(size))
    start, end = (min(each, size) for each in nothing)
    content[start:end] = bytes(end - start)
    found = grown(tmp_path / "grown", bytes(content), chance)
    assert (tmp_path / "grown").read_bytes() == content
    assert found == marks.mark(tmp_path / "grown")


def test_what_is_added_may_be_of_any_size(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(2 * PART + PAGE)  # noqa: S311  # the same each time
    with Growing(tmp_path / "grown") as growing:
        growing.add(content)
        assert growing.mark() == marks.mark(tmp_path / "grown")
    assert (tmp_path / "grown").read_bytes() == content


def test_another_file_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "grown").touch()
    with pytest.raises(FileExistsError):
        Growing(tmp_path / "grown")
