"""What can be asked of a guest: commands, processes and files, and the protocol of whoever answers.

`Guest` is implemented by the host's link to the agent; everything above speaks to this protocol only.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager
from enum import IntEnum, StrEnum
from typing import Protocol

from msgspec import Struct


class Channel(IntEnum):
    """Which stream of a process a chunk belongs to."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2


class Output(Struct, frozen=True):
    """A piece of output, as it came."""

    channel: Channel
    data: bytes


class Command(Struct, frozen=True, kw_only=True):
    """A command to run. Exactly one of `argv` and `shell` is set; `timeout_ms` kills it with all that
    descends from it.
    """

    process_id: str
    argv: tuple[str, ...] = ()
    shell: str | None = None
    cwd: str | None = None
    env: dict[str, str] = {}
    user: str | None = None
    timeout_ms: int | None = None
    stdin: bool = False
    terminal: tuple[int, int] | None = None
    """(rows, columns) for a pseudo terminal."""
    detached: bool = False
    """Survives its stream: goes on when the caller detaches."""


class Exit(Struct, frozen=True):
    """How a process ended: 128+n for signal n; `duration_us` was measured in the guest."""

    exit_code: int
    duration_us: int
    timed_out: bool = False


class Place(Struct, frozen=True):
    """Where an attached stream begins, in bytes of output since the process began."""

    offset: int = 0
    """The position of the first byte that follows."""
    replayed: int = 0
    """So many of the bytes that follow were written before the stream began."""
    size: tuple[int, int] | None = None
    """(rows, columns) of its terminal, when it has one that is open."""


class ProcessInfo(Struct, frozen=True):
    """A process that was started through the agent and is still remembered."""

    id: str
    pid: int
    command: str
    started_ns: int
    running: bool
    exit_code: int | None = None
    tty: bool = False
    stdin: bool = False
    """Whether it takes input now."""


class FileKind(StrEnum):
    """The type letter of find(1)."""

    FILE = "f"
    DIRECTORY = "d"
    LINK = "l"
    PIPE = "p"
    SOCKET = "s"
    CHARACTER = "c"
    BLOCK = "b"


class FileEntry(Struct, frozen=True):
    """A directory entry; `mode` is the permission bits, `name` relative to what was listed."""

    name: str
    kind: FileKind
    size: int
    mode: int
    mtime_ns: int
    uid: int = 0
    gid: int = 0
    ctime_ns: int = 0
    """When anything of it was last changed, which no program can set; 0 when the guest does not tell."""
    link: str | None = None


class FileEvent(Struct, frozen=True):
    """A change below a watched path: create, modify, remove, move, attrib or overflow."""

    name: str
    event: str


class GuestMetrics(Struct, frozen=True):
    """The guest's own view. Bytes and milliseconds; `load1` is the load average times 1000."""

    uptime_ms: int
    load1: int
    memory_total: int
    memory_available: int
    disk_total: int
    disk_free: int
    process_count: int
    cpu_busy_ms: int


class Process(Protocol):
    """A running command. The iterator of `output` ends when the process has; then `wait` returns at once."""

    id: str
    pid: int
    place: Place

    def output(self) -> AsyncIterator[Output]:
        """What it writes, until it has ended; not reading on holds it up, and nothing else."""
        ...

    async def write(self, data: bytes) -> None:
        """Write to its stdin as fast as it reads. Errors: InvalidRequest when it has none."""
        ...

    async def close_stdin(self) -> None:
        """End its stdin; fine when it has none."""
        ...

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal the new size."""
        ...

    async def signal(self, number: int) -> None:
        """Send a signal to its process group; nothing happens when it has ended."""
        ...

    async def wait(self) -> Exit:
        """How it ended; may be asked again and again."""
        ...

    async def detach(self) -> None:
        """Let it go on without us."""
        ...

    async def kill(self) -> None:
        """Kill its process group; `wait` then tells 137."""
        ...


class FileReader(Protocol):
    """An open file of the guest: its entry, and its bytes as they arrive."""

    entry: FileEntry

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Port(Struct, frozen=True):
    """A TCP port that something in the guest listens on."""

    number: int
    loopback: bool
    """Only on the guest's own loopback addresses."""


