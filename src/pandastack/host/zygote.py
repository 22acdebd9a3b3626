"""A fork server: one QEMU, restored and warmed for a template, that every machine of it is a fork of.

See `zygote/src/zygote.c` for what happens inside QEMU. Its children share one layout of the address space, so
it serves emulated machines only, where QEMU's process is no security boundary to begin with.
"""

from __future__ import annotations

import array
import asyncio
import errno
import functools
import os
import select
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path

from pandastack.carrying import carried_through
from pandastack.errors import MachineError
from pandastack.host import jail, layers, procfs, unix
from pandastack.host.agent import BUNDLE, COMPILE_SECONDS, checkout_root, package_root, source_digest
from pandastack.host.means import Means
from pandastack.host.paths import Cache
from pandastack.host.publish import locked, new_directory
from pandastack.host.tool import run_tool

LIBRARY = "pandastack-zygote.so"
CHANNEL = "PANDASTACK_ZYGOTE"
"""The variable that tells the library its descriptors: for orders, for the monitor, for the agent, for orders
to a machine.
"""
NAME_PLACEHOLDER = "pandastack-" + "#" * 64
"""Stands in the server's command line where each child has its own name."""
NOT_BECOME = range(111, 117)
"""The exit statuses of a child that could not become a machine; see `zygote.c` and `apart.c`."""
ANSWER_SECONDS = 3.0
ENDING_SECONDS = 0.5
DEATH_MS = 200
"""How long the word of a child's exit status may come after its end."""


