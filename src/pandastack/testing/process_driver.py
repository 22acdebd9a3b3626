"""A driver without virtual machines: the real guest agent as a local process, for tests on any Linux machine.

Commands, terminals, files and streams all work, in milliseconds, on the host's own file system and with the
host's own rights. There is no isolation whatsoever, so whoever makes one must say that it is accepted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from pandastack.errors import MachineError, NotSupported
from pandastack.host import jail, procfs, snapshots, unix
from pandastack.host.driver import Drive, Feature, MachineConfig, Machinery, SnapshotFiles, Stats, Taken
from pandastack.host.record import read_record
from pandastack.model.host import SnapshotSpec
from pandastack.model.sandbox import Isolation

SOCKET = "agent"
CONSOLE = "console.log"
RECORD = "machine.json"
START_SECONDS = 10.0
_WORDS_BYTES = 2000


class Record(Struct, frozen=True):
    """`machine.json`: what the next program needs to find this machine again."""

    pid: int
    started: int
    config: MachineConfig
    phases_ms: dict[str, float]


class ProcessMachine:
    """One agent and the commands it has started. All verbs may be repeated."""

    def __init__(self, home: Path, record: Record, child: jail.Child) -> None:
        self.home = home
        self.pid = child.pid
        self.guest_socket = home / SOCKET
        self.phases_ms = dict(record.phases_ms)
        self._config = record.config
        self._child = child

    async def pause(self) -> None:
        """Stop the agent and all that it has started."""
        self._freeze()

    async def resume(self) -> None:
        """Let them go on."""
        for pid in procfs.children(self.pid):
            _signal(pid, signal.SIGCONT)
        self._child.signal(signal.SIGCONT)

    async def dial(self) -> socket.socket:
        """A connection to the agent."""
        return unix.connect(self.guest_socket)

    async def check_posture(self) -> None:
        """It is a plain process, and whoever made the driver has said that this is accepted."""

    async def answers(self) -> bool:
        """Not when it is stopped."""
        return procfs.state(self.pid) != "T"

    def kill(self) -> None:
        self._child.signal(signal.SIGKILL)

    def moved(self, home: Path) -> None:
        """Its home has been renamed."""
        self.home = home
        self.guest_socket = home / SOCKET

    async def snapshot(self, into: Path) -> SnapshotFiles:
        """A manifest and empty files: the file system is the host's own, and memory cannot be kept.

        NotSupported while commands run, since a restored machine would not have them.
        """
        files = snapshots.files_in(into)
        if procfs.children(self.pid):
            raise NotSupported(
                "The process driver cannot keep running commands in a snapshot: it has no memory image."
            )
        for path in (files.memory, files.state, files.overlay):
            path.touch()
        config = self._config
        image = config.root_disk.parent.name
        await snapshots.seal(files, MACHINERY, image, config.cpus, config.memory_mb)
        return files

    async def prepare(self) -> None:
        """There is nothing to prepare."""

    async def snapshot_since(
        self, base: SnapshotFiles | None, into: Path, spec: SnapshotSpec, went_on: Callable[[], None]
    ) -> Taken:
        """As `snapshot`: there is nothing that differs. One that is to hold stops."""
        begun = time.perf_counter()
        files = await self.snapshot(into)
        if spec.hold:
            self._freeze()
        else:
            went_on()
        return Taken(files, (time.perf_counter() - begun) * 1000, {})

    async def attach(self, drives: Sequence[Drive]) -> None:
        """Its agent mounts none: what is written to their places is written to the host's own disk."""

    async def resize(self, number: int, size_bytes: int) -> None:
        """There is no drive that it could see."""

    async def detach(self) -> None:
        """There is nothing to take out."""

    async def tidy(self) -> None:
        """There is nothing to do."""

    async def stats(self) -> Stats:
        """Counters of the agent; MachineError when it has ended."""
        return procfs.stats(self.pid)

    async def stop(self, grace: float = 5.0) -> None:
        """End the agent and its commands at once, as switching a machine off does.

        Returns when all have ended.
        """
        if self._child.alive():
            self._freeze()
            for command in _held(procfs.children(self.pid)):
                await command.end(0)
                command.close()
        await self._child.end(0)
        self._child.close()

    async def wait(self) -> int:
        """The agent's exit status once it has ended; -1 for an adopted one."""
        return await self._child.wait()

    def forget(self) -> None:
        """Let go of the machine, which runs on."""
        self._child.close()

    def last_words(self) -> str:
        """The end of what the agent printed."""
        return _end_of(self.home / CONSOLE)

    def _freeze(self) -> None:
        """Stop the whole tree, from the root down, so that nothing is started behind our back."""
        self._child.signal(signal.SIGSTOP)
        stopped: set[int] = set()
        while fresh := procfs.children(self.pid) - stopped:
            for pid in fresh:
                _signal(pid, signal.SIGSTOP)
            stopped |= fresh


