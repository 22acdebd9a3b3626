"""What every driver keeps its machines apart with: the users that they run as, and their control groups."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from pandastack.host.disks import Disk
from pandastack.host.groups import Groups, find_groups, number_of
from pandastack.host.users import Users, users_in


class Means(Struct, frozen=True):
    """Those of one server. Who has which user is told by a folder that all servers of a machine share."""

    users: Users
    groups: Groups

    async def end(self, home: Path) -> None:
        """Give back what the machine of this home had, which nobody has noted and whose process has ended."""
        self.users.let_go_all(home)
        await self.groups.end(number_of(home))

    def sweep(self) -> None:
        """Give back what machines had that are gone."""
        self.users.sweep()
        self.groups.sweep()


def find_means(leases: Path, users: str, name: str, disk: Disk | None) -> Means:
    """Those of the server called `name`, which is root, and whose state is on this disk: `users` is a range,
    whose `leases` are noted there.
    What is left of machines that are gone is given back. InvalidRequest for what is no range.
    """
    means = Means(users_in(leases, users), find_groups(name, disk))
    means.sweep()
    return means
