"""A running Firecracker: one jailed process, one directory, an API that is spoken to only when there is
something to say.

A snapshot of it holds the whole disk (Firecracker knows no layers) and, of the memory, what has changed since
the snapshot that the machine was restored from. Firecracker tells only what has changed since the last time
it was asked, so every answer is kept in the home until the machine ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from pandastack.errors import GuestUnreachable, MachineError, NotSupported
from pandastack.host import firecracker_jail, jail, layers, procfs, snapshots, sparse
from pandastack.host.death import tail
from pandastack.host.driver import Drive, MachineConfig, Machinery, SnapshotFiles, Stats, Taken
from pandastack.host.firecracker_api import Api, api, own_socket
from pandastack.host.firecracker_jail import CONSOLE, LOG, Root
from pandastack.host.firecracker_orders import (
    AGENT_PORT,
    API,
    DISK,
    FLUSH_METRICS,
    METRICS,
    NEW_MEMORY,
    NEW_STATE,
    PAUSE,
    RESUME,
    VSOCK,
    balloon_order,
    create_order,
)
from pandastack.host.groups import limits_of
from pandastack.host.means import Means
from pandastack.host.quarters import Quarters
from pandastack.model.host import SnapshotSpec

RECORD = "machine.json"
CHANGES = "changes"
"""In the home: a folder of what has changed since the machine's base, one file for each time it was asked."""
WRITE_SECONDS = 120.0
"""How long a snapshot may take: a whole one writes all memory."""
ANSWER_SECONDS = 5.0
"""How long one that is asked whether it is well may take."""
DIAL_SECONDS = 60.0
"""How long a guest may take until its agent listens."""
_DIAL_TURN = 2.0
_DIAL_REST = 0.01
_WORDS_BYTES = 16384
_METRICS_BYTES = 1 << 20


class Record(Struct, frozen=True):
    """`machine.json`: what the next program needs to find this machine again."""

    pid: int
    started: int
    config: MachineConfig
    uid: int
    name: str
    program: str
    own_memory: bool
    """Booted from its kernel: it differs from no snapshot."""
    phases_ms: dict[str, float]


