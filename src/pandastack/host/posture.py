"""What a machine's process is and may do, as the kernel tells it, and what it should be.

It is looked at from outside, once for every machine, before anybody hears of it; tests look again after all
that a machine can go through.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from pandastack.errors import MachineError, PostureViolation
from pandastack.host import smallfiles

NAMESPACES = ("mnt", "pid", "ipc", "uts", "net")
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_FIELDS = re.compile(r"^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp):[\t ]*(.*?) *$", re.MULTILINE)
ROOT = frozenset({"proc", "dev", "etc", "lib", "lib64", "usr"})
"""What every jail's root holds; more are only the folders above a machine's base and program."""
KINDS = frozenset(
    {
        *("socket", "home", "base", "/dev/null", "/dev/kvm", "/dev/net/tun", "pipe", "memory"),
        *("eventfd", "eventpoll", "signalfd", "timerfd", "kvm-vm", "kvm-vcpu", "kvm-vcpu-stats"),
    }
)
"""What the descriptors of a machine may be."""


class Thread(Struct, frozen=True):
    """What one thread is allowed."""

    user: frozenset[int]
    """Its users and groups of all kinds."""
    capabilities: frozenset[str]
    """The sets that are not empty."""
    no_new_privs: bool
    seccomp: bool


class Posture(Struct, frozen=True):
    """A process as it is."""

    threads: frozenset[Thread]
    shared: frozenset[str]
    """Namespaces that it has in common with this program."""
    root: frozenset[str]
    kinds: frozenset[str]
    core: bool
    """Whether it would leave its memory in a file."""


def expected(user: int) -> Thread:
    """What every thread of a machine is."""
    return Thread(frozenset({user}), frozenset(), no_new_privs=True, seccomp=True)


def read(pid: int) -> Posture:
    """The posture of a process. MachineError when it has ended."""
    home = Path(f"/proc/{pid}/cwd")
    try:
        return Posture(
            threads=frozenset(_thread(status) for status in _statuses(pid)),
            shared=frozenset(_shared(pid)),
            root=frozenset(path.name for path in Path(f"/proc/{pid}/root").iterdir()),
            kinds=frozenset(_kinds(pid, home)),
            core=not re.search(r"^Max core file size +0 ", _text(f"/proc/{pid}/limits"), re.MULTILINE),
        )
    except (FileNotFoundError, ProcessLookupError) as error:
        raise MachineError(f"The virtual machine's process {pid} has ended.") from error


def check(pid: int, user: int) -> None:
    """PostureViolation when a thread of the process may do more than a machine of `user`, or sees more.

    Its descriptors are not looked at, which takes longer: they are those that it was given.
    """
    try:
        found = violations(
            frozenset(_thread(status) for status in _statuses(pid)), frozenset(_shared(pid)), user
        )
    except (FileNotFoundError, ProcessLookupError) as error:
        raise MachineError(f"The virtual machine's process {pid} has ended.") from error
    if found:
        raise PostureViolation(f"The virtual machine was ended, since its jail does not hold: {found}.")


def check_groups(pid: int, controllers: Iterable[str], name: str) -> None:
    """PostureViolation when the process is not in the control group `name` of each of these."""
    for line in _text(f"/proc/{pid}/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if not set(controllers).isdisjoint(names.split(",")) and path.rsplit("/", 1)[-1] != name:
            raise PostureViolation(f"The virtual machine was ended: it is not limited by a group ({line}).")


def violations(threads: frozenset[Thread], shared: frozenset[str], user: int) -> str:
    """What is not as it should be, in words; empty when all is."""
    wrong = [f"it shares the namespace {name}" for name in sorted(shared)]
    good = expected(user)
    for thread in threads:
        wrong += [f"a thread runs as {sorted(thread.user)}"] if thread.user != good.user else []
        wrong += [f"a thread has {name}" for name in sorted(thread.capabilities)]
        wrong += [] if thread.no_new_privs else ["a thread may gain privileges"]
        wrong += [] if thread.seccomp else ["a thread has no filter of system calls"]
    return "; ".join(wrong)


def _statuses(pid: int) -> Iterator[str]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # one that has ended since
            yield _text(f"{task}/status")


def _thread(status: str) -> Thread:
    fields = dict(_FIELDS.findall(status))
    ids = f"{fields['Uid']} {fields['Gid']} {fields['Groups']}".split()
    return Thread(
        user=frozenset(map(int, ids)),
        capabilities=frozenset(name for name in CAPABILITIES if int(fields[name], 16)),
        no_new_privs=fields["NoNewPrivs"] == "1",
        seccomp=fields["Seccomp"] == "2",
    )


def _shared(pid: int) -> Iterator[str]:
    for name in NAMESPACES:
        if Path(f"/proc/{pid}/ns/{name}").stat().st_ino == Path(f"/proc/self/ns/{name}").stat().st_ino:
            yield name


def _kinds(pid: int, home: Path) -> Iterator[str]:
    own = {(entry.stat().st_dev, entry.stat().st_ino) for entry in home.iterdir()}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            target, status = str(link.readlink()), link.stat()
            if (status.st_dev, status.st_ino) in own:
                yield "home"
            elif target.startswith("anon_inode:"):
                yield re.sub(r"anon_inode:\[?([a-z-]+).*", r"\1", target)
            elif target.startswith("/memfd:"):
                yield "memory"
            elif ":[" in target:
                yield target.partition(":")[0]
            elif target.startswith("/dev/"):
                yield target
            else:
                yield "base" if not _writable(pid, int(link.name)) else f"written: {target}"


def _writable(pid: int, number: int) -> bool:
    found = re.search(r"^flags:\s*(\d+)", _text(f"/proc/{pid}/fdinfo/{number}"), re.MULTILINE)
    return found is None or bool(int(found[1], 8) & os.O_ACCMODE)


def _text(path: str) -> str:
    return smallfiles.read(path).decode(errors="replace")
