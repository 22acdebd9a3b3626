"""A fork server for QEMU: a process that has done once what every start of a template has in common.

See `zygote/zygote.c` for what it does inside QEMU. Its children share one layout of the address space, so it
serves emulated machines only, where QEMU's process is no security boundary to begin with.
"""

from __future__ import annotations

import array
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from pandastack.errors import MachineError
from pandastack.host import jail
from pandastack.host.agent import BUNDLE, COMPILE_SECONDS, checkout_root, package_root, source_digest
from pandastack.host.paths import Cache
from pandastack.host.publish import locked, new_directory
from pandastack.host.tool import run_tool

LIBRARY = "pandastack-zygote.so"
FIRST_FD = 100
"""The number that a child sees its first descriptor under."""
NAME_PLACEHOLDER = "pandastack-" + "#" * 64
"""Stands in the server's command line where each child has its own name."""
ANSWER_SECONDS = 5.0
DEATH_SECONDS = 0.2
"""How long the word of a child's exit status may come after its end."""
_CHANNEL = "PANDASTACK_ZYGOTE_FD"


class Zygote:
    """One fork server, started by `start` and ended by `close`; it also ends when this program does."""

    def __init__(self, child: jail.Child, channel: socket.socket) -> None:
        self._child = child
        self._channel = channel
        self._ended: dict[int, int] = {}

    @classmethod
    def start(
        cls, library: Path, command: Sequence[str], *, home: Path, env: Mapping[str, str], log: Path
    ) -> Zygote:
        """Start QEMU with the arguments that all children have. MachineError when it cannot be started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                preload = {"LD_PRELOAD": str(library), _CHANNEL: str(theirs.fileno())}
                child = jail.spawn(
                    command, log=log, cwd=home, env={**env, **preload}, pass_fds=[theirs.fileno()]
                )
        except BaseException:
            ours.close()
            raise
        ours.settimeout(ANSWER_SECONDS)
        return cls(child, ours)

    def alive(self) -> bool:
        """Whether it still serves."""
        return self._child.alive()

    def fork(
        self, name: str, *, home: Path, log: Path, fds: Sequence[int], file_size_limit: int
    ) -> jail.Child:
        """A machine in `home`, called `name`, that sees `fds` as FIRST_FD and up.

        MachineError when the server does not answer; then nothing was started that outlives it.
        """
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            rights = array.array("i", [log_fd, *fds])
            order = b"\0".join((os.fsencode(home), name.encode(), b""))
            self._channel.sendmsg([order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            pid = self._forked()
        except OSError as error:
            raise MachineError(f"the fork server does not answer: {error}") from error
        finally:
            os.close(log_fd)
        return jail.hold(pid, self._status_of, file_size_limit=file_size_limit)

    def abandon(self) -> None:
        """Tell the server to end; `close` still has to be awaited some time."""
        self._channel.close()
        self._child.signal(signal.SIGKILL)

    async def close(self) -> None:
        """End the server; its machines run on. Twice is fine."""
        self._channel.close()
        await self._child.end(0)
        self._child.close()

    def _forked(self) -> int:
        while True:
            kind, number = self._hear()
            if kind == "F":
                return number
            if kind == "E":
                raise MachineError(f"the fork server cannot fork: {os.strerror(number)}")

    def _hear(self) -> tuple[str, int]:
        """One message; deaths are kept for whoever waits for them."""
        words = self._channel.recv(256).decode().split()
        if not words:
            raise MachineError("the fork server has ended")
        if words[0] == "D":
            self._ended[int(words[1])] = os.waitstatus_to_exitcode(int(words[2]))
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
