"""Puts machines into jails: a user of its own for each, a home that is all it can write, a root that holds
what it needs.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from pandastack.host import mounts
from pandastack.host.agent import BUNDLE, COMPILE_SECONDS, checkout_root, package_root, source_digest
from pandastack.host.cell import Bind, Cell
from pandastack.host.disks import Disk
from pandastack.host.means import Means, find_means
from pandastack.host.paths import Cache
from pandastack.host.publish import locked, new_directory
from pandastack.host.tool import run_tool
from pandastack.host.users import Users

PROGRAM = "pandastack-jail"
NOT_ROOT = "not root"
"""Why nothing is in a jail of its own."""
SERVER_CAPABILITIES = 1 << 6 | 1 << 7 | 1 << 8 | 1 << 21
"""To change group, user and bounding set, and to make namespaces: what a machine that is forked gives up
first."""
_LIBRARIES = Path(f"/usr/lib/{platform.machine()}-linux-gnu")
_LOADERS = Path("/lib64")


class Lodging(Struct, frozen=True):
    """A home that is about to have a machine."""

    home: int
    """Its descriptor; with a jail that of a mount that is attached nowhere."""
    user: int
    """Who may write its files; 0 without a jail, and of a fork server."""


class Jailer:
    """Makes the jails of this host's QEMUs. `program` is the one that enters them."""

    def __init__(self, program: Path, means: Means) -> None:
        self.means = means
        self._program = program

    def cell(
        self,
        lodging: Lodging,
        binds: Sequence[Bind],
        *,
        groups: Sequence[Path] = (),
        is_server: bool = False,
        signals: bool = False,
    ) -> Cell:
        """The jail of a process in this lodging; it has the system's libraries and what is named."""
        return Cell(
            program=self._program,
            user=lodging.user,
            home=lodging.home,
            binds=(*_system(), *_once(binds)),
            links=_LINKS,
            groups=tuple(groups),
            capabilities=SERVER_CAPABILITIES if is_server else 0,
            is_server=is_server,
            signals=signals,
        )


@contextmanager
def lodging(
    jailer: Jailer | None, home: Path, files: Iterable[str], *, user: int | None = None
) -> Iterator[Lodging]:
    """The home for the length of the block, with those `files` in it the machine's to write. It gets a user
    of its own, or is one more that has `user`; 0 is a fork server's. When the block fails it has none.
    """
    with ExitStack() as stack, mounts.opened(home) as folder:
        if jailer is None:
            yield Lodging(folder, 0)
            return
        own = 0 if user == 0 else _user(jailer.means.users, home, user, stack)
        mounts.give(folder, files, own)
        with mounts.detached(folder) as tree:
            yield Lodging(tree, own)
        stack.pop_all()


def _user(users: Users, home: Path, user: int | None, stack: ExitStack) -> int:
    own = users.lease(home) if user is None else user
    if user is not None:
        users.hold(own, home)
    stack.callback(users.let_go, own, home)
    return own


_LINKS: Mapping[str, str] = {"lib": "usr/lib"}


def _system() -> tuple[Bind, ...]:
    wanted = ((_LIBRARIES, "x"), (_LOADERS, "x"), (Path("/etc/ld.so.cache"), ""), (Path("/dev/null"), "d"))
    return tuple(Bind(path, how) for path, how in wanted if path.exists())


def _once(binds: Sequence[Bind]) -> tuple[Bind, ...]:
    """Each path once, and readable for whoever is in the jail: it is there by the jail's leave alone."""
    found = {bind.path: bind for bind in binds}
    for path in found:
        mode = path.stat().st_mode
        if not mode & 0o004:
            path.chmod(mode & 0o7777 | 0o004)
    return tuple(found.values())


async def ensure_program(cache: Cache) -> Path | None:
    """The jail's program: from the installed package, or compiled from the checkout. None when neither can
    be.
    """
    bundled = package_root() / BUNDLE / PROGRAM
    checkout = checkout_root()
    if checkout is None or bundled.is_file():
        return bundled if bundled.is_file() else None
    sources = checkout / "jail"
    program = cache.root / "jail" / source_digest(sources) / PROGRAM
    async with locked(cache.lock("jail")):
        if not program.is_file():
            with new_directory(program.parent) as draft:
                await run_tool(["make", "-C", sources, f"OUT={draft}"], timeout=COMPILE_SECONDS)
    return program


async def find_jailer(cache: Cache, leases: Path, users: str, name: str, disk: Disk | None) -> Jailer | None:
    """None where machines cannot be jailed, since this program is not root. `name` tells this server's groups
    from those of others; `disk` is where its state is.
    """
    if os.geteuid() != 0:
        return None
    program = await ensure_program(cache)
    if program is None:
        return None
    return Jailer(program, find_means(leases, users, name, disk))
