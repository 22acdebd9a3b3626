"""A running QEMU: one process, one directory, a monitor that is spoken to only when there is something to
say.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from msgspec import Struct

from pandastack.errors import NotSupported
from pandastack.host import jail, procfs, snapshots, sparse
from pandastack.host.death import tail
from pandastack.host.driver import MachineConfig, Machinery, SnapshotFiles, Stats
from pandastack.host.qemu_command import CONSOLE, MEMORY, OVERLAY
from pandastack.host.qmp import monitor

AGENT = "agent"
QMP = "qmp"
LOG = "vmm.log"
RECORD = "machine.json"
_WORDS_BYTES = 16384


class Record(Struct, frozen=True):
    """`machine.json`: what the next program needs to find this machine again."""

    pid: int
    started: int
    config: MachineConfig
    own_memory: bool
    """Booted from its kernel: the file `memory` in its home is its memory."""
    phases_ms: dict[str, float]


class QemuMachine:
    """One QEMU process. All verbs may be repeated; after `stop` only `wait` and `last_words` answer."""

    def __init__(self, home: Path, record: Record, child: jail.Child, machinery: Machinery) -> None:
        self.home = home
        self.pid = child.pid
        self.guest_socket = home / AGENT
        self.phases_ms = record.phases_ms
        self._record = record
        self._child = child
        self._machinery = machinery
        self._turn = asyncio.Lock()

    async def pause(self) -> None:
        """Stop the virtual CPUs; at once, and fine when they are stopped."""
        async with self._turn, monitor(self.home / QMP) as qmp:
            await qmp.execute("stop")

    async def resume(self) -> None:
        """Let the virtual CPUs run."""
        async with self._turn, monitor(self.home / QMP) as qmp:
            await qmp.execute("cont")

    async def status(self) -> str:
        """QEMU's word for what the machine does: running, paused, io-error, inmigrate …"""
        async with self._turn, monitor(self.home / QMP) as qmp:
            return str((await qmp.execute("query-status"))["status"])

    async def snapshot(self, into: Path, *, since: SnapshotFiles | None = None) -> SnapshotFiles:
        """Write a whole snapshot into the empty directory `into`; the machine stands still and then goes on.

        Only of a machine that was booted: a restored one's memory is private pages over its base, and a
        snapshot of those is a verb of its own. NotSupported says so before anything is touched.
        """
        if not self._record.own_memory or since is not None:
            raise NotSupported(
                "This machine was restored; only a booted one can be written as a whole snapshot."
            )
        files = snapshots.files_in(into)
        async with self._turn, monitor(self.home / QMP, deadline=120.0) as qmp:
            await qmp.execute("stop")
            try:
                await qmp.execute("xen-save-devices-state", {"filename": str(files.state), "live": False})
                await asyncio.to_thread(sparse.copy, self.home / MEMORY, files.memory)
                await asyncio.to_thread(sparse.copy, self.home / OVERLAY, files.overlay)
            finally:
                await qmp.execute("cont")
        config = self._record.config
        await snapshots.seal(
            files, self._machinery, config.root_disk.parent.name, config.cpus, config.memory_mb
        )
        return files

    async def stats(self) -> Stats:
        """MachineError when the process has ended."""
        return procfs.stats(self.pid)

    async def stop(self, grace: float = 5.0) -> None:
        """End the process. A sandbox is disposable and its disk dies with it, so there is nothing to wait
        for.
        """
        await self._child.end(0)
        self._child.close()

    async def wait(self) -> int:
        return await self._child.wait()

    def forget(self) -> None:
        """Let go of the machine, which runs on."""
        self._child.close()

    def last_words(self) -> str:
        """The end of QEMU's log, then of the guest's console."""
        parts = [
            tail(self.home / name, _WORDS_BYTES).decode(errors="replace").strip() for name in (LOG, CONSOLE)
        ]
        return "\n".join(part for part in parts if part)
