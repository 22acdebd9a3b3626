"""A fork server: one QEMU, restored and warmed for a template, that every machine of it is a fork of.

See `zygote/src/zygote.c` for what happens inside QEMU. Its children share one layout of the address space, so
it serves emulated machines only, where QEMU's process is no security boundary to begin with.
"""

from __future__ import annotations

import array
import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from pandastack.errors import MachineError
from pandastack.host import jail
from pandastack.host.agent import BUNDLE, COMPILE_SECONDS, checkout_root, package_root, source_digest
from pandastack.host.paths import Cache
from pandastack.host.publish import locked, new_directory
from pandastack.host.tool import run_tool

LIBRARY = "pandastack-zygote.so"
CHANNEL = "PANDASTACK_ZYGOTE"
"""The variable that tells the library its descriptors: for orders, for the monitor, for the agent."""
NAME_PLACEHOLDER = "pandastack-" + "#" * 64
"""Stands in the server's command line where each child has its own name."""
NOT_BECOME = range(111, 115)
"""The exit statuses of a child that could not become a machine; see `zygote/src/zygote.c`."""
ANSWER_SECONDS = 3.0
DEATH_SECONDS = 0.2
"""How long the word of a child's exit status may come after its end."""


class Zygote:
    """One fork server: a QEMU process in `home`, with a channel for orders. Ends when this program does."""

    def __init__(self, child: jail.Child, channel: socket.socket, home: Path) -> None:
        self.pid = child.pid
        self.home = home
        self.has_served = False
        self._broken = False
        self._child = child
        self._channel = channel
        self._channel.settimeout(ANSWER_SECONDS)
        self._ended: dict[int, int] = {}

    def alive(self) -> bool:
        """Whether it still serves, and its children become machines."""
        return not self._broken and self._child.alive()

    async def stand_still(self) -> None:
        """Stop the guest for good: from now on it can be forked. MachineError when it cannot be stopped."""
        await asyncio.to_thread(self._stand_still)

    def fork(self, name: str, *, home: Path, listeners: Sequence[int], file_size_limit: int) -> jail.Child:
        """A machine in `home`, called `name`, that listens on two sockets: for its monitor, for its agent's
        connection. It waits for the latter.

        MachineError when the server does not answer; then nothing was started that outlives it.
        """
        try:
            rights = array.array("i", listeners)
            order = b"\0".join((os.fsencode(home), name.encode(), b""))
            self._channel.sendmsg([order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            child = jail.hold(self._hear_of("F"), self._status_of, file_size_limit=file_size_limit)
        except OSError as error:
            raise MachineError(f"the fork server does not answer: {error}") from error
        self.has_served = True
        return child

    def abandon(self) -> None:
        """Tell the server to end; `close` still has to be awaited some time."""
        self._channel.close()
        self._child.signal(signal.SIGKILL)

    async def close(self) -> None:
        """End the server; its machines run on. Twice is fine."""
        self._channel.close()
        await self._child.end(0)
        self._child.close()

    def _stand_still(self) -> None:
        try:
            self._channel.send(b"S")
            self._hear_of("S")
        except OSError as error:
            raise MachineError(f"the fork server does not stand still: {error}") from error

    def _hear_of(self, wanted: str) -> int:
        while True:
            kind, number = self._hear()
            if kind == wanted:
                return number
            if kind == "E":
                raise MachineError(f"the fork server cannot do it: {os.strerror(number)}")

    def _hear(self) -> tuple[str, int]:
        """One message; deaths are kept for whoever waits for them."""
        words = self._channel.recv(256).decode().split()
        if not words:
            raise MachineError("the fork server has ended")
        if words[0] == "D":
            status = os.waitstatus_to_exitcode(int(words[2]))
            self._ended[int(words[1])] = status
            self._broken |= status in NOT_BECOME
        return words[0], int(words[1])

    def _status_of(self, pid: int) -> int:
        """The exit status of a child that has just ended."""
        try:
            self._channel.settimeout(DEATH_SECONDS)
            while pid not in self._ended:
                self._hear()
        except (OSError, MachineError):
            return jail.NOT_OURS
        finally:
            self._forget_timeout()
        return self._ended.pop(pid)

    def _forget_timeout(self) -> None:
        if self._channel.fileno() >= 0:
            self._channel.settimeout(ANSWER_SECONDS)


async def ensure_library(cache: Cache) -> Path | None:
    """The library to preload: from the installed package, or compiled from the checkout. None when neither
    can be.
    """
    bundled = package_root() / BUNDLE / LIBRARY
    checkout = checkout_root()
    if checkout is None or bundled.is_file():
        return bundled if bundled.is_file() else None
    sources = checkout / "zygote"
    library = cache.root / "zygote" / source_digest(sources) / LIBRARY
    async with locked(cache.lock("zygote")):
        if not library.is_file():
            with new_directory(library.parent) as draft:
                await run_tool(["make", "-C", sources, f"OUT={draft}"], timeout=COMPILE_SECONDS)
    return library
