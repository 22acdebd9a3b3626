"""Stars in place of what a guest must not read of what a server sends; as many: no length changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import cached_property

from pandastack.host.egress.streams import Stream

LEAST = 8
"""Shorter values are not looked for: they stand in texts by chance."""
PATIENCE = 0.2
"""Seconds that the beginning of a value waits for the rest of it."""


class Mask:
    """Finds values, also those that come in parts. However data and values are made, the time it takes grows
    with their lengths alone, and not with the product of these: all sandboxes of a host wait for it.
    """

    def __init__(self, values: Sequence[str]) -> None:
        sought = {value.encode() for value in values if len(value) >= LEAST}
        self._sought = [_Sought(value) for value in sought]
        self._held = b""

    @property
    def waits(self) -> bool:
        """Whether something is held back that could be the beginning of a value."""
        return bool(self._held)

    def feed(self, data: bytes) -> bytes:
        """What of it may be passed on now, masked."""
        if not self._sought:
            return data
        text = self._held + data
        cut = len(text) - max(each.begun(text) for each in self._sought)
        masked = _masked(text, [place for place in self._places(text) if place[0] < cut])
        self._held = masked[cut:]
        return masked[:cut]

    def rest(self) -> bytes:
        """What was held back, masked: nothing follows that would make a longer value of it."""
        rest, self._held = self._held, b""
        return _masked(rest, list(self._places(rest)))

    def _places(self, text: bytes) -> Iterator[tuple[int, int]]:
        """Where values begin and end."""
        for each in self._sought:
            value = each.value
            at = text.find(value)
            while at >= 0:
                yield at, at + len(value)
                at = text.find(value, at + len(value))


class _Sought:
    """One value, compared in the way of Knuth, Morris and Pratt: no byte is looked at twice."""

    def __init__(self, value: bytes) -> None:
        self.value = value

    def begun(self, text: bytes) -> int:
        """How many bytes at the end of `text` begin the value, and are not all of it."""
        value = self.value
        first = max(0, len(text) - len(value) + 1)
        begun = text.find(value[:LEAST], first)
        tail = text[begun if begun >= 0 else max(first, len(text) - LEAST + 1) :]
        if value[0] not in tail:
            return 0
        matched = 0
        for byte in tail:
            while matched and byte != value[matched]:
                matched = self._borders[matched - 1]
            matched += byte == value[matched]
        return matched

    @cached_property
    def _borders(self) -> list[int]:
        """Of each beginning of the value, how many bytes at its end begin the value too."""
        value = self.value
        borders = [0] * len(value)
        matched = 0
        for at in range(1, len(value)):
            while matched and value[at] != value[matched]:
                matched = borders[matched - 1]
            matched += value[at] == value[matched]
            borders[at] = matched
        return borders


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


def _masked(text: bytes, places: Sequence[tuple[int, int]]) -> bytes:
    if not places:
        return text
    masked = bytearray(text)
    for begin, end in places:
        masked[begin:end] = b"*" * (end - begin)
    return bytes(masked)
