"""What is on its way from a kernel's sockets to whoever runs a cell: never more than some bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

WAITING_MOST = 4 << 20
"""Bytes that may wait, or one message that is larger. Who would put more waits, and so does the kernel."""


class Mailbox(Generic[T]):
    """Items of one sender at a time, in order."""

    def __init__(self, most: int = WAITING_MOST) -> None:
        self._most = most
        self._items: deque[tuple[T, int]] = deque()
        self._size = 0
        self._changed = asyncio.Condition()
        self._closed = False
        self._error: Exception | None = None

    async def put(self, item: T, size: int) -> None:
        """Leave an item of `size` bytes, as soon as there is room; in a closed one it is dropped."""
        async with self._changed:
            while self._items and self._size + size > self._most and not self._closed:
                await self._changed.wait()
            if not self._closed:
                self._items.append((item, size))
                self._size += size
                self._changed.notify_all()

    async def take(self, seconds: float | None = None) -> T:
        """The next item. Errors: TimeoutError when none comes in time, and what it was failed with."""
        async with asyncio.timeout(seconds), self._changed:
            while not self._items:
                if self._error is not None:
                    raise self._error
                await self._changed.wait()
            item, size = self._items.popleft()
            self._size -= size
            self._changed.notify_all()
            return item

    async def close(self) -> None:
        """Nobody takes any more."""
        async with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    async def fail(self, error: Exception) -> None:
        """Nothing more comes: whoever takes is told so behind what is there."""
        async with self._changed:
            self._error = self._error or error
            self._changed.notify_all()
