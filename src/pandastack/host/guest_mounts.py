"""The volumes of a guest, mounted and unmounted by its agent."""

from __future__ import annotations

import errno
import os

from pandastack.errors import MachineError, PandastackError, VolumeBusy
from pandastack.host import refusals
from pandastack.host.fields import Fields, Tag, encode_fields
from pandastack.host.operations import NOTHING, Op
from pandastack.host.questions import Questions, Refusal, absolute, nothing

DAMAGED = frozenset({errno.EINVAL, errno.EUCLEAN, errno.EBADMSG, errno.EIO})
"""What a kernel says of a file system that it cannot read."""


class Mounting(Questions):
    """The verbs on volumes."""

    async def mount(self, drive: int, path: str, size_bytes: int, *, read_only: bool = False) -> None:
        """Mount the drive of that number, 0 the first beside the root disk, once the guest sees its size; one
        that is to be written grows to that size. MachineError.
        """
        request = encode_fields(
            [
                (Tag.PATH, absolute(path)),
                (Tag.DRIVE, drive),
                (Tag.SIZE, size_bytes),
                (Tag.READ_ONLY, 1 if read_only else None),
            ]
        )
        deadline = self._deadlines.work  # a journal that is replayed takes its time
        await self._items(Op.MOUNT, request, NOTHING, nothing, _refusal(path), first=deadline)

    async def grow_root(self, size_bytes: int) -> None:
        """Have the root file system fill its disk, once the guest sees that this has so many bytes.
        MachineError.
        """
        await self.mount(0, "/", size_bytes)

    async def unmount(self, path: str) -> None:
        """Flush what is mounted there, and take it away. VolumeBusy when a file of it is open: then it has
        been flushed and stays. MachineError.
        """
        request = encode_fields([(Tag.PATH, absolute(path))])
        deadline = self._deadlines.work
        await self._items(Op.UNMOUNT, request, NOTHING, nothing, _refusal(path), first=deadline)


def _refusal(path: str) -> Refusal:
    def of(done: Fields) -> PandastackError:
        number, message = done.number(Tag.ERRNO), refusals.message_of(done)
        if number == errno.EBUSY:
            return VolumeBusy(f"The volume at {path} is in use: a program has a file of it open.")
        if number in DAMAGED:
            return MachineError(f"The volume for {path} cannot be mounted: its file system is damaged.")
        return MachineError(f"The volume at {path}: {message}: {os.strerror(number)}")

    return of
