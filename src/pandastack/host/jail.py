"""Child processes that outlive this program: in a session of their own, found again by pid and start time.

A `Child` is held by a pidfd, so neither a signal nor a wait can ever hit a stranger that has the same pid.
Nothing here starts threads; every ended child of this program is reaped by whoever waits for it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pandastack.errors import MachineError, PandastackError
from pandastack.host import procfs
from pandastack.host.cell import Cell
from pandastack.host.shortage import told

NOT_OURS = -1
"""The exit status of a process whose parent is somebody else: nobody may ask for it."""

JAIL_SECONDS = 10.0
"""How long it may take to make a jail."""
_CREDENTIALS = struct.Struct("3i")
SENDER_SPACE = socket.CMSG_SPACE(_CREDENTIALS.size)
"""What is received besides a message where its sender is wanted: the kernel tells that first, and descriptors
that somebody sends along find no room.
"""

KILL_DEADLINE = 10.0
"""Seconds that the kernel gets to end a process after SIGKILL."""


class Child:
    """A process of this host. `started` is field 22 of /proc/PID/stat: clock ticks since the host's boot."""

    def __init__(
        self, pid: int, started: int, pidfd: int, status_of: Callable[[int], int] | None = None
    ) -> None:
        self.pid = pid
        self.started = started
        self._pidfd = pidfd
        self._status_of = status_of
        self._status: int | None = None
        self._waiters: set[asyncio.Future[int]] = set()

    async def wait(self) -> int:
        """The exit status once it has ended: -n for signal n, NOT_OURS when this program is not its parent.

        Any number of tasks may wait, again and again; a cancelled one disturbs nobody.
        """
        status = self._reap()
        if status is not None:
            return status
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()
        if not self._waiters:
            loop.add_reader(self._pidfd, self._wake)
        self._waiters.add(ended)
        try:
            return await ended
        finally:
            self._waiters.discard(ended)
            if not self._waiters and self._pidfd >= 0:
                loop.remove_reader(self._pidfd)

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if self._status is None and self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                return

    async def end(self, grace: float) -> int:
        """SIGTERM, after `grace` seconds SIGKILL, and its exit status. `grace` of 0 kills at once.

        MachineError when the kernel cannot end it, which means that it hangs in a device.
        """
        if grace > 0:
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGCONT)  # a stopped process takes SIGTERM only when it goes on
            try:
                return await asyncio.wait_for(self.wait(), grace)
            except TimeoutError:
                pass
        self.signal(signal.SIGKILL)
        try:
            return await asyncio.wait_for(self.wait(), KILL_DEADLINE)
        except TimeoutError:
            raise MachineError(f"process {self.pid} does not end after SIGKILL") from None

    def ended_within(self, seconds: float) -> bool:
        """Wait for its end, and nothing else meanwhile: for one that is about to end. True also of one that
        was let go of.
        """
        return self._pidfd < 0 or _ended(self._pidfd, seconds)

    def alive(self) -> bool:
        """Whether it has not ended yet; an ended child of this program is reaped on the way."""
        return self._pidfd >= 0 and self._reap() is None

    def close(self) -> None:
        """Let go of it: the process goes on, who waits is cancelled; reaps an ended one. Twice is fine."""
        if self._pidfd < 0:
            return
        self._reap()
        for waiter in tuple(self._waiters):
            waiter.get_loop().remove_reader(self._pidfd)
            waiter.cancel()
        os.close(self._pidfd)
        self._pidfd = -1

    def _wake(self) -> None:
        status = self._reap()
        if status is None:
            return
        for waiter in self._waiters:
            waiter.get_loop().remove_reader(self._pidfd)
            if not waiter.done():
                waiter.set_result(status)

    def _reap(self) -> int | None:
        if self._status is None and self._pidfd >= 0 and _ended(self._pidfd):
            self._status = self._status_of(self.pid) if self._status_of else _collect(self._pidfd)
        return self._status


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    file_size_limit: int | None = None,
    nice: int = 0,
    cell: Cell | None = None,
) -> Child:
    """Start a process in its own session: stdin is empty, both outputs are appended to `log`, no core dumps.

    It inherits `pass_fds` under the same numbers and nothing else. `file_size_limit` is the size in bytes
    that no file it writes may pass. With a `cell` it is in a jail, and works in that one's home instead of
    `cwd`. Returns when the program has been executed; MachineError, NoCapacity or NoSpace when that failed,
    and then nothing is left.
    """
    if cell is not None:
        return _spawn_jailed(cell, cell.order(argv, env, file_size_limit), log, pass_fds)
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            cwd=cwd,
            env=env,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        raise told(error, f"{argv[0]} cannot be started") from error
    finally:
        os.close(log_fd)
    process.returncode = 0  # the pidfd reaps it; without this Popen would try to as well
    child = _hold(process.pid)
    _limit(process.pid, file_size_limit, nice)
    return child


