"""The host's end of the maker: starts it, gives it orders, does without it."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec
import structlog

from pandastack.carrying import carried_through
from pandastack.errors import BuildFailed, MachineError, PandastackError
from pandastack.host import jail
from pandastack.host.network import namespace
from pandastack.host.network.ability import PLACES
from pandastack.host.network.maker.library import NAME
from pandastack.host.network.maker.orders import ANSWER_LIMIT, Answer, Order
from pandastack.host.tool import failure, run_tool

SECONDS = 10.0
"""For one order, as long as `nft` itself may take."""
END_SECONDS = 5.0
STARTS = 3
"""The process is started so often in a life of the host; one that ends again and again is of no use."""

ENDED = "The maker of networks has ended."
SILENT = "The maker of networks did not answer in time."

log = structlog.get_logger("host")
T = TypeVar("T")


class Maker:
    """Makes networks and has the kernel keep rules, for as long as the block lasts.

    By its process; by this one and the program `nft` where there is no library of that, and when the process
    has ended too often. Both make one transaction of a text.
    """

    def __init__(self, log_file: Path, *, library: str = NAME, seconds: float = SECONDS) -> None:
        self._log_file = log_file
        self._library = library
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._starts = STARTS
        self._child: jail.Child | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._is_ready = False

    async def __aenter__(self) -> Self:
        """Start the process, and do not wait for it."""
        await self._started()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It ends by itself when nobody speaks to it any more, and is killed when it does not."""
        self._starts = 0
        await carried_through(self._ended(END_SECONDS))

    @property
    def pid(self) -> int:
        """Of the process; 0 when there is none."""
        return self._child.pid if self._child else 0

    async def obey(self, order: Order) -> None:
        """As it says. BuildFailed with the words of `nft`, and when the maker ended or was silent in the
        middle: then nobody knows how far it came. MachineError when the kernel refuses something else.
        """
        async with self._turn:
            answer = await carried_through(self._asked(order))
        if answer is None:
            await self._obeyed_here(order)
        elif answer.refused is not None:
            raise failure("nft", 1, answer.refused.splitlines())
        elif answer.error is not None:
            raise MachineError(answer.error)

    async def _asked(self, order: Order) -> Answer | None:
        """What the process says; None when there is none."""
        if not await self._ready():
            return None
        try:
            return await self._within_time(self._exchanged(order))
        except BuildFailed as error:
            await self._lost(error.message)
            raise

    async def _ready(self) -> bool:
        """Whether there is a process that takes orders; a new one when the last has ended."""
        if self._child is not None and not self._child.alive():
            await self._lost(ENDED)
        while not self._is_ready:
            if self._streams is None and not await self._started():
                return False
            try:
                answer = await self._within_time(self._heard())
            except BuildFailed as error:
                await self._lost(error.message)
            else:
                if answer.error is not None:
                    log.warning("network.no_maker", reason=answer.error)
                    self._starts = 0
                    await self._ended(END_SECONDS)
                self._is_ready = answer.error is None
        return True

    async def _started(self) -> bool:
        if self._starts == 0:
            return False
        self._starts -= 1
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._child = _process(theirs, self._log_file, self._library)
            except PandastackError as error:
                ours.close()
                log.warning("network.no_maker", reason=error.message)
                return False
        self._streams = await asyncio.open_unix_connection(sock=ours, limit=ANSWER_LIMIT)
        return True

    async def _lost(self, why: str) -> None:
        """It is of no use any more; the next one is started by the next order, if there is to be one."""
        log.warning("network.maker_lost", reason=why, starts_left=self._starts)
        await self._ended(0)

    async def _ended(self, grace: float) -> None:
        """Nothing is left of it."""
        streams, self._streams = self._streams, None
        child, self._child = self._child, None
        self._is_ready = False
        if streams is not None:
            streams[1].close()
        if child is None:
            return
        try:
            await asyncio.wait_for(child.wait(), grace)
        except TimeoutError:
            await child.end(0)
        child.close()

    async def _exchanged(self, order: Order) -> Answer:
        if self._streams is None:
            raise BuildFailed(ENDED)
        self._streams[1].write(msgspec.json.encode(order) + b"\n")
        return await self._heard()

    async def _heard(self) -> Answer:
        if self._streams is None:
            raise BuildFailed(ENDED)
        try:
            return msgspec.json.decode(await self._streams[0].readline(), type=Answer)
        except (OSError, ValueError) as error:  # half a line, or none
            raise BuildFailed(ENDED) from error

    async def _within_time(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._seconds):
                return await work
        except TimeoutError as error:
            raise BuildFailed(SILENT) from error

    async def _obeyed_here(self, order: Order) -> None:
        within = ("nsenter", f"--net={namespace.path_of(order.space)}")
        if order.ways is not None:
            order.ways.lay(order.space)
        await run_tool(
            ["nft", "-f", "-"], timeout=self._seconds, inside=within, settings=PLACES, stdin=order.text
        )
        if order.forget:
            with namespace.inside(order.space):
                namespace.forget_connections().close()
        if order.ways is not None:
            order.ways.open()


def _process(control: socket.socket, log_file: Path, library: str) -> jail.Child:
    """The program, with the same code as this one, its end of the socket and nothing else. MachineError."""
    program = [sys.executable, "-m", "pandastack.host.network.maker"]
    try:
        return jail.spawn(
            [*program, "--control", str(control.fileno()), "--library", library],
            log=log_file,
            cwd=Path("/"),
            env={
                "PYTHONPATH": str(Path(__file__).parents[4]),
                "PYTHONDONTWRITEBYTECODE": "1",
                "LC_ALL": "C.UTF-8",
            },
            pass_fds=[control.fileno()],
        )
    except OSError as error:
        raise MachineError(f"its log {log_file} cannot be written: {error.strerror}") from error
