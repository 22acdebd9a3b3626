"""A file that a client has open: read and written as streams, which begin anew where somebody jumps."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncssh

from pandastack.model.guest import Channel, FileKind, Guest, Output, Process
from pandastack.sshd.orders import OPEN, READY, Orders, complaint

READ_MOST = 4 << 20
SAID_MOST = 4096


class Handle:
    """One open file. Whoever has it uses it from one task."""

    def __init__(self, guest: Guest, orders: Orders, path: str, user: str | None) -> None:
        self.path = path
        self._guest = guest
        self._orders = orders
        self._user = user
        self._stack = AsyncExitStack()
        self._appends = False
        self._at: int | None = None
        """Where the stream that is open stands; None when none is."""
        self._pieces: AsyncIterator[bytes] | None = None
        self._rest = b""
        self._process: Process | None = None
        self._output: AsyncIterator[Output] | None = None

    def seek(self, offset: int, whence: int) -> int:
        """Which parts hold data: all of it may, as far as we know."""
        return offset if whence == os.SEEK_DATA else 1 << 62

    async def open(self, flags: int, mode: int | None) -> None:
        """Open it as a client's flags say. Errors: SFTPError, and those of the guest."""
        if not flags & asyncssh.FXF_WRITE:
            entry = await self._guest.stat(self.path, user=self._user)
            if entry.kind is FileKind.DIRECTORY:
                raise asyncssh.SFTPFailure("It is a directory.")
            await self._read_from(0)
            return
        letters = {
            asyncssh.FXF_CREAT: "c",
            asyncssh.FXF_EXCL: "x",
            asyncssh.FXF_TRUNC: "t",
            asyncssh.FXF_APPEND: "a",
        }
        self._appends = bool(flags & asyncssh.FXF_APPEND)
        how = "".join(letter for flag, letter in letters.items() if flags & flag)
        mode = 0o666 if mode is None else mode & 0o777
        await self._write_from(0, how, mode & ~0o022)

    async def read(self, offset: int, size: int) -> bytes:
        """As many bytes of it, fewer at its end."""
        size = min(size, READ_MOST)
        if self._process is not None or self._pieces is None or offset != self._at:
            await self._read_from(offset)
        assert self._pieces is not None  # noqa: S101  # opened above
        parts, missing = [], size
        while missing:
            if not self._rest:
                self._rest = await anext(self._pieces, b"")
                if not self._rest:
                    break
            part, self._rest = self._rest[:missing], self._rest[missing:]
            parts.append(part)
            missing -= len(part)
        data = b"".join(parts)
        self._at = offset + len(data)
        if missing:  # at its end: what is written behind it later is seen by the next reader
            self._pieces = None
        return data

    async def write(self, offset: int, data: bytes) -> None:
        """Write as fast as the guest takes it; what fails is told at the latest by `flush`."""
        if self._process is None or (offset != self._at and not self._appends):
            await self._write_from(0 if self._appends else offset, "a" if self._appends else "")
        assert self._process is not None  # noqa: S101  # opened above
        await self._process.write(data)
        self._at = offset + len(data)

    async def flush(self) -> None:
        """Have the guest hold all that was written. Errors: SFTPError."""
        process, output = self._process, self._output
        if process is None or output is None:
            return
        self._process = self._output = self._at = None
        await process.close_stdin()
        said = b""
        async for piece in output:
            said = (said + piece.data)[:SAID_MOST]
        ended = await process.wait()
        await self._stack.aclose()
        if ended.exit_code:
            raise complaint(said, ended.exit_code)

    async def close(self) -> None:
        """Hold all that was written, and let go. Errors: SFTPError."""
        try:
            await self.flush()
        finally:
            await self.drop()

    async def drop(self) -> None:
        """Let go of it as it is. Twice is fine."""
        self._process = self._output = self._pieces = self._at = None
        self._rest = b""
        await self._stack.aclose()

    async def _read_from(self, offset: int) -> None:
        await self.flush()
        await self.drop()
        reading = self._guest.read(self.path, user=self._user, offset=offset)
        self._pieces = aiter(await self._stack.enter_async_context(reading))
        self._at = offset

    async def _write_from(self, offset: int, how: str, mode: int = 0o644) -> None:
        await self.flush()
        await self.drop()
        words = (self.path, f"{mode:04o}", how, str(offset))
        begun = self._orders.begun(OPEN, *words, stdin=True, bounded=False)
        process = await self._stack.enter_async_context(begun)
        output = process.output()
        said = b""
        while not said.startswith(READY):
            piece = await anext(output, None)
            if piece is None:
                ended = await process.wait()
                await self._stack.aclose()
                raise complaint(said, ended.exit_code or 1)
            if piece.channel is Channel.STDERR:
                said += piece.data
        self._process, self._output, self._at = process, output, offset