class Zygote:
    """One fork server: a QEMU process, with a channel for orders. Ends when this program does.

    `disk` names the layers of its disk, which every fork has in its home under the same names; the last one
    is empty: a copy of the file `empty`, or of the template's. One that is to be forked `once` becomes the
    machine itself, and `is_machine` then. That of a machine has its `user`, and so do its forks. One
    that `is_jailed` numbers processes by itself, and who is meant is taken from who says it. `ended` is
    called at its end.
    """

    def __init__(
        self,
        child: jail.Child,
        channel: socket.socket,
        *,
        disk: tuple[str, ...] = (layers.FIRST,),
        empty: Path | None = None,
        once: bool = False,
        user: int = 0,
        is_jailed: bool = False,
        ended: Callable[[], None] | None = None,
    ) -> None:
        self.pid = child.pid
        self._tell_ended = ended
        self.user = user
        self._is_jailed = is_jailed
        self._names: dict[int, int] = {}
        self.disk = disk
        self.empty = empty
        self.has_served = False
        self._broken = False
        self._child = child
        self._once = once
        self.is_machine = False
        self._channel = channel
        self._channel.setblocking(False)
        if is_jailed:
            self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(channel, self._hear)
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[int] | None = None
        self._ended: dict[int, int] = {}
        self._machines: set[int] = set()
        self._childless = asyncio.Event()

    @property
    def is_childless(self) -> bool:
        """Whether it has no machine whose end it has to tell."""
        return not self._machines

    def alive(self) -> bool:
        """Whether it still serves, and its children become machines."""
        return not self._broken and self._child.alive()

    async def go_back(self, base: str, state: str) -> None:
        """Have the guest go on from where it began: its memory is its base's, the mark of which is given, and
        its devices are as in `state`, a file of its home. What was translated stays. MachineError.
        """
        await self._ask(b"\0".join((b"B", os.fsencode(base), os.fsencode(state), b"")), ())

    async def stand_still(self) -> None:
        """Stop the guest for good: from now on it can be forked. MachineError when it cannot be stopped."""
        await self._ask(b"S", ())

    async def fork(
        self,
        name: str,
        *,
        home: int,
        own: Sequence[int],
        file_size_limit: int,
        user: int = 0,
        hold: bool = False,
    ) -> jail.Child:
        """A machine in `home`, a descriptor, called `name`. Its `own` are three sockets that it listens on,
        for its monitor, for its agent's connection, which it waits for, and for orders; and the other end of
        its network device. With `hold` its guest does not run until it is `loaded`. It becomes `user`, unless
        that is 0.

        MachineError when the server does not answer. A fork that is cancelled is carried out and undone.
        """
        how = "itself" if self._once else "hold" if hold else ""
        order = b"\0".join((b"F", name.encode(), how.encode(), str(user or "").encode(), b""))
        return await _carried_out(self._forked(order, (*own, home), file_size_limit))

    async def save_devices(self, into: str) -> None:
        """Write the state of all devices to a file of its home, which is there. MachineError."""
        await self._ask(b"\0".join((b"V", os.fsencode(into), b"")), ())

    def abandon(self) -> None:
        """Tell the server to end; `close` still has to be awaited some time."""
        self._fail("it was given up")
        if not self.is_machine:
            self._child.signal(signal.SIGKILL)

    async def outlive_machines(self) -> None:
        """Fork no more, and end when no machine is left whose end this has to tell."""
        async with self._turn:
            self._tell_childless()
        await self._childless.wait()
        await self.close()

    async def close(self) -> None:
        """End the server; its machines run on, and who waits for its answer is told. Twice is fine."""
        self._fail("it was ended")
        if not self.is_machine:
            with suppress(TimeoutError):  # it ends the child that it has ahead, and then itself
                await asyncio.wait_for(self._child.wait(), ENDING_SECONDS)
            await self._child.end(0)
            self._child.close()
        if self._tell_ended is not None:
            self._tell_ended()

    async def _forked(self, order: bytes, own: Sequence[int], file_size_limit: int) -> jail.Child:
        pid = await self._ask(order, own)
        if self._once:
            self.is_machine = True
            self._hang_up()
            return self._child
        try:
            limit = None if self._is_jailed else file_size_limit
            child = jail.hold(pid, self._status_of, file_size_limit=limit)
        except OSError as error:
            raise MachineError(f"the fork has ended at once: {error}") from error
        self.has_served = True
        self._machines.add(pid)
        return child

    async def _ask(self, order: bytes, descriptors: Sequence[int]) -> int:
        """The number that is answered."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            async with self._turn, asyncio.timeout(ANSWER_SECONDS):
                self._channel.sendmsg([order], rights if descriptors else [])
                self._answer = self._loop.create_future()
                return await self._answer
        except OSError as error:  # TimeoutError is one of them
            raise MachineError(f"the fork server does not answer: {error}") from error

    def _hear(self) -> None:
        """Take all messages that are there."""
        try:
            while True:
                space = jail.SENDER_SPACE if self._is_jailed else 0
                message, rights, _, _ = self._channel.recvmsg(256, space)
                if not message:
                    break
                self._take(jail.sender(rights), *message.decode().split())
        except BlockingIOError:
            return
        except (ValueError, TypeError):  # the copy of a machine may have been taken over with it
            self._fail("it tells what it should not")
        except OSError as error:
            self._fail(str(error))
        else:
            self._fail("it has ended")

    def _take(self, teller: int, kind: str, number: str, status: str = "0") -> None:
        """An answer, or the death of a child, which is kept for whoever waits for it."""
        if kind == "D":
            is_known = int(number) in self._names
            self._note_end(self._names.pop(int(number), int(number)), int(status))
            if not is_known and self._answer and not self._answer.done():
                self._answer.set_exception(MachineError("the fork has ended at once"))
        elif kind == "F" and self._answer and not self._answer.done():
            pid = teller if self._is_jailed else int(number)
            self._names[int(number)] = pid
            self._answer.set_result(pid)
        elif kind == "E":
            self._fail(os.strerror(int(number)))
        elif self._answer and not self._answer.done():
            self._answer.set_result(int(number))

    def _note_end(self, pid: int, status: int) -> None:
        self._ended[pid] = os.waitstatus_to_exitcode(status)
        self._machines.discard(pid)
        self._tell_childless()
        self._broken |= self._ended[pid] in NOT_BECOME

    def _tell_childless(self) -> None:
        if self._machines:
            self._childless.clear()
        else:
            self._childless.set()

    def _fail(self, why: str) -> None:
        """Nothing more is to be expected of it."""
        self._broken = True
        self._hang_up()
        if self._answer and not self._answer.done():
            self._answer.set_exception(MachineError(f"the fork server cannot go on: {why}"))

    def _hang_up(self) -> None:
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel)
            self._channel.close()

    def _status_of(self, pid: int) -> int:
        """The exit status of a child that has just ended."""
        heard = select.poll()
        if self._channel.fileno() >= 0:
            heard.register(self._channel, select.POLLIN)
        while pid not in self._ended and self._channel.fileno() >= 0 and heard.poll(DEATH_MS):
            self._hear()
        return self._ended.pop(pid, jail.NOT_OURS)


class NotNow(MachineError):
    """The machine cannot be copied at this moment: a thread of it is on its way, or nobody is connected."""

    code = "machine.busy"


class TooLate(MachineError):
    """The machine has its new disk layer and still could not be copied."""

    code = "machine.not_copied"


async def copied(
    orders: Path, disk: Sequence[str], name: str, *, once: bool, hold: bool, user: int, means: Means | None
) -> tuple[Zygote, float]:
    """A copy of the machine that takes `orders` there and whose `disk` layers have these names, the last of
    which, new and empty, is put on top before it.

    It serves forks that go on from that moment, or is to be the only one. Also how long the machine stood
    still, in ms; one that is to `hold` stays so, also when TooLate tells that the copy was no good one.
    MachineError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            words = ("C", layers.node(disk[-2]), layers.node(disk[-1]), name, "hold" if hold else "")
            _, pause_us = await _ordered(orders, words, theirs.fileno())
        child = await _greeted(ours)
    except BaseException:
        ours.close()  # which ends the copy
        raise
    ended = None
    if means is not None:  # as long as it serves, nobody else may have its user
        holder = Path(f"/proc/{child.pid}")
        means.users.hold(user, holder)
        ended = functools.partial(means.users.let_go, user, holder)
        if not once:
            asyncio.get_running_loop().run_in_executor(None, means.groups.leave, child.pid)
    copy = Zygote(
        child, ours, disk=tuple(disk), once=once, user=user, is_jailed=means is not None, ended=ended
    )
    return copy, pause_us / 1000


