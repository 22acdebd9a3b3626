"""Where the body of an HTTP/1 request ends. Its bytes are passed on as they are."""

from __future__ import annotations

import re
from enum import Enum, auto

from pandastack.host.egress.head import HEAD_LIMIT, Head, Refused

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?")


class _Next(Enum):
    """What the next byte belongs to."""

    DATA = auto()
    DATA_END = auto()
    SIZE = auto()
    TRAILER = auto()
    NOTHING = auto()


class Body:
    """Follows one body through the parts in which it arrives."""

    def __init__(self, head: Head) -> None:
        self._left = head.length or 0
        self._chunked = head.length is None
        self._line = bytearray()
        self._between = 0
        """Bytes since the last data."""
        first = _Next.DATA if self._left else _Next.NOTHING
        self._next = _Next.SIZE if self._chunked else first

    @property
    def done(self) -> bool:
        """Whether all of it has been seen."""
        return self._next is _Next.NOTHING

    def take(self, data: bytes) -> int:
        """How many bytes of `data` belong to the body. Refused when its chunks are malformed."""
        at = 0
        while at < len(data) and not self.done:
            is_data = self._next is _Next.DATA
            at += self._take_data(len(data) - at) if is_data else self._take_line(data, at)
        return at

    def _take_data(self, available: int) -> int:
        taken = min(available, self._left)
        self._left -= taken
        if not self._left:
            self._between = 0
            self._next = _Next.DATA_END if self._chunked else _Next.NOTHING
        return taken

    def _take_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at)
        part = data[at:] if end < 0 else data[at : end + 1]
        self._line += part
        self._between += len(part)
        if self._between > HEAD_LIMIT:
            raise Refused("What stands between the chunks of this request is too long.")
        if end >= 0:
            line = bytes(self._line)
            self._line.clear()
            self._read_line(line)
        return len(part)

    def _read_line(self, line: bytes) -> None:
        size = _SIZE.fullmatch(line[:-2])
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            raise Refused("A chunk of this request is malformed.")
        if self._next is _Next.DATA_END and line == b"\r\n":
            self._next = _Next.SIZE
        elif self._next is _Next.TRAILER:
            self._next = _Next.TRAILER if len(line) > 2 else _Next.NOTHING
        elif self._next is _Next.SIZE and size:
            self._left = int(size[1], 16)
            self._next = _Next.DATA if self._left else _Next.TRAILER
        else:
            raise Refused("A chunk of this request is malformed.")
