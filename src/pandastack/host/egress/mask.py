"""Stars in place of what a guest must not read of what a server sends; as many: no length changes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from pandastack.host.egress.streams import Stream

LEAST = 8
"""Shorter values are not looked for: they stand in texts by chance."""
PATIENCE = 0.2
"""Seconds that the beginning of a value waits for the rest of it."""


class Mask:
    """Finds values, also those that come in parts."""

    def __init__(self, values: Sequence[str]) -> None:
        sought = sorted({value.encode() for value in values if len(value) >= LEAST}, key=len, reverse=True)
        self._sought = sought
        self._pattern = re.compile(b"|".join(re.escape(value) for value in sought)) if sought else None
        self._held = b""

    @property
    def waits(self) -> bool:
        """Whether something is held back that could be the beginning of a value."""
        return bool(self._held)

    def feed(self, data: bytes) -> bytes:
        """What of it may be passed on now, masked."""
        if self._pattern is None:
            return data
        text = self._pattern.sub(_stars, self._held + data)
        kept = max((_overlap(text, value) for value in self._sought), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> bytes:
        """What was held back: nothing follows that would make a value of it."""
        rest, self._held = self._held, b""
        return rest


class Masked:
    """A stream as a mask lets it be read."""

    def __init__(self, stream: Stream, mask: Mask) -> None:
        self._stream = stream
        self._mask = mask

    async def read(self) -> bytes:
        """The next bytes; none at the end. OSError. What is held back comes when nothing follows it soon."""
        while True:
            try:
                async with asyncio.timeout(PATIENCE if self._mask.waits else None):
                    data = await self._stream.read()
            except TimeoutError:
                return self._mask.rest()
            if not data:
                return self._mask.rest()
            if passed := self._mask.feed(data):
                return passed


def _stars(found: re.Match[bytes]) -> bytes:
    return b"*" * len(found[0])


def _overlap(text: bytes, value: bytes) -> int:
    """How many bytes at the end of `text` begin a value."""
    for size in range(min(len(value) - 1, len(text)), 0, -1):
        if text.endswith(value[:size]):
            return size
    return 0
