"""The operations of the guest protocol and the fields that their answers hold."""

from __future__ import annotations

from enum import IntEnum

from pandastack.host.fields import Shape, Tag


class Op(IntEnum):
    """What an OPEN asks for."""

    EXEC = 1
    ATTACH = 2
    PROCESSES = 3
    KILL = 4
    READ = 5
    WRITE = 6
    LIST = 7
    STAT = 8
    MKDIR = 9
    MOVE = 10
    REMOVE = 11
    CHMOD = 12
    WATCH = 13
    METRICS = 14
    INPUT = 15
    DIAL = 16
    PORTS = 17
    MOUNT = 18
    UNMOUNT = 19


class CloseMode(IntEnum):
    """What a CLOSE does to the process behind the stream."""

    DETACH = 0
    KILL = 1


def _shape(*required: Tag, optional: tuple[Tag, ...] = (), repeated: tuple[Tag, ...] = ()) -> Shape:
    return Shape(frozenset(required), frozenset(optional), frozenset(repeated))


NOTHING = _shape()
WELCOME = _shape(Tag.AGENT, Tag.GATE_OPEN, Tag.KERNEL)
GATED = _shape(
    *(Tag.ERRNO, Tag.SPENT_US),
    optional=(
        *(Tag.MESSAGE, Tag.BOOT_ID, Tag.CLOCK_STEP_US, Tag.CLOCK_BACK),
        *(Tag.HOOKS_RUN, Tag.ENTROPY_BYTES),
    ),
    repeated=(Tag.HOOKS_FAILED,),
)
FROZEN = _shape(Tag.ERRNO, Tag.SPENT_US, optional=(Tag.MESSAGE,))
THAWED = _shape(Tag.ERRNO, optional=(Tag.MESSAGE,))
STILLED = _shape(Tag.ERRNO, Tag.CLOCK_NS, optional=(Tag.MESSAGE,))

STARTED = _shape(Tag.PID, optional=(Tag.STDIN, Tag.OFFSET, Tag.SIZE, Tag.ROWS, Tag.COLS))
"""OPENED of EXEC and ATTACH."""
FILE = _shape(Tag.SIZE, Tag.MODE, Tag.MTIME_NS, Tag.KIND)
"""OPENED of READ."""

DONE = _shape(Tag.ERRNO, optional=(Tag.MESSAGE,))
ENDED = _shape(Tag.ERRNO, optional=(Tag.MESSAGE, Tag.EXIT_CODE, Tag.DURATION_US, Tag.TIMED_OUT))
"""DONE of EXEC and ATTACH."""
WRITTEN = _shape(Tag.ERRNO, optional=(Tag.MESSAGE, Tag.SIZE))
"""DONE of WRITE."""

ENTRY = _shape(
    *(Tag.NAME, Tag.KIND, Tag.SIZE, Tag.MODE, Tag.MTIME_NS, Tag.UID, Tag.GID),
    optional=(Tag.LINK, Tag.CTIME_NS),
)
"""An item of LIST and STAT."""
PROCESS = _shape(
    *(Tag.PROCESS_ID, Tag.PID, Tag.COMMAND, Tag.STARTED_NS, Tag.RUNNING, Tag.TTY),
    optional=(Tag.EXIT_CODE, Tag.STDIN),
)
"""An item of PROCESSES."""
PORT = _shape(Tag.PORT, Tag.LOOPBACK)
"""An item of PORTS."""
EVENT = _shape(Tag.NAME, Tag.EVENT)
"""An item of WATCH."""
METRICS = _shape(
    *(Tag.UPTIME_MS, Tag.LOAD1, Tag.MEMORY_TOTAL, Tag.MEMORY_AVAILABLE),
    *(Tag.DISK_TOTAL, Tag.DISK_FREE, Tag.PROCESS_COUNT, Tag.CPU_BUSY_MS),
)
"""The item of METRICS."""