class Connection(Protocol):
    """A connection to a service in the guest. One task reads it and one writes it."""

    async def read(self) -> bytes:
        """The next bytes; none at the end. Not reading on holds the service up. Errors: PortClosed."""
        ...

    async def write(self, data: bytes) -> None:
        """Send bytes as fast as the service takes them; what one that left does not take is dropped."""
        ...

    async def end(self) -> None:
        """Send no more; the other direction goes on."""
        ...


class Guest(Protocol):
    """The verbs of the agent. All paths are absolute and resolved in the guest as `user` (root when None).

    Errors: FileMissing, FileRefused, InvalidRequest (relative path, unknown user), GuestUnreachable when the
    agent does not answer, MachineError when the machine is gone.
    """

    def run(self, command: Command) -> AbstractAsyncContextManager[Process]:
        """Start a command; leaving the block ends it (or detaches, for a detached one)."""
        ...

    def attach(self, process_id: str, *, quiet: bool = False) -> AbstractAsyncContextManager[Process]:
        """The stream of a process that runs already, its last 64 KiB of output first; leaving detaches.

        A `quiet` one has no output, so it holds nothing up: it is for writing and waiting. Errors: NotFound.
        """
        ...

    async def processes(self) -> list[ProcessInfo]:
        """The processes that were started through the agent and are still remembered."""
        ...

    async def process(self, process_id: str, *, wait_seconds: float = 0.0) -> ProcessInfo:
        """One of them, as soon as it has ended or after `wait_seconds`. Errors: NotFound."""
        ...

    async def feed(self, process_id: str, chunks: AsyncIterable[bytes], *, last: bool = False) -> None:
        """Write to the stdin of a process as fast as it reads, and with `last` end it.

        Errors: NotFound; Conflict when it takes no input, has ended, or never reads.
        """
        ...

    async def kill(self, process_id: str, signal: int) -> None:
        """Send a signal to a process group. Errors: NotFound when it has ended."""
        ...

    def read(
        self, path: str, *, user: str | None = None, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[FileReader]:
        """Open a file from byte `offset` on, for `length` bytes or to its end."""
        ...

    async def write(
        self, path: str, chunks: AsyncIterable[bytes], *, user: str | None = None, mode: int | None = None
    ) -> int:
        """Write a file and its missing parents; the bytes written. On any error the old file stays."""
        ...

    async def list(self, path: str, *, user: str | None = None, depth: int = 1) -> list[FileEntry]:
        """What is below a directory, `depth` levels deep, in the order of the file system."""
        ...

    async def stat(self, path: str, *, user: str | None = None, follow: bool = True) -> FileEntry:
        """The entry of one path; of a link itself unless `follow`."""
        ...

    async def mkdir(self, path: str, *, user: str | None = None, mode: int | None = None) -> None:
        """Make a directory and its missing parents; one that exists is fine."""
        ...

    async def move(self, path: str, target: str, *, user: str | None = None) -> None:
        """Rename a file or a tree, over what is there; missing parents of the target are made."""
        ...

    async def remove(self, path: str, *, user: str | None = None, recursive: bool = False) -> None:
        """Remove a file, an empty directory, or with `recursive` a tree."""
        ...

    async def chmod(self, path: str, mode: int, *, user: str | None = None, recursive: bool = False) -> None:
        """Set the permission bits of a path, with `recursive` of all below it too."""
        ...

    def watch(
        self, path: str, *, user: str | None = None, recursive: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[FileEvent]]:
        """Changes below a path from now on; `overflow` stands for those that a slow reader missed."""
        ...

    def dial(self, port: int) -> AbstractAsyncContextManager[Connection]:
        """A connection to a service of the guest, also one on loopback; leaving closes it.

        Errors: PortClosed when nothing takes connections there, RateLimited beyond 256 connections.
        """
        ...

    async def ports(self) -> tuple[Port, ...]:
        """The TCP ports that are listened on, in order."""
        ...

    async def metrics(self) -> GuestMetrics:
        """What the guest's kernel counts now."""
        ...
