"""The jail of a Firecracker: a root of its own below the machine's home, a user of its own, namespaces.

The jailer does most of it. What it leaves to its caller is done here: process, network, message and name
namespaces (the jailer can make a process namespace too, but then it forks, and the machine would be nobody's
child), fewer capabilities to begin with, and a root that nobody can have planted anything in. That last one
matters: jailers up to 1.13.1 write through a link that lies in their way, as root.

Every file that the host reads again while the machine runs has a second name in the home, which the machine
cannot reach: under the name in the root it could put a link in its place.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from pandastack.errors import MachineError
from pandastack.host import jail, procfs, sparse
from pandastack.host.cell import BADNESS
from pandastack.host.shortage import told

BASE = "jail"
"""In the home: where the jailer makes its directories."""
CONSOLE, LOG = "console.log", "vmm.log"
"""What the guest says, and what the jailer and Firecracker say."""

_CLONE = {"ipc": 0x08000000, "net": 0x40000000, "pid": 0x20000000, "uts": 0x04000000}
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAPABILITIES = 64
_NEEDED = frozenset({0, 1, 3, 6, 7, 18, 21, 24, 27})
"""CHOWN, DAC_OVERRIDE, FOWNER, SETGID, SETUID, SYS_CHROOT, SYS_ADMIN, SYS_RESOURCE, MKNOD: what the jailer
needs until it gives all of them up.
"""
_LIMITED = (
    "/bin/sh",
    "-c",
    f'ulimit -c 0 && echo {BADNESS} > /proc/self/oom_score_adj && exec "$@"',
    "jailer",
)
"""What the jailer has no word for: no file of the memory, and its end before the server's when memory is
short. From outside it would come too late: who is another user by then is not root's to limit in a container.
"""


class Root(Struct, frozen=True):
    """The root directory of a jailed machine, and whose it is."""

    home: Path
    name: str
    """What the jailer calls the machine."""
    program: str
    """The file name of the Firecracker, which the jailer makes a directory of."""
    uid: int

    @property
    def path(self) -> Path:
        """The directory that the machine sees as `/`."""
        return self.home / BASE / self.program / self.name / "root"

    def moved(self, home: Path) -> Root:
        """The same in a home that has been renamed."""
        return Root(home, self.name, self.program, self.uid)


def make_root(root: Root) -> None:
    """An empty root that nobody but root can have touched. MachineError when something is there already."""
    base = root.home / BASE
    try:
        base.mkdir(mode=0o700)
        root.path.mkdir(parents=True)
    except OSError as error:
        raise told(error, f"The jail {base} cannot be made") from error
    check_untouched(root)


def check_untouched(root: Root, expected: Iterable[str] = ()) -> None:
    """MachineError unless the jail is root's alone and holds the `expected` files and nothing else, none of
    them a link.
    """
    base = root.home / BASE
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o077:
        raise MachineError(f"The jail {base} is not root's alone: nothing is started in it.")
    for entry in root.path.iterdir():
        if entry.name not in set(expected) or entry.is_symlink():
            raise MachineError(f"Somebody has put {entry.name} into the jail: nothing is started in it.")


def lend(source: Path, root: Root, name: str) -> None:
    """Have a file that the machine only reads in its root: a second name of it where it may be read by all,
    else a copy.
    """
    target = root.path / name
    if source.stat().st_mode & stat.S_IROTH:
        try:
            os.link(source, target)
        except OSError:
            sparse.copy(source, target)  # another file system
            target.chmod(0o444)
    else:
        sparse.copy(source, target)
        target.chmod(0o444)


def give(root: Root, name: str) -> None:
    """Have a file of the home, which the machine writes and the host reads, in the root as well."""
    path = root.home / name
    os.chown(path, root.uid, root.uid)
    path.chmod(0o600)
    os.link(path, root.path / name)


def take_out(root: Root, name: str, target: Path) -> None:
    """Move a file that the machine has made out of its root; from then on it is root's, and nobody writes it.

    MachineError for what is no plain file of the machine's own.
    """
    try:
        (root.path / name).rename(target)
        found = target.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_uid != root.uid or found.st_nlink != 1:
            target.unlink()
            raise MachineError(f"What the machine has left as {name} is not a file of its own.")
        os.chown(target, 0, 0, follow_symlinks=False)
        target.chmod(0o444)
    except OSError as error:
        raise told(error, f"{name} cannot be taken out of the jail") from error


def remove(root: Root) -> None:
    """Remove what was made for a machine that has ended. Links are removed, never followed."""
    shutil.rmtree(root.home / BASE, ignore_errors=True)


def spawn(argv: list[str], home: Path, network: int | None) -> jail.Child:
    """Start the jailer in namespaces of its own, and in the `network` of this descriptor, else an empty one.

    It outlives this program. MachineError, NoCapacity or NoSpace when that failed, and then nothing is left.
    """
    outcome: list[jail.Child | Exception] = []

    def enter_and_start() -> None:
        try:
            _confine(network)
            outcome.append(_started(argv, home))
        except Exception as error:  # told to whoever waits for this thread
            outcome.append(error)

    thread = threading.Thread(target=enter_and_start, name="jailer")  # what it enters ends with it
    thread.start()
    thread.join()
    if isinstance(outcome[0], OSError):
        raise told(outcome[0], f"{argv[0]} cannot be started") from outcome[0]
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _confine(network: int | None) -> None:
    """Of this thread alone: its children live in new namespaces and never get back what is dropped."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in set(range(_CAPABILITIES)) - _NEEDED:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # one that this kernel does not know is refused
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if network is not None:
        _checked(libc.setns(network, _CLONE["net"]))
    _checked(libc.unshare(sum(flag for kind, flag in _CLONE.items() if kind != "net" or network is None)))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _started(argv: list[str], home: Path) -> jail.Child:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    outputs = []
    try:
        for name in (CONSOLE, LOG):
            outputs.append(os.open(home / name, flags, 0o600))
        process = subprocess.Popen(
            [*_LIMITED, *argv],
            stdin=subprocess.DEVNULL,
            stdout=outputs[0],
            stderr=outputs[1],
            cwd=home,
            env={},
            start_new_session=True,
        )
    finally:
        for descriptor in outputs:
            os.close(descriptor)
    process.returncode = 0  # its pidfd reaps it
    return jail.Child(process.pid, procfs.start_ticks(process.pid) or 0, os.pidfd_open(process.pid))
