"""How the verbs ask the agent: one stream a question, a deadline for the answer, one error for a refusal."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TypeVar

from msgspec import Struct

from pandastack.errors import FileRefused, InvalidRequest, PandastackError, RateLimited
from pandastack.host import operations
from pandastack.host.fields import Fields, Shape, Tag, decode_fields, decode_items
from pandastack.host.frames import Data, Frame, FrameType, malformed
from pandastack.host.link import Link
from pandastack.host.operations import Op

MAX_ITEMS = 100_000
"""Entries that one listing may have: what a guest tells must not fill the host's memory."""
MAX_TOLD_BYTES = 24 << 20
"""And bytes of all listings of one guest that are under way: so many entries with names of a hundred bytes.
One that has more by itself is refused; of several that have more together one is to be asked for again.
"""

MAX_PATH, MAX_USER = 4095, 255
"""Bytes that the protocol allows."""

T = TypeVar("T")
Refusal = Callable[[Fields], PandastackError]
"""Makes the error of a DONE whose errno is not 0."""


class Deadlines(Struct, frozen=True, kw_only=True):
    """Seconds that the agent gets. Commands have their own deadline, or none."""

    answer: float = 30.0
    """Until the first answer to a question."""
    work: float = 300.0
    """Until the next sign of life of work that takes as long as the files are large."""
    unread: float = 900.0
    """How long a process may leave the next part of its input unread."""


class Questions:
    """Base of the verbs: a link and its deadlines."""

    _link: Link
    _deadlines: Deadlines
    _told = 0
    """Bytes that listings under way have been told."""

    async def _items(
        self,
        op: Op,
        request: bytes,
        shape: Shape,
        of: Callable[[Fields], T],
        refusal: Refusal,
        *,
        first: float | None = None,
    ) -> list[T]:
        """What `of` makes of the items of an answer; the first of it comes within `first` seconds."""
        found: list[T] = []
        deadline, before = first or self._deadlines.answer, 0
        with self._link.open(op, request) as stream:
            try:
                while True:
                    frame = await stream.answer(deadline)
                    deadline = self._deadlines.work
                    if isinstance(frame, Data):
                        raise malformed(f"DATA for {op.name}")
                    if frame.type is FrameType.DONE:
                        self.ended(frame, operations.DONE, refusal)
                        return found
                    if frame.type is not FrameType.ITEMS:
                        raise malformed(f"{frame.type.name} for {op.name}")
                    before += len(frame.payload)
                    self._told += len(frame.payload)
                    found += islice(map(of, decode_items(frame.payload, shape)), MAX_ITEMS + 1 - len(found))
                    if stream.overflowed or len(found) > MAX_ITEMS or before > MAX_TOLD_BYTES:
                        raise FileRefused(
                            f"there are more than {MAX_ITEMS} entries, or very long ones; list a part of them"
                        )
                    if self._told > MAX_TOLD_BYTES:
                        raise RateLimited(
                            "the sandbox lists too much at once: try again, one after the other"
                        )
            finally:
                self._told -= before

    @staticmethod
    def opened(frame: Frame | Data, shape: Shape) -> Fields:
        """The fields of OPENED, which must be the first answer."""
        if isinstance(frame, Data) or frame.type is not FrameType.OPENED:
            raise malformed("an answer without OPENED")
        return decode_fields(frame.payload, shape)

    @staticmethod
    def ended(frame: Frame, shape: Shape, refusal: Refusal) -> Fields:
        """The fields of a DONE; raises the refusal when its errno is not 0."""
        done = decode_fields(frame.payload, shape)
        if done.number(Tag.ERRNO):
            raise refusal(done)
        return done


def nothing(item: Fields) -> None:
    """What is made of the items of an operation that has none."""


def absolute(path: str) -> str:
    """The path, if it is absolute; InvalidRequest if it is not, or is longer than a path can be."""
    if not path.startswith("/"):
        raise InvalidRequest(f'path must be absolute, got "{path}"')
    if len(path.encode(errors="replace")) > MAX_PATH:
        raise InvalidRequest(f"path must have at most {MAX_PATH} bytes")
    return path


def user_name(name: str | None) -> str | None:
    """The user, if that can be the name of one."""
    if name is not None and not 1 <= len(name.encode(errors="replace")) <= MAX_USER:
        raise InvalidRequest(f"user must have 1 to {MAX_USER} bytes")
    return name
