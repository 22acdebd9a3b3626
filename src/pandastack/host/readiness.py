"""A machine that is being baked, brought to "ready": its start command runs, its ready command has
succeeded, its warm commands have ended.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress

from pandastack.errors import BootFailed, NotFound
from pandastack.host.guest import GuestLink
from pandastack.host.manifest import Recipe
from pandastack.model.guest import Command, ProcessInfo
from pandastack.model.image import Ready

Report = Callable[[str], None]
"""Takes one line about what is being done."""

START = "start"
"""The start command among the processes of the guest."""

WARM_SECONDS = 300.0
STEADY_SECONDS = 1.0
"""A start command that nobody says is ready has not failed for so long."""
LAST_BYTES = 2000
"""So much of what a failed command said is told."""

_RETRY_SECONDS = 0.25


async def make_ready(link: GuestLink, recipe: Recipe, report: Report) -> None:
    """Run all that a template says comes before its snapshot. BootFailed, with the last words of what
    failed.
    """
    manifest = recipe.manifest
    if manifest.start:
        report(f"starting {recipe.name}")
        await _start(link, manifest.start, manifest.user)
    if manifest.ready:
        report(f"waiting until {recipe.name} is ready")
        await _until_ready(link, manifest.ready, started=manifest.start is not None)
    elif manifest.start:
        await asyncio.sleep(STEADY_SECONDS)
        await _check_started(link)
    for index, line in enumerate((*manifest.warm, "true"), start=1):
        report(f"warming {recipe.name} ({index})")
        await _must_run(link, line, f"warm-{index}")
    await run_to_end(link, "sync", "sync")  # an image may lack it; what is not on the disk is in the memory


async def _must_run(link: GuestLink, line: str, name: str) -> None:
    """Run a shell line to its end. BootFailed when it fails."""
    code, words = await run_to_end(link, line, name)
    if code != 0:
        raise BootFailed(f"The warm command ended with {code}: {line}\n{words[-LAST_BYTES:]}")


async def run_to_end(link: GuestLink, line: str, name: str) -> tuple[int, str]:
    """Exit code and all output of a shell line, run as root."""
    words: list[bytes] = []
    timeout_ms = int(WARM_SECONDS * 1000)
    command = Command(process_id=name, shell=line, user="root", timeout_ms=timeout_ms)
    async with link.run(command) as process:
        async for piece in process.output():
            words.append(piece.data)
        ended = await process.wait()
    return ended.exit_code, b"".join(words).decode(errors="replace")


async def _start(link: GuestLink, line: str, user: str | None) -> None:
    async with link.run(Command(process_id=START, shell=line, user=user, detached=True)) as process:
        await process.detach()


async def _until_ready(link: GuestLink, ready: Ready, *, started: bool) -> None:
    words = ""
    try:
        async with asyncio.timeout(ready.timeout_seconds):
            for number in itertools.count():
                code, words = await run_to_end(link, ready.command, f"ready-{number}")
                if code == 0:
                    return
                if started:
                    await _check_started(link)
                await asyncio.sleep(_RETRY_SECONDS)
    except TimeoutError as error:
        last = await _last_words(link) if started else ""
        raise BootFailed(
            f"The ready command did not succeed within {ready.timeout_seconds:g} s: {ready.command}"
            + _told("It said last", words)
            + _told("The start command said last", last)
        ) from error


async def _check_started(link: GuestLink) -> None:
    """BootFailed when the start command has failed; one that has ended well is fine: it may have left a
    daemon.
    """
    with suppress(NotFound):
        info: ProcessInfo = await link.process(START)
        if not info.running and info.exit_code != 0:
            said = _told("It said last", await _last_words(link))
            raise BootFailed(f"The start command ended with {info.exit_code}: {info.command}{said}")


async def _last_words(link: GuestLink) -> str:
    """What the start command has said last, as far as it is kept."""
    words = b""
    with suppress(NotFound, TimeoutError):
        async with asyncio.timeout(STEADY_SECONDS), link.attach(START) as process:
            async for piece in process.output():
                words = (words + piece.data)[-LAST_BYTES:]
    return words.decode(errors="replace")


def _told(what: str, words: str) -> str:
    words = words.strip()
    return f"\n{what}:\n{words[-LAST_BYTES:]}" if words else ""
