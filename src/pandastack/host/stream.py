"""One request to the guest's agent and its answers, with flow control in both directions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol, Self

from pandastack.errors import Conflict, GuestUnreachable, PandastackError
from pandastack.host import frames
from pandastack.host.frames import INITIAL_CREDIT, Data, Frame, FrameType, malformed
from pandastack.host.operations import CloseMode
from pandastack.model.guest import Channel

PIECE = 65_536
"""Bytes of one DATA frame to the guest: large streams leave room for the small ones between two of them."""
UNREAD_ITEMS = 4 << 20
"""Bytes of ITEMS that may wait for their reader; what comes beyond is dropped and `overflowed` tells so."""

_FROM_GUEST = (Channel.STDOUT, Channel.STDERR)
_SMALL = 1024  # pieces below are joined while nobody reads them
_CROWD = 1024  # waiting pieces from which on joining may blur the order between channels
_GRANT = INITIAL_CREDIT // 2  # consumed bytes that are worth a CREDIT frame


class Session(Protocol):
    """What a stream needs of its link."""

    @property
    def writable(self) -> bool: ...
    def send(self, *parts: bytes | memoryview) -> None: ...
    def forget(self, stream: Stream) -> None: ...


class Stream:
    """Frames of one stream in order. One task reads it and one writes it.

    It ends with DONE, with `close`, or with the connection: then whoever waits gets the reason as an error.
    """

    def __init__(self, session: Session, number: int, on_leave: CloseMode) -> None:
        self.id = number
        self.over = False
        """DONE has come, or will never come."""
        self.overflowed = False
        self._session = session
        self._on_leave = on_leave
        self._inbox: deque[Frame | Data] = deque()
        self._items = 0
        self._seen: set[tuple[FrameType, bytes]] = set()
        self._error: PandastackError | None = None
        self._done: Frame | None = None
        self._ended = asyncio.Event()
        self._arrived = asyncio.Event()
        self._may_send = asyncio.Event()
        self._credit = INITIAL_CREDIT  # what we may send
        self._window = INITIAL_CREDIT  # what the guest may send
        self._owed = 0  # consumed and not yet granted again

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(self._on_leave)

    # -- reading

    async def receive(self) -> Frame | Data:
        """The next frame; waits without limit. Reading is what lets the guest send more."""
        while not self._inbox:
            if self.over:
                raise self._reason()
            self._arrived.clear()
            await self._arrived.wait()
        item = self._inbox.popleft()
        if isinstance(item, Data):
            self._consumed(len(item.content))
        elif item.type is FrameType.ITEMS:
            self._items -= _weight(item)
        return item

    async def answer(self, deadline: float) -> Frame | Data:
        """The next frame; GuestUnreachable when none has come after `deadline` seconds."""
        if self._inbox:
            return await self.receive()
        async with patience(deadline):
            return await self.receive()

    async def done(self) -> Frame:
        """The last frame, once it has come; what came before it may still wait to be read."""
        await self._ended.wait()
        if self._done is None:
            raise self._reason()
        return self._done

    # -- writing

    async def write(self, content: bytes) -> None:
        """Send content into the guest, as fast as it takes it. Returns early when the stream is over."""
        view = memoryview(content)
        while view and not self.over:
            size = min(len(view), self._credit, PIECE)
            if not size or not self._session.writable:
                self._may_send.clear()
                await self._may_send.wait()
                continue
            self._credit -= size
            self._session.send(frames.data_head(self.id, 0, size), view[:size])
            view = view[size:]
        if self._error:
            raise self._reason()

    def send(self, kind: FrameType, payload: bytes = b"") -> None:
        """Send a frame that costs no credit; nothing happens when the stream is over."""
        if not self.over:
            self._session.send(frames.encode(kind, self.id, payload))

    def close(self, mode: CloseMode) -> None:
        """Give the stream up: a process that still runs is detached from or killed. Twice is fine."""
        self.send(FrameType.CLOSE, bytes((mode,)))
        self._finish()
        self._session.forget(self)

    def fail(self, error: PandastackError) -> None:
        """Called by the link: no more frames will come, for this reason."""
        self._error = error
        self._finish()

    # -- called by the link for what arrives

    def take_data(self, data: Data) -> None:
        """Keep a piece until it is read; MachineError when the guest sends more than it was granted."""
        self._window -= len(data.content)
        if self._window < 0:
            raise malformed("DATA without credit")
        if data.channel not in _FROM_GUEST:
            raise malformed(f"DATA on channel {data.channel}")
        if not self._join(data):
            self._inbox.append(data)
        self._arrived.set()

    def take(self, frame: Frame) -> None:
        """Keep a frame until it is read."""
        if frame.type is FrameType.CREDIT:
            self._credit += int.from_bytes(frame.payload, "little")
            self.wake_writer()
            return
        if frame.type is FrameType.ITEMS:
            if self._items > UNREAD_ITEMS:
                self.overflowed = True
                return
            self._items += _weight(frame)
        else:
            self._once(frame)
        self._inbox.append(frame)
        if frame.type is FrameType.DONE:
            self._done = frame
            self._finish()
        self._arrived.set()

    def wake_writer(self) -> None:
        """There is room again."""
        self._may_send.set()

    def _reason(self) -> PandastackError:
        if self._error:
            return again(self._error)
        return Conflict("this stream of the sandbox has been closed")

    def _finish(self) -> None:
        self.over = True
        self._ended.set()
        self._may_send.set()
        self._arrived.set()

    def _consumed(self, size: int) -> None:
        self._owed += size
        if self._owed >= _GRANT and not self.over:
            self._window += self._owed
            self.send(FrameType.CREDIT, self._owed.to_bytes(4, "little"))
            self._owed = 0

    def _once(self, frame: Frame) -> None:
        key = (frame.type, frame.payload if frame.type is FrameType.EOF else b"")
        if key in self._seen:
            raise malformed(f"a second {frame.type.name}")
        self._seen.add(key)

    def _join(self, data: Data) -> bool:
        """Add a small piece to a small one that still waits, so that single bytes cost no more than large
        ones.
        """
        if len(data.content) >= _SMALL:
            return False
        reach = 2 if len(self._inbox) > _CROWD else 1
        for back in range(1, min(reach, len(self._inbox)) + 1):
            last = self._inbox[-back]
            if isinstance(last, Data) and last.channel == data.channel and len(last.content) < _SMALL:
                self._inbox[-back] = Data(self.id, data.channel, last.content + data.content)
                return True
        return False


def again(error: PandastackError) -> PandastackError:
    """The same error to be raised once more: one that is raised many times would keep all their frames."""
    return type(error)(error.message, **error.details)


def _weight(items: Frame) -> int:
    return len(items.payload) + 64  # also empty ones take memory


@asynccontextmanager
async def patience(deadline: float) -> AsyncIterator[None]:
    """The block must end within `deadline` seconds, else GuestUnreachable."""
    try:
        async with asyncio.timeout(deadline):
            yield
    except TimeoutError:
        raise GuestUnreachable(f"the guest's agent did not answer within {deadline:g} s") from None
