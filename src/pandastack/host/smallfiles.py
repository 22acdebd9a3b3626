"""Small files, by as few system calls as can be: a create reads and writes dozens of them while it is waited
for, and Python's own files ask three times as often, of the kernel and of the interpreter's lock.
"""

from __future__ import annotations

import os
from pathlib import Path

_PIECE = 1 << 16


def read(path: Path | str) -> bytes:
    """All of a file. OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = piece = os.read(descriptor, _PIECE)
        while piece:  # a file of /proc may come in pieces of any size
            piece = os.read(descriptor, _PIECE)
            data += piece
        return data
    finally:
        os.close(descriptor)


def put(path: Path | str, data: bytes) -> None:
    """Write into a file that is there, such as a setting of the kernel. OSError."""
    _write(path, os.O_WRONLY, data)


def make(path: Path | str, data: bytes) -> None:
    """A file that only this user reads, new or anew. OSError."""
    _write(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, data)


def _write(path: Path | str, flags: int, data: bytes) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)
