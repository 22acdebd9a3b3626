"""Wheels of the Python registry, exactly as a file of requirements says: pinned, each with its SHA-256.

The owner's own pip fetches and checks them, with its settings; in the guest's root they are installed without
a network, and nothing but them is.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pandastack.errors import BuildFailed, InvalidRequest
from pandastack.host.packages import DOWNLOAD_SECONDS, Progress
from pandastack.host.publish import full_disk_said
from pandastack.host.tool import run_tool

FOR_GUESTS = ("--platform=manylinux_2_28_x86_64", "--platform=manylinux2014_x86_64", "--python-version=3.11")
"""Debian 12's Python and C library."""

_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.+!]+)((?:\s+--hash=sha256:[0-9a-f]{64})+)")


def listed(requirements: Path) -> list[str]:
    """`pypi:name version` of each; InvalidRequest for a line that does not pin one by its content."""
    text = requirements.read_text("utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = [(_PINNED.fullmatch(line), line) for line in lines]
    for pinned, line in found:
        if pinned is None:
            raise InvalidRequest(f"{requirements}: {line!r} is not NAME==VERSION --hash=sha256:….")
    return sorted(f"pypi:{pinned[1]} {pinned[2]}" for pinned, _ in found if pinned)


async def fetch(requirements: Path, folder: Path, progress: Progress) -> Path:
    """Have the wheels in a new `folder`. Raises BuildFailed when one cannot be had, or is another one than
    the file says; NoSpace.
    """
    progress(f"fetching {len(listed(requirements))} wheels", None)
    with full_disk_said():
        folder.mkdir()
    flags = ("--quiet", "--require-hashes", "--no-deps", "--only-binary=:all:", *FOR_GUESTS)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "download",
        *flags,
        "--dest",
        folder,
        "--requirement",
        requirements,
    ]
    try:
        await run_tool(command, timeout=DOWNLOAD_SECONDS)
    except BuildFailed as error:
        raise BuildFailed(
            "The wheels could not be fetched; look at the network and at pip's settings, and whether this "
            f"Python has pip (`python3 -m ensurepip`), then try again.\n{error}"
        ) from error
    return folder
