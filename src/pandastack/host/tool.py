"""Programs of the distribution, run to their end: no shell, a deadline, and never a process left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pandastack.errors import BuildFailed, NoSpace

GRACE_SECONDS = 10.0
"""How long a program may take to tidy up after SIGTERM before it is killed."""

LINE_LIMIT = 1 << 20
"""Longest line that is read as one; package lists come near 100 KiB."""


async def run_tool(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    inside: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run `argv` and return what it wrote to standard output.

    `inside` is a command that runs it, such as one that makes namespaces; `settings` are added to this
    process's own environment; `stdin` is what it reads, nothing by default; `on_line` sees each line of
    standard error as it comes. Raises BuildFailed
    with the last lines when the program fails, is missing or passes its deadline, NoSpace when it said that
    the disk is full. On every way out, cancellation included, the program and its children have ended.
    """
    variables = {"LC_ALL": "C.UTF-8", **(settings or {})}
    command = ["env", *(f"{name}={value}" for name, value in variables.items()), *inside, *map(str, argv)]
    with _given(stdin) as given:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=given, stdout=PIPE, stderr=PIPE, cwd=cwd, start_new_session=True, limit=LINE_LIMIT
        )
    last_lines: deque[str] = deque(maxlen=50)
    try:
        async with asyncio.timeout(timeout):
            output = await _drain(process, last_lines, on_line)
    except TimeoutError as error:
        raise BuildFailed(f"{argv[0]} did not finish within {timeout:.0f} seconds.") from error
    finally:
        await _end(process)
    if process.returncode != 0:
        raise failure(argv[0], process.returncode, [*last_lines, *output.splitlines()[-5:]])
    return output


@contextmanager
def _given(text: str | None) -> Iterator[int]:
    """A descriptor that a program can read `text` from."""
    if text is None:
        yield DEVNULL
        return
    file = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        os.write(file, text.encode())
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


async def _drain(process: Process, last_lines: deque[str], on_line: Callable[[str], None] | None) -> str:
    async with asyncio.TaskGroup() as group:
        output = group.create_task(_read_all(process))
        group.create_task(_read_lines(process, last_lines, on_line))
    await process.wait()
    return output.result()


async def _read_all(process: Process) -> str:
    assert process.stdout is not None  # noqa: S101  opened as a pipe above
    return (await process.stdout.read()).decode(errors="replace")


async def _read_lines(
    process: Process, last_lines: deque[str], on_line: Callable[[str], None] | None
) -> None:
    assert process.stderr is not None  # noqa: S101  opened as a pipe above
    async for raw in process.stderr:
        line = raw.decode(errors="replace").rstrip()
        last_lines.append(line)
        if on_line is not None:
            on_line(line)


async def _end(process: Process) -> None:
    """End the program's whole process group, kindly first; nothing to do when it has ended by itself."""
    if process.returncode is not None:
        return
    _signal_group(process.pid, signal.SIGTERM)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await process.wait()
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def failure(program: str | Path, code: int | None, lines: Sequence[str]) -> BuildFailed | NoSpace:
    """The error of ours for a program that has failed, by what it said."""
    said = "\n".join(line for line in lines if line)
    if "No space left on device" in said or "not enough free space" in said:
        return NoSpace(f"The disk is full: {program} could not write. Free some space and try again.")
    if code == 127:
        return BuildFailed(
            f"The program {program} is not installed. Run scripts/setup, or install its package."
        )
    return BuildFailed(f"{program} failed with exit code {code}:\n{said}")
