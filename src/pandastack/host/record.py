"""Values kept as JSON files beside what they describe."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pandastack.host.publish import write_whole

T = TypeVar("T")


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
    write_whole(path, msgspec.json.format(encode_record(value)) + b"\n")


def encode_record(value: object) -> bytes:
    """What `read_record` reads, in one line."""
    return msgspec.json.encode(value, enc_hook=_to_json)


def _to_json(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"A {type(value).__name__} has no place in a record.")


def _from_json(kind: type, value: Any) -> Any:  # noqa: ANN401  # msgspec's own signature
    if issubclass(kind, Path):
        return Path(value)
    raise TypeError(f"A {kind.__name__} has no place in a record.")