class FirecrackerMachine:
    """One Firecracker. All verbs may be repeated; after `stop` only `wait` and `last_words` answer."""

    def __init__(
        self,
        home: Path,
        record: Record,
        child: jail.Child,
        machinery: Machinery,
        means: Means,
    ) -> None:
        self.home = home
        self.pid = child.pid
        self.phases_ms = dict(record.phases_ms)
        self._record = record
        self._child = child
        self._machinery = machinery
        self._quarters = Quarters(home, record.uid, limits_of(record.config), means)
        self._turn = asyncio.Lock()
        self.guest_socket = self.root.path / VSOCK
        """Where Firecracker listens for who wants to speak to a port of the guest: see `dial`."""

    @property
    def root(self) -> Root:
        """Its root directory."""
        return Root(self.home, self._record.name, self._record.program, self._record.uid)

    @asynccontextmanager
    async def _api(self) -> AsyncIterator[Api]:
        """Its API, for one at a time. MachineError when it has ended."""
        async with self._turn:
            if not self._child.alive():
                raise MachineError(f"The virtual machine's process {self.pid} has ended.")
            async with api(self.root.path / API, self._record.uid) as connection:
                yield connection

    async def pause(self) -> None:
        """Stop the virtual CPUs; fine when they are stopped."""
        async with self._api() as connection:
            await connection.give(PAUSE)

    async def resume(self) -> None:
        """Let the virtual CPUs run; fine when they do."""
        async with self._api() as connection:
            await connection.give(RESUME)

    async def answers(self) -> bool:
        """Its API does, unless somebody has its turn, who has a deadline of his own."""
        if self._turn.locked() or not self._child.alive():
            return True
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self.status()
        except (MachineError, TimeoutError):
            return not self._child.alive()
        return True

    def kill(self) -> None:
        """Who waits for its end is told."""
        self._child.signal(signal.SIGKILL)

    async def check_posture(self) -> None:
        """See `posture`. PostureViolation, MachineError."""
        self._quarters.check(self.pid)

    def join_groups(self) -> None:
        """See `Quarters`. One that is not limited is ended."""
        self._quarters.join_groups(self._child)

    async def joined_groups(self) -> None:
        """Return once it is limited, or ended."""
        await self._quarters.joined()

    async def status(self) -> str:
        """Firecracker's word for what the machine does."""
        async with self._api() as connection:
            return await connection.state()

    async def squeeze(self, mib: int) -> None:
        """Take so much memory from the guest by its balloon, or give it back. Refused without one."""
        async with self._api() as connection:
            await connection.give(balloon_order(mib))

    async def metrics(self) -> dict[str, Any]:
        """Firecracker's own counters since the last time; empty when they did not come whole."""
        pipe = os.open(self.home / METRICS, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not stat.S_ISFIFO(os.fstat(pipe).st_mode):
                raise MachineError("The machine's metrics do not come through a pipe.")
            async with self._api() as connection:
                await connection.give(FLUSH_METRICS)
            lines = _read_all(pipe).splitlines()
        finally:
            os.close(pipe)
        with suppress(IndexError, msgspec.MsgspecError):
            return msgspec.json.decode(lines[-1], type=dict[str, Any])
        return {}

    async def dial(self, *, deadline: float = DIAL_SECONDS) -> socket.socket:
        """A connection to its agent, which may have to come up first. GuestUnreachable when it does not, and
        at once of a machine that stands still; MachineError when it has ended.
        """
        if await self.status() == "Paused":
            raise GuestUnreachable("The machine stands still: its agent cannot answer.")
        try:
            async with asyncio.timeout(deadline):
                while (connection := await self._dial_once()) is None:
                    if not self._child.alive():
                        raise MachineError(f"The virtual machine's process {self.pid} has ended.")
                    await asyncio.sleep(_DIAL_REST)
        except TimeoutError:
            raise GuestUnreachable(f"The agent does not listen after {deadline:g} s.") from None
        return connection

    async def _dial_once(self) -> socket.socket | None:
        """A connection that the agent has taken; None when nobody did."""
        loop = asyncio.get_running_loop()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with own_socket(self.guest_socket, self._record.uid) as address:
                connection.connect(address)
            await loop.sock_sendall(connection, f"CONNECT {AGENT_PORT}\n".encode())
            if await asyncio.wait_for(_line(connection), _DIAL_TURN):
                return connection
        except (OSError, TimeoutError):
            connection.close()
            return None
        except BaseException:
            connection.close()
            raise
        connection.close()
        return None

    def moved(self, home: Path) -> None:
        """Its home has been renamed."""
        self._quarters.moved(home)
        self.home = home
        self.guest_socket = self.root.path / VSOCK

    async def snapshot(self, into: Path) -> SnapshotFiles:
        """Write a whole snapshot into the empty directory `into`; the machine stands still and then goes on.

        Only of a machine that was booted: of a restored one it would hide what differs from its base.
        NotSupported says so before anything is touched.
        """
        if not self._record.own_memory:
            raise NotSupported(
                "This machine was restored; only a booted one can be written as a whole snapshot."
            )
        files = snapshots.files_in(into)
        async with self._api() as connection, _standing_still(connection):
            await connection.give(create_order(differing=False), deadline=WRITE_SECONDS)
            await asyncio.to_thread(self._take_out, files.memory, files.state, files.overlay)
        config = self._record.config
        image = config.root_disk.parent.name
        await snapshots.seal(files, self._machinery, image, config.cpus, config.memory_mb)
        return files

    async def prepare(self) -> None:
        """There is nothing to prepare."""

    async def snapshot_since(
        self, base: SnapshotFiles | None, into: Path, spec: SnapshotSpec, went_on: Callable[[], None]
    ) -> Taken:
        """Keep what has changed of the memory, the state and the disk in `into`. See `driver.Machine`.

        The agent's connection does not outlive it: Firecracker resets vsock for whoever is restored.
        """
        if base is None or self._record.own_memory:
            raise NotSupported(
                "This machine was booted with a memory of its own, which differs from nothing: "
                "it can be written as a whole."
            )
        begun = time.perf_counter()
        files = snapshots.differing(into, base, self._record.config.overlay, 1)
        async with self._api() as connection, _standing_still(connection, hold=spec.hold):
            change = self._next_change()
            await connection.give(create_order(differing=True), deadline=WRITE_SECONDS)
            await asyncio.to_thread(self._take_out, change, files.state, files.layers[0])
        paused = time.perf_counter()
        if not spec.hold:
            went_on()
        await asyncio.to_thread(self._merge, files.memory)
        merged = time.perf_counter()
        phases = {"write": _ms(begun, paused), "merge": _ms(paused, merged)}
        return Taken(files, _ms(begun, paused), phases)

    def _take_out(self, memory: Path, state: Path, disk: Path) -> None:
        """The memory first: what it tells is told only once."""
        firecracker_jail.take_out(self.root, NEW_MEMORY, memory)
        firecracker_jail.take_out(self.root, NEW_STATE, state)
        sparse.copy(self.home / DISK, disk)

    def _next_change(self) -> Path:
        folder = self.home / CHANGES
        folder.mkdir(exist_ok=True)
        numbers = [int(path.name) for path in folder.iterdir()]
        return folder / str(max(numbers, default=-1) + 1)

    def _merge(self, pages: Path) -> None:
        """All that has changed since the base, in one file; it takes the place of the changes in the home."""
        first, *later = sorted((self.home / CHANGES).iterdir(), key=lambda path: int(path.name))
        if not later:
            layers.link(first, pages)
            return
        sparse.copy(first, pages)
        for change in later:
            lay_over(change, pages)
        pages.chmod(0o444)
        first.unlink()
        layers.link(pages, first)
        for change in later:
            change.unlink()

    async def attach(self, drives: Sequence[Drive]) -> None:
        """NotSupported."""
        raise NotSupported("Machines of this driver have no place for volumes yet.")

    async def resize(self, number: int, size_bytes: int) -> None:
        """There is no drive that it could see."""

    async def detach(self) -> None:
        """There is nothing to take out."""

    async def tidy(self) -> None:
        """There is nothing to do: its disk has no layers."""

    async def stats(self) -> Stats:
        """Counters of the process. MachineError when it has ended."""
        return procfs.stats(self.pid)

    async def stop(self, grace: float = 5.0) -> None:
        """End the process. A sandbox is disposable and its disk dies with it, so there is nothing to wait
        for.
        """
        await self._child.end(0)
        self._child.close()
        await self._quarters.leave()

    async def wait(self) -> int:
        return await self._child.wait()

    def forget(self) -> None:
        """Let go of the machine, which runs on."""
        self._child.close()

    def last_words(self) -> str:
        """The end of Firecracker's log, then of the guest's console."""
        return "\n".join(filter(None, (words(self.home / name) for name in (LOG, CONSOLE))))


@asynccontextmanager
async def _standing_still(connection: Api, *, hold: bool = False) -> AsyncIterator[None]:
    """Its virtual CPUs are stopped within the block, and go on behind it: unless they were stopped before, or
    are to hold and the block has ended well.
    """
    running = await connection.state() == "Running"
    if running:
        await connection.give(PAUSE)
    try:
        yield
    except BaseException:
        hold = False
        raise
    finally:
        if running and not hold:
            await connection.give(RESUME)


def words(log: Path) -> str:
    """The end of a log. Firecracker writes on where it was, also when its log has been cut."""
    return tail(log, _WORDS_BYTES).replace(b"\0", b"").decode(errors="replace").strip()


def lay_over(change: Path, whole: Path) -> None:
    """Write all that is no hole in `change` to the same places of `whole`."""
    with change.open("rb") as reader, whole.open("r+b") as writer:
        for start, length in sparse.extents(reader.fileno()):
            at = start
            while at < start + length:
                data = os.pread(reader.fileno(), min(sparse.CHUNK, start + length - at), at)
                at += os.pwrite(writer.fileno(), data, at)


async def _line(connection: socket.socket) -> bytes:
    """Up to the first end of a line, and nothing behind it; empty when the connection ends before."""
    loop = asyncio.get_running_loop()
    line = b""
    while not line.endswith(b"\n") and len(line) < 64:
        got = await loop.sock_recv(connection, 1)
        if not got:
            return b""
        line += got
    return line if line.startswith(b"OK ") else b""


def _read_all(pipe: int) -> bytes:
    data = b""
    with suppress(BlockingIOError):
        while len(data) < _METRICS_BYTES and (piece := os.read(pipe, 65536)):
            data += piece
    return data


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 2)
