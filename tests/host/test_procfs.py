"""What /proc tells, of processes that come and go."""

from __future__ import annotations

import os
import subprocess
import time

from pandastack.host import procfs
from pandastack.testing.fixtures import LeakCheck

LOOK_SECONDS = 1.0


def test_descendants_that_end_while_they_are_looked_for(leak_check: LeakCheck) -> None:
    busy = subprocess.Popen(
        ["sh", "-c", "while :; do sh -c 'true & true & wait'; done"], start_new_session=True
    )
    try:
        until, most = time.monotonic() + LOOK_SECONDS, 0
        while time.monotonic() < until:
            found = procfs.children(os.getpid())
            assert busy.pid in found
            most = max(most, len(found))
        assert most > 1
    finally:
        os.killpg(busy.pid, 9)
        busy.wait()