async def _greeted(channel: socket.socket) -> jail.Child:
    """The copy, known by its first word. TooLate when it has ended instead: a thread of the machine was on
    its way when it was forked, which only its memory tells.
    """
    channel.setblocking(False)
    heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(channel, _wake, heard)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await heard
        words, rights, _, _ = channel.recvmsg(256, jail.SENDER_SPACE)
    except OSError as error:  # TimeoutError is one of them
        raise TooLate(f"the copy of the machine is not a good one: {error}") from error
    finally:
        asyncio.get_running_loop().remove_reader(channel)
    copy = jail.sender(rights)
    child = jail.adopt(copy, procfs.start_ticks(copy) or 0) if words.startswith(b"S") else None
    if child is None:
        raise TooLate("the copy of the machine has ended at once")
    return child


def _wake(heard: asyncio.Future[None]) -> None:
    if not heard.done():
        heard.set_result(None)


async def loaded(orders: Path, base: str, pages: Path, state: str) -> None:
    """Have a machine that is held go on from a snapshot, whose base it is a fork of: with these `pages`, and
    the devices of the file `state` in its home. MachineError.
    """
    with pages.open("rb") as file:
        await _ordered(orders, ("L", base, state), file.fileno())


async def halted(orders: Path) -> None:
    """Stop the processors of a machine; fine when they stand still. MachineError."""
    await _ordered(orders, ("P",))


async def running(orders: Path) -> None:
    """Let the processors of a machine run; fine when they do. MachineError."""
    await _ordered(orders, ("R",))


async def _ordered(orders: Path, words: Sequence[str], *descriptors: int) -> tuple[int, int]:
    """The two numbers that a machine answers to its order."""
    order = b"\0".join(os.fsencode(word) for word in (*words, ""))
    numbers = array.array("i", descriptors)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if descriptors else []
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            with unix.connect(orders) as connection:
                connection.sendmsg([order], rights)
                answer = (await asyncio.get_running_loop().sock_recv(connection, 256)).decode().split()
    except OSError as error:  # TimeoutError is one of them
        raise MachineError(f"the machine does not answer its order {words[0]}: {error}") from error
    if len(answer) != 3:
        reason = os.strerror(int(answer[1])) if len(answer) == 2 else "it has ended"
        if len(answer) == 2 and int(answer[1]) in (errno.EBUSY, errno.ENOTCONN):
            raise NotNow(f"the machine cannot be copied now: {reason}")
        if len(answer) == 2 and int(answer[1]) == errno.EAGAIN:
            raise TooLate(f"the machine cannot be copied any more: {reason}")
        raise MachineError(f"the machine cannot do its order {words[0]}: {reason}")
    return int(answer[1]), int(answer[2])


async def _carried_out(making: Coroutine[None, None, jail.Child]) -> jail.Child:
    """The machine that is being made; when nobody wants it any more it is made all the same, and ended."""
    task = asyncio.ensure_future(making)
    try:
        return await carried_through(task)
    except asyncio.CancelledError:
        if not task.cancelled() and task.exception() is None:
            await carried_through(_ended(task.result()))
        raise


async def _ended(child: jail.Child) -> None:
    await child.end(0)
    child.close()


async def ensure_library(cache: Cache) -> Path | None:
    """The library to preload: from the installed package, or compiled from the checkout. None when neither
    can be.
    """
    bundled = package_root() / BUNDLE / LIBRARY
    checkout = checkout_root()
    if checkout is None or bundled.is_file():
        return bundled if bundled.is_file() else None
    sources = checkout / "zygote"
    digest = f"{source_digest(sources)[:32]}{source_digest(checkout / 'jail')[:32]}"
    library = cache.root / "zygote" / digest / LIBRARY
    async with locked(cache.lock("zygote")):
        if not library.is_file():
            with new_directory(library.parent) as draft:
                await run_tool(["make", "-C", sources, f"OUT={draft}"], timeout=COMPILE_SECONDS)
    return library