class ProcessDriver:
    """Starts agents. `agent` is the binary; `insecure_no_isolation` must be True."""

    name = "process"
    version = "1"
    isolation = Isolation.NONE
    degraded: tuple[str, ...] = ()
    features = Feature.PAUSE | Feature.DRIVES | Feature.SNAPSHOT

    def __init__(self, agent: Path, *, insecure_no_isolation: bool) -> None:
        if insecure_no_isolation is not True:
            raise NotSupported(
                "The process driver runs commands on this machine without any isolation; "
                "it is for tests and wants insecure_no_isolation=True."
            )
        self._agent = agent

    async def boot(
        self, config: MachineConfig, home: Path, disk: SnapshotFiles | None = None, tap: int | None = None
    ) -> ProcessMachine:
        """Start an agent in `home`; its gate is closed. On any error and on cancellation nothing is left.

        It has the disk and the network of this machine, whatever `disk` and `tap` are.
        """
        child = self._spawn(home)
        record = Record(child.pid, child.started, config, {})
        try:
            (home / RECORD).write_bytes(msgspec.json.encode(record, enc_hook=str))
            await _listening(child, home)
        except BaseException:
            await child.end(0)
            child.close()
            for name in (RECORD, SOCKET, CONSOLE):
                (home / name).unlink(missing_ok=True)
            raise
        return ProcessMachine(home, record, child)

    async def restore(
        self, snapshot: SnapshotFiles, config: MachineConfig, home: Path, tap: int | None = None
    ) -> ProcessMachine:
        """Start an agent as after the snapshot: with its gate closed and nothing running. SnapshotRefused."""
        self.check(snapshot, config)
        return await self.boot(config, home)

    async def adopt(self, home: Path) -> ProcessMachine | None:
        """The machine whose home this is, if its agent still runs; one that was never recorded is ended."""
        record = read_record(home / RECORD, Record)
        if record is None:
            await jail.end_writers(home / CONSOLE)
            return None
        child = jail.adopt(record.pid, record.started)
        return None if child is None else ProcessMachine(home, record, child)

    async def release(self, name: str) -> None:
        """Nothing is held for a snapshot."""

    def check(self, snapshot: SnapshotFiles, config: MachineConfig) -> None:
        """SnapshotRefused when another driver made the snapshot, or when it is damaged."""
        snapshots.check_fits(snapshots.read_manifest(snapshot), self.machinery(config))

    def machinery(self, config: MachineConfig) -> Machinery:
        """What a snapshot must have been made on."""
        return MACHINERY

    def _spawn(self, home: Path) -> jail.Child:
        # Relative to its directory, since a socket's address is shorter than a path may be.
        argv = [str(self._agent), "--socket", SOCKET, "--no-machine"]
        return jail.spawn(argv, log=home / CONSOLE, cwd=home, env={"PATH": os.defpath})


async def _listening(child: jail.Child, home: Path) -> None:
    """Return once the agent can be connected to: its socket appears when it listens."""
    try:
        async with asyncio.timeout(START_SECONDS):
            while child.alive() and not (home / SOCKET).exists():  # noqa: ASYNC110 - told by the file system only
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise MachineError(f"The guest agent does not listen after {START_SECONDS:g} s.") from None
    if not child.alive():
        raise MachineError(f"The guest agent has ended at once: {_end_of(home / CONSOLE)}")


def _end_of(console: Path) -> str:
    try:
        return console.read_bytes()[-_WORDS_BYTES:].decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


MACHINERY = Machinery("process", ProcessDriver.version, accel="none", host_cpu="any", devices="none")


def _held(pids: set[int]) -> list[jail.Child]:
    found = (jail.adopt(pid, procfs.start_ticks(pid) or 0) for pid in pids)
    return [child for child in found if child]


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has ended meanwhile, which is as good
