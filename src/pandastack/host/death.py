"""Why a machine died, in a sentence: from its exit status and its last words."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from pandastack.errors import BootFailed
from pandastack.host.driver import Machine
from pandastack.host.guest import Entry, GuestLink
from pandastack.host.jail import NOT_OURS

FOUND_ENDED = "its process had ended when the server started"
DYING_SECONDS = 0.5
"""How long a machine that does not listen may take to have ended."""
_LAST_LINES = 12
_CHATTER = (": info: ", "Expected vmdescription section, but got 0")
"""What QEMU tells of its normal course; a restore ends with a word on a section that snapshots do not have.
"""


async def answered(machine: Machine, link: GuestLink, seconds: float) -> Entry:
    """The agent's answer to what was announced, or BootFailed with the last lines if the machine ends
    first.
    """
    entered = asyncio.ensure_future(link.entered(deadline=seconds))
    ended = asyncio.ensure_future(machine.wait())
    try:
        await asyncio.wait((entered, ended), return_when=asyncio.FIRST_COMPLETED)
        if entered.done() and entered.exception() is None:
            return entered.result()
        if await ends_soon(ended):
            raise _boot_failed(cause_of_death(ended.result(), machine.last_words()), machine)
        raise _boot_failed(f"{entered.exception()}.", machine)
    finally:
        for task in (entered, ended):
            task.cancel()
        await asyncio.gather(entered, ended, return_exceptions=True)


async def end_silent(machine: Machine) -> str:
    """End a machine that does not greet; says how it has gone. A dying one stops listening before it ends."""
    try:
        await asyncio.wait_for(machine.wait(), DYING_SECONDS)
    except TimeoutError:
        return "its agent did not answer after a restart of the server"
    else:
        return FOUND_ENDED
    finally:
        await machine.stop(0)


async def ends_soon(ended: asyncio.Future[int]) -> bool:
    """Whether the machine is about to be gone: a dying one closes its socket shortly before it ends."""
    await asyncio.wait((ended,), timeout=0.5)
    return ended.done()


def _boot_failed(cause: str, machine: Machine) -> BootFailed:
    console = machine.last_words()
    return BootFailed(f"The machine did not come up. {cause}", console=console[-4000:])


def cause_of_death(status: int, last_words: str) -> str:
    """One sentence. `status` is negative for a signal; the last words tell a guest's panic from its
    power-off.
    """
    if "Kernel panic" in last_words:
        return f"The guest's kernel panicked: {_line_with('Kernel panic', last_words)}"
    if status < 0 and status != NOT_OURS:
        return f"The virtual machine's process was killed by signal {-status} ({_signal_name(-status)})."
    if status == 0:
        return "The guest powered itself off."
    lines = [line for line in last_words.splitlines() if not any(words in line for words in _CHATTER)]
    last = "; ".join(lines[-_LAST_LINES:])
    ended = "ended; an earlier server had started it, so its exit status is not known"
    if status != NOT_OURS:
        ended = f"ended with status {status}"
    return f"The virtual machine's process {ended}. Its last lines: {last or 'none'}"


def tail(path: Path, limit: int) -> bytes:
    """The last `limit` bytes of a file; nothing when it does not exist."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return os.pread(file.fileno(), limit, max(0, size - limit))
    except OSError:
        return b""


def shorten(path: Path, limit: int, kept: int) -> None:
    """Cut a log that others append to down to its last `kept` bytes once it is longer than `limit`.

    On a full disk less of it is kept.
    """
    try:
        if path.stat().st_size > limit:
            last = tail(path, kept)
            with path.open("r+b") as file:
                file.truncate(0)
                file.write(last)
    except OSError:
        return


def _line_with(text: str, words: str) -> str:
    return next(line for line in reversed(words.splitlines()) if text in line)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def piece(log: Path, offset: int, *, most: int = 65536) -> tuple[int, bytes]:
    """The bytes of a log from `offset` on (negative: so many before its end), and the offset behind them."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            start = max(0, end + offset) if offset < 0 else min(offset, end)
            file.seek(start)
            data = file.read(most)
    except FileNotFoundError:
        return 0, b""
    return start + len(data), data
