"""The few things that the two halves of the SDK cannot share: each one twice, `…_async` first.

`scripts/unasync` turns the first name of a pair into the second.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from websockets.asyncio.client import ClientConnection as AsyncSocket
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import ClientConnection as Socket
from websockets.sync.client import connect

__all__ = [
    "AsyncCancelEvent",
    "AsyncSocket",
    "CancelEvent",
    "Socket",
    "check_cancel",
    "check_cancel_async",
    "connect",
    "connect_async",
    "each",
    "each_async",
    "opened",
    "pause",
    "pause_async",
    "pieces",
    "pieces_async",
    "put",
    "put_async",
    "replacing",
    "replacing_async",
    "scope",
    "scope_async",
    "settled",
    "settled_async",
]

T = TypeVar("T")
R = TypeVar("R")

PIECE_BYTES = 256 * 1024


AsyncCancelEvent = asyncio.Event
"""What gives up a create that waits for capacity."""


class CancelEvent(Protocol):
    """What gives up a create that waits for capacity: `threading.Event`, `multiprocessing.Event`."""

    def is_set(self) -> bool:
        """Whether the create is to be given up."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is, for `timeout` seconds at most; tells whether it is."""
        ...


async def pause_async(seconds: float, cancel: asyncio.Event | None) -> bool:
    """Sleep, or until `cancel` is set; tells whether it was."""
    if cancel is None:
        await asyncio.sleep(seconds)
        return False
    try:
        async with asyncio.timeout(seconds):
            return await cancel.wait()
    except TimeoutError:
        return cancel.is_set()


def pause(seconds: float, cancel: CancelEvent | None) -> bool:
    """Sleep, or until `cancel` is set; tells whether it was."""
    if cancel is None:
        time.sleep(seconds)
        return False
    return bool(cancel.wait(seconds))


def check_cancel_async(cancel: object) -> None:
    """TypeError, before anything is sent, for a `cancel` that cannot be awaited."""
    if cancel is not None and not isinstance(cancel, asyncio.Event):
        raise TypeError(f"cancel= takes an asyncio.Event here, not {type(cancel).__name__}.")


def check_cancel(cancel: object) -> None:
    """TypeError, before anything is sent, for a `cancel` whose wait does not block."""
    if cancel is None:
        return
    wait = getattr(cancel, "wait", None)
    if (
        not callable(wait)
        or not callable(getattr(cancel, "is_set", None))
        or inspect.iscoroutinefunction(wait)
    ):
        raise TypeError(
            f"cancel= takes a threading.Event or multiprocessing.Event, not {type(cancel).__name__}: "
            "this create blocks its thread."
        )


class _Process:
    """The one scope of blocking code."""


_PROCESS = _Process()


def scope_async() -> object:
    """What a default client belongs to: connections cannot outlive their event loop."""
    return asyncio.get_running_loop()


def scope() -> object:
    """What a default client belongs to: the whole process."""
    return _PROCESS


def opened(path: Path) -> BinaryIO:
    """A local file, open for reading; what it takes to open one is not worth a thread."""
    return path.open("rb")


async def pieces_async(file: BinaryIO) -> AsyncIterator[bytes]:
    """A local file's content, read beside the event loop."""
    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
        yield piece


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """A local file's content."""
    while piece := file.read(PIECE_BYTES):
        yield piece


async def put_async(file: BinaryIO, piece: bytes) -> None:
    """Write to a local file beside the event loop."""
    await asyncio.to_thread(file.write, piece)


def put(file: BinaryIO, piece: bytes) -> None:
    """Write to a local file."""
    file.write(piece)


@asynccontextmanager
async def replacing_async(path: Path) -> AsyncIterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well, and is gone when it does not."""
    with replacing(path) as file:
        yield file


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well, and is gone when it does not.

    What is no regular file (a pipe, a device) is written directly.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        with target.open("wb") as file:
            yield file
        return
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


async def each_async(work: Callable[[T], Awaitable[R]], items: Sequence[T], limit: int) -> list[R]:
    """The results of `work` in the order of the items, at most `limit` of them at a time.

    The first error ends the others, and is raised as it came.
    """
    room = asyncio.Semaphore(limit)

    async def one(item: T) -> R:
        async with room:
            return await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def each(work: Callable[[T], R], items: Sequence[T], limit: int) -> list[R]:
    """The results of `work` in the order of the items, at most `limit` of them at a time, in threads.

    An error does not wait for those that still run: who catches it takes away what they work on.
    """
    pool = ThreadPoolExecutor(limit, thread_name_prefix="pandastack")
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


async def settled_async(value: Any) -> Any:  # noqa: ANN401  # what a function of the user's returns
    """The value itself, awaited when it is to be."""
    return await value if inspect.isawaitable(value) else value


def settled(value: Any) -> Any:  # noqa: ANN401  # what a function of the user's returns
    """The value itself."""
    return value
