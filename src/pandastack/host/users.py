"""Users that machines run as: numbers out of a range, each leased to the machines of one family. The process
that knows names and secrets has one of them too.

A lease is a folder named by the number; who holds it has a file in there, which tells the path whose end is
the end of the hold. To make and to remove an empty folder are single steps, so any number of servers may
share the range, and one that was killed leaves nothing that is not found out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pandastack.errors import InvalidRequest, NoCapacity
from pandastack.host import smallfiles


class Users:
    """The users from `first` to `last`, leased in the folder `leases`."""

    def __init__(self, leases: Path, first: int, last: int) -> None:
        self._leases = leases
        self._first = first
        self._last = last

    def lease(self, holder: Path) -> int:
        """A user that nobody has, held by `holder`: a machine's home. NoCapacity when there is none."""
        count = self._last - self._first + 1
        start = int.from_bytes(_name(holder).encode()[:8]) % count
        self._leases.mkdir(parents=True, exist_ok=True, mode=0o700)
        for turn in range(2):
            for step in range(count):
                user = self._first + (start + step) % count
                with suppress(FileExistsError):
                    (self._leases / str(user)).mkdir()
                    self.hold(user, holder)
                    return user
            if turn == 0:
                self.sweep()
        raise NoCapacity(f"All {count} users for machines are taken; see {self._leases}.")

    @contextmanager
    def lent(self, holder: Path) -> Iterator[int]:
        """A user for the length of the block, that nobody else has. A `holder` whose earlier life was killed
        has the same one again, since what ran as it may still be about to end. NoCapacity.
        """
        held = sorted(int(entry.parent.name) for entry in self._leases.glob(f"*/{_name(holder)}"))
        known = [user for user in held if self._first <= user <= self._last]
        user = known[0] if known else self.lease(holder)
        try:
            yield user
        finally:
            self.let_go_all(holder)

    def hold(self, user: int, holder: Path) -> None:
        """One more that has this user."""
        folder = self._leases / str(user)
        folder.mkdir(exist_ok=True, mode=0o700)
        smallfiles.make(folder / _name(holder), os.fsencode(holder))

    def let_go(self, user: int, holder: Path) -> None:
        """It has it no more; fine when it never had. The last one gives the user back."""
        folder = self._leases / str(user)
        (folder / _name(holder)).unlink(missing_ok=True)
        with suppress(OSError):  # others have it too, or it is gone
            folder.rmdir()

    def let_go_all(self, holder: Path) -> None:
        """It has none any more."""
        for entry in self._leases.glob(f"*/{_name(holder)}"):
            self.let_go(int(entry.parent.name), holder)

    def sweep(self) -> None:
        """Give back what was held by something that has ended."""
        for entry in self._leases.glob("*/*"):
            with suppress(OSError, ValueError):
                holder = Path(entry.read_text())
                if not holder.exists():
                    self.let_go(int(entry.parent.name), holder)


def users_in(leases: Path, words: str) -> Users:
    """Those of a range, `FIRST-LAST`. InvalidRequest for what is none, and for users that a system has."""
    first, _, last = words.partition("-")
    if not (first.strip().isdigit() and last.strip().isdigit() and 1000 <= int(first) <= int(last)):
        raise InvalidRequest(f"jail_users is a range like 200000-265535, from 1000 on; got {words!r}.")
    return Users(leases, int(first), int(last))


def _name(holder: Path) -> str:
    return hashlib.sha256(str(holder).encode()).hexdigest()[:32]