def _spawn_jailed(cell: Cell, order: bytes, log: Path, pass_fds: Sequence[int]) -> Child:
    """Have the jail's program do it, which ends at once: the process is a child of ours, unless the cell is a
    server's.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    orders = os.memfd_create("order")
    with ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.settimeout(JAIL_SECONDS)
        try:
            os.write(orders, order)
            numbers = (orders, theirs.fileno())
            argv = [str(cell.program), *map(str, numbers)]
            jailer = spawn(argv, log=log, cwd=Path("/"), env={}, pass_fds=(*numbers, cell.home, *pass_fds))
        finally:
            os.close(orders)
            theirs.close()
        try:
            pid = _jailed(ours)
        finally:
            _reap(jailer)
    return _hold(pid)


def _jailed(report: socket.socket) -> int:
    """The process that has become the program, as this program's kernel numbers it."""
    pid = 0
    try:
        while True:
            words, rights, _, _ = report.recvmsg(256, SENDER_SPACE)
            if not words:
                break
            if not words.startswith(b"P"):
                _, number, step = words.decode().split(" ", 2)
                raise _not_made(int(number), step)
            pid = sender(rights)
    except TimeoutError as error:
        raise MachineError("The jail's program does not answer.") from error
    if not pid:
        raise MachineError("The jail's program has ended too soon.")
    return pid


def _not_made(number: int, step: str) -> PandastackError:
    """Why a jail was not made, and what mends it where that is known."""
    if step == "root" and number == errno.EINVAL:
        return MachineError(
            "The jail could not be made: the root of this server is no mount, as in a plain chroot. Bind the "
            "folder onto itself before entering it (mount --bind FOLDER FOLDER)."
        )
    return told(OSError(number, ""), f"The jail could not be made ({step})")


def sender(rights: Sequence[tuple[int, int, bytes]]) -> int:
    """Who has sent a message, from what came with it on a socket with SO_PASSCRED."""
    for level, kind, data in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return int(_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0])
    return 0


def _reap(jailer: Child) -> None:
    """It has nothing more to do."""
    jailer.ended_within(JAIL_SECONDS)
    jailer.close()


def hold(pid: int, status_of: Callable[[int], int], *, file_size_limit: int | None) -> Child:
    """The process `pid` that somebody else has started for us; `status_of` tells its exit status once it has
    ended. One that comes out of a jail has its limits from there, and they are no longer ours to set.
    """
    child = Child(pid, procfs.start_ticks(pid) or 0, os.pidfd_open(pid), status_of)
    if file_size_limit is not None:
        _limit(pid, file_size_limit, 0)
    return child


def adopt(pid: int, started: int) -> Child | None:
    """The process that was started as `pid` at `started`; None when it has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except (ProcessLookupError, ValueError, OverflowError):
        return None
    if procfs.start_ticks(pid) != started:
        os.close(pidfd)
        return None
    child = Child(pid, started, pidfd)
    if child.alive():
        return child
    child.close()
    return None


async def end_writers(log: Path) -> None:
    """End every process that was started with `log`, by a program that died before it could note which."""
    for pid in procfs.writers(log):
        child = adopt(pid, procfs.start_ticks(pid) or 0)
        if child is not None:
            await child.end(0)
            child.close()


def _hold(pid: int) -> Child:
    """The handle of a child that nobody else reaps: it stays in /proc, as a zombie if need be."""
    return Child(pid, procfs.start_ticks(pid) or 0, os.pidfd_open(pid))


def _limit(pid: int, file_size: int | None, nice: int) -> None:
    """From outside, since code between fork and exec would cost the fast path (vfork)."""
    try:
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        if file_size is not None:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (file_size, file_size))
        if nice:
            os.setpriority(os.PRIO_PROCESS, pid, nice)
    except ProcessLookupError:
        return  # it has ended already; whoever waits for it will see


def _ended(pidfd: int, seconds: float = 0) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _collect(pidfd: int) -> int:
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return NOT_OURS
    if result is None:
        return NOT_OURS
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
