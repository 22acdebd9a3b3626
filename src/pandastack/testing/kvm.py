"""Whether tests can run Linux on hardware virtualization here: `python -m pandastack.testing.kvm`.

Ends with 0 when they can, else with UNUSABLE and one line that says why not.
"""

from __future__ import annotations

import asyncio
import os
import sys

from pandastack.errors import PandastackError
from pandastack.host.doctor import find_any_qemu
from pandastack.host.probe import probe_kvm
from pandastack.testing.fixtures import CACHE

UNUSABLE = 4
"""An exit code that pytest does not have."""


async def verdict() -> str | None:
    """Why Linux cannot run on KVM here; None when it can."""
    if os.geteuid() != 0:
        return "the jailer needs root, and this is not root"
    qemu = await find_any_qemu(CACHE)
    if qemu is None:
        return "there is no QEMU to try it with: run scripts/setup"
    found = await probe_kvm(qemu, CACHE, os.environ, again=True)
    return None if found.usable else found.reason


def main() -> int:
    """Ask, and tell."""
    try:
        reason = asyncio.run(verdict())
    except PandastackError as error:
        reason = error.message
    if reason is None:
        return 0
    sys.stderr.write(f"KVM is not usable for Linux guests here, nothing was tested: {reason}\n")
    return UNUSABLE


if __name__ == "__main__":
    sys.exit(main())
