"""Records that are written again and again: a reader sees the old value or the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pandastack.host.record import PAGE, note, read_record, write_record


@pytest.mark.parametrize("lengths", [(10, 1000, 10), (10, PAGE, 10), (2 * PAGE, 1, PAGE - 2)])
def test_the_last_value_is_read(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    path = tmp_path / "record.json"
    for length in lengths:
        note(path, "x" * length)
        assert read_record(path, str) == "x" * length
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_page_is_written_over_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, [1, 2, 3])
    first = path.stat().st_ino
    note(path, [4])
    assert path.stat().st_ino == first
    note(path, "x" * PAGE)
    assert path.stat().st_ino != first


def test_what_is_written_over_is_never_half_read(tmp_path: Path) -> None:
    """Whoever has it open sees a whole value, also while it gets shorter and longer."""
    path = tmp_path / "record.json"
    note(path, "a" * 3000)
    with path.open("rb") as reader:
        note(path, "b" * 10)
        assert reader.read().strip() == b'"' + b"b" * 10 + b'"'
