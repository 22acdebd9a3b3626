"""What an errno of the guest means to the one who asked: the class of the error and its sentence."""

from __future__ import annotations

import errno
import os

from pandastack.errors import (
    Conflict,
    FileMissing,
    FileRefused,
    GuestUnreachable,
    InternalError,
    InvalidRequest,
    NotFound,
    PandastackError,
    RateLimited,
)
from pandastack.host.fields import Fields, Tag

_REASONS = {
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.EISDIR: "it is a directory",
    errno.ENOTDIR: "a part of it is no directory",
    errno.ENOTEMPTY: "the directory is not empty",
    errno.EEXIST: "it exists already",
    errno.ENOSPC: "the sandbox's disk is full",
    errno.EDQUOT: "the sandbox's disk is full",
    errno.EROFS: "it is read-only",
    errno.ETXTBSY: "the program is running",
    errno.EFBIG: "it would become too large",
    errno.ELOOP: "too many symbolic links",
    errno.ENAMETOOLONG: "the name is too long",
}
_NO_INPUT = {
    errno.EBADF: "was started without stdin",
    errno.EPIPE: "takes no more input: its stdin is closed, or it has ended",
}
_MAX_MESSAGE = 500  # characters of the guest's own words that a sentence of ours may quote


def message_of(done: Fields) -> str:
    """The guest's own words, short enough to be quoted."""
    return done.text(Tag.MESSAGE)[:_MAX_MESSAGE]


def of_file(done: Fields, path: str) -> PandastackError:
    """Why an operation on `path` failed."""
    number, message = done.number(Tag.ERRNO), message_of(done)
    if number == errno.ENOENT:
        return FileMissing(f'no such file or directory in the sandbox: "{path}"')
    if common := _of_anything(number, message):
        return common
    if number == errno.EINVAL:
        return InvalidRequest(f'"{path}": {message or "invalid argument"}')
    reason = _REASONS.get(number) or message or os.strerror(number)
    return FileRefused(f'"{path}": {reason}', errno=errno.errorcode.get(number, str(number)))


def of_process(done: Fields, process_id: str) -> PandastackError:
    """Why an operation on a process that was started before failed."""
    number, message = done.number(Tag.ERRNO), message_of(done)
    if number in (errno.ESRCH, errno.ENOENT):
        return NotFound(f"no such process in the sandbox: {process_id}")
    if number in _NO_INPUT:
        return Conflict(f"process {process_id} {_NO_INPUT[number]}")
    if common := _of_anything(number, message):
        return common
    if number == errno.EINVAL:
        return InvalidRequest(message or "invalid argument")
    return Conflict(f"process {process_id}: {message or os.strerror(number)}")


def _of_anything(number: int, message: str) -> PandastackError | None:
    """What every operation may be refused for."""
    if number == errno.EINVAL and message.startswith("no such user"):
        return InvalidRequest("there is no such user in the sandbox")
    if number == errno.EPROTO:
        return InternalError(f"the guest's agent did not understand the request: {message}")
    if number == errno.EAGAIN:
        return RateLimited(f"the sandbox has too much to do at once: {message}")
    if number == errno.ESHUTDOWN:
        return GuestUnreachable("the sandbox does not take requests while its state is being saved")
    return None
