"""How long a guest stands still, as a process in it sees it.

It reads its clock every millisecond and keeps the longest time between two readings. That holds whatever else
keeps it from running too: so it is told beside that of moments in which nothing was asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.api import Api, answer_of

MARK, LOG = "/dev/shm/mark", "/dev/shm/longest"  # noqa: S108  # in the sandbox
REST = "rest"
"""No moment that counts: the clock is read seldom then."""

PROGRAM = f"""
import os, time
moment, seen, longest, last = "{REST}", 0, 0, time.monotonic_ns()
with open("{LOG}", "w", buffering=1) as log:
    print("{REST}", 0, file=log)
    while True:
        time.sleep(0.02 if moment == "{REST}" else 0.001)
        now = time.monotonic_ns()
        longest, last = max(longest, now - last), now
        changed = os.stat("{MARK}").st_mtime_ns
        if changed != seen:
            print(moment, longest, file=log)
            seen, longest = changed, 0
            moment = open("{MARK}").read()
            last = time.monotonic_ns()
"""

SETTLE_SECONDS = 0.1
"""How long the process may take to see that a moment has begun."""
START_SECONDS = 60.0


class Watch:
    """The process in one sandbox; it is there once `begin` has returned."""

    def __init__(self, api: Api, sandbox_id: str) -> None:
        self._api = api
        self._sandbox_id = sandbox_id
        self._url = f"/v1/sandboxes/{sandbox_id}/fs"

    @contextmanager
    def moment(self, name: str) -> Iterator[None]:
        """What happens in the block counts under this name."""
        self._mark(name)
        try:
            yield
        finally:
            self._mark(REST)

    def longest(self, name: str) -> list[float]:
        """Of each moment of this name that has ended, in milliseconds."""
        words = [line.split() for line in self._log().splitlines()]
        return [int(longest) / 1e6 for moment, longest in words if moment == name]

    def begin(self) -> None:
        """Start the process, which ends with its sandbox; it reads its clock from now on. TimeoutError."""
        deadline = time.monotonic() + START_SECONDS
        self._mark(REST)
        self._api.order(self._sandbox_id, "exec", cmd=["python3", "-c", PROGRAM], background=True)
        while not self._log():
            if time.monotonic() > deadline:
                raise TimeoutError("The guest's clock is not read.")
            time.sleep(SETTLE_SECONDS)

    def _mark(self, name: str) -> None:
        kind = {"Content-Type": "application/octet-stream"}
        answer_of(self._api.client.put(self._url, params={"path": MARK}, content=name, headers=kind))
        time.sleep(SETTLE_SECONDS)

    def _log(self) -> str:
        response = self._api.client.get(self._url, params={"path": LOG})
        return response.text if response.is_success else ""
