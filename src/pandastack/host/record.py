"""Values kept as JSON files beside what they describe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pandastack.host import smallfiles
from pandastack.host.publish import write_whole

T = TypeVar("T")
PAGE = 4096


def read_record(path: Path, kind: type[T]) -> T | None:
    """The value in `path`, or None when there is none, or it is damaged or of another shape (an older
    program's).
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind, dec_hook=_from_json)
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, msgspec.DecodeError):
        return None


def write_record(path: Path, value: object) -> None:
    """Keep `value` in `path`; a reader sees the old value or the new one."""
    write_whole(path, msgspec.json.format(_encoded(value)) + b"\n")


def note(path: Path, value: object) -> None:
    """As `write_record`, of what does not outlive the power: it is not flushed to the disk."""
    data = _encoded(value)
    if not _written_over(path, data):
        fresh = path.with_name(f"{path.name}.new")
        smallfiles.make(fresh, data)
        fresh.replace(path)


def _written_over(path: Path, data: bytes) -> bool:
    """Write a file's only page anew, if it has no more. A page is written whole, whoever is killed meanwhile.
    To put another file in its place takes six times as long: ext4 sends that one's data to the disk first.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        before = os.fstat(descriptor).st_size
        if max(before, len(data)) > PAGE:
            return False
        os.pwrite(descriptor, data.ljust(before), 0)
    finally:
        os.close(descriptor)
    return True


def _encoded(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=_to_json)


def _to_json(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"A {type(value).__name__} has no place in a record.")


def _from_json(kind: type, value: Any) -> Any:  # noqa: ANN401  # msgspec's own signature
    if issubclass(kind, Path):
        return Path(value)
    raise TypeError(f"A {kind.__name__} has no place in a record.")
