"""The pytest plugin: the real guest agent, the process driver, and a check that a test leaves nothing behind.

Loaded by pytest in every environment where this package is installed, so it imports little and changes
nothing until one of its fixtures is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pandastack.host import procfs
from pandastack.host.network import claims
from pandastack.host.paths import Cache

if TYPE_CHECKING:
    from pandastack.testing.process_driver import ProcessDriver

CACHE = Cache(Path("~/.cache/pandastack").expanduser())
"""The user's own: what tests build is what the program builds."""

_HELD = ("socket:", "pipe:", "anon_inode:[pidfd]")


async def eventually(condition: Callable[[], bool], *, deadline: float = 10.0) -> None:
    """Return once `condition` holds, looked at every 10 ms; TimeoutError after `deadline` seconds."""
    async with asyncio.timeout(deadline):
        while not condition():  # noqa: ASYNC110 - what is waited for happens outside of this program
            await asyncio.sleep(0.01)


def descriptors() -> dict[int, str]:
    """The open descriptors of this process and what they are."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[int(link.name)] = str(link.readlink())
        except FileNotFoundError:
            continue  # the one that listed the directory
    return found


def processes_with(word: str) -> set[int]:
    """Every process of this machine, but this one, that has `word` in its arguments."""
    needle = word.encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and needle in _arguments(int(entry.name)):
            found.add(int(entry.name))
    return found - {os.getpid()}


def processes_below(folder: Path) -> set[int]:
    """Every process of this machine that tells its words into a file in there: a machine in a jail has no
    name of that folder, and is nobody's child here.
    """
    files = {_which(path) for path in folder.rglob("*.log")} - {None}
    found = {int(link.parts[2]) for link in Path("/proc").glob("[0-9]*/fd/1") if _which(link) in files}
    return found - {os.getpid()}


class LeakCheck:
    """What a test must not leave: its processes, its descriptors, and files where there should be none."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        """A word of this run of this test alone; a command that has it in its arguments is found wherever it
        fled to."""
        self._children = procfs.children(os.getpid())
        self._descriptors = descriptors()
        self._empty: list[Path] = []

    def expect_empty(self, directory: Path) -> None:
        """At the end of the test this directory must be empty or gone."""
        self._empty.append(directory)

    def processes(self) -> set[int]:
        """New descendants of this process, zombies too, and every process that has the tag or writes below
        the folder of that name.
        """
        elsewhere = processes_with(self.tag) | processes_below(Path(self.tag))
        return procfs.children(os.getpid()) - self._children | elsewhere

    def leaks(self) -> list[str]:
        """What is there now and was not at the start."""
        opened = descriptors().items() - self._descriptors.items()
        return [
            *(f"process {pid}: {_arguments(pid).decode(errors='replace')}" for pid in self.processes()),
            *(f"descriptor {n}: {what}" for n, what in opened if what.startswith(_HELD) or self.tag in what),
            *(f"file {path}" for folder in self._empty if folder.exists() for path in folder.iterdir()),
            *(f"network {path.name}" for path in _claims() if self.tag in _text(path)),
        ]


@pytest.fixture
def leak_check(tmp_path: Path) -> Iterator[LeakCheck]:
    """Fail the test if it leaves processes, sockets, pipes or files.

    Ask for it before any fixture that holds some.
    """
    import uvloop  # noqa: PLC0415 - the plugin imports little

    uvloop.new_event_loop().close()  # the first one opens a pipe for as long as the process lives
    check = LeakCheck(str(tmp_path))
    yield check
    left = check.leaks()
    for pid in check.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # the next test must not find them
    if left:
        pytest.fail("the test has left:\n" + "\n".join(left))


@pytest.fixture(scope="session")
def agent_binary() -> Path:
    """The guest agent: the wheel's, or compiled from the checkout's sources when they have changed."""
    from pandastack.host.agent import ensure_agent  # noqa: PLC0415 - the plugin imports little

    return asyncio.run(ensure_agent(CACHE))


@pytest.fixture
def process_driver(agent_binary: Path) -> ProcessDriver:
    """A driver without virtual machines."""
    from pandastack.testing.process_driver import ProcessDriver  # noqa: PLC0415 - the plugin imports little

    return ProcessDriver(agent_binary, insecure_no_isolation=True)


def _claims() -> list[Path]:
    return sorted(claims.FOLDER.glob("[0-9]*"))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""  # that of a network of somebody else's, which has gone meanwhile


def _which(path: Path) -> tuple[int, int] | None:
    """Tells a file from all others; None when it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip()
    except (FileNotFoundError, ProcessLookupError):
        return b""
