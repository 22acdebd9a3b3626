"""What a machine is asked, one question a function: answered within a deadline, and nothing is changed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from pandastack.config import ADMIN_FOLDERS, HostConfig, split_address
from pandastack.errors import BuildFailed, NoSpace
from pandastack.host.firecracker_install import Refusal, find_firecracker, why_not_used
from pandastack.host.groups import FIRST, IN_FIRST, SECOND, WANTED, can_swap, unlimited
from pandastack.host.jailer import NOT_ROOT
from pandastack.host.network.ability import lacking
from pandastack.host.network.namespace import TUN
from pandastack.host.rootfs import wrapper
from pandastack.host.tool import run_tool

FICLONE = 0x40049409
"""The ioctl that lets two files share their blocks until one of them changes."""

TOOL_SECONDS = 5.0
GIB = 1 << 30


class Outcome(StrEnum):
    """WARN: works, and something is slower, weaker or not there. FAIL: a sandbox cannot be had."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(Struct, frozen=True):
    """One question and its answer. `mend` is one line, empty when nothing is to be mended."""

    name: str
    ok: Outcome
    found: str
    why_it_matters: str
    mend: str = ""


class Programs(Struct, frozen=True):
    """The programs that this machine has."""

    path: str

    def find(self, name: str) -> str | None:
        """Where a program is, None when it is not installed."""
        return shutil.which(name, path=os.pathsep.join((self.path, *ADMIN_FOLDERS)))

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those that are not installed."""
        return [name for name in names if self.find(name) is None]


class Place(Struct, frozen=True):
    """A directory that the server will use; it need not exist yet."""

    name: str
    path: Path

    @property
    def standing(self) -> Path:
        """It, or the nearest directory above it that exists."""
        return next(path for path in (self.path, *self.path.absolute().parents) if path.is_dir())


def places(state: Path, cache: Path) -> list[Place]:
    """The directories in question: one, when both lie on the same file system."""
    both = [Place("state", state), Place("cache", cache)]
    same = len({place.standing.stat().st_dev for place in both}) == 1
    return [Place("state and cache", state)] if same else both


def space(place: Place, *, wanted: int, needed: int) -> Check:
    """Whether the server may write there, and how much."""
    name = f"free space ({place.name})"
    why = "Every sandbox writes its changes there, images and snapshots are kept there."
    if not writable(place.standing):
        mend = "choose another --state, or PANDASTACK_CACHE_DIR, or give this user the directory"
        return Check(name, Outcome.FAIL, f"{place.standing} may not be written", why, mend)
    free = shutil.disk_usage(place.standing).free
    outcome = Outcome.FAIL if free < needed else Outcome.WARN if free < wanted else Outcome.OK
    mend = "" if outcome is Outcome.OK else f"free some space: {wanted / GIB:.0f} GiB are comfortable"
    return Check(name, outcome, f"{free / GIB:.1f} GiB in {place.standing}", why, mend)


def writable(directory: Path) -> bool:
    """Try it, with a file that vanishes again: root may write where nothing can be written."""
    try:
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


def reflinks(place: Place) -> Check:
    """Whether a large file is copied by sharing its blocks."""
    name = f"reflinks ({place.name})"
    why = "With reflinks a large file is copied in no time and space; creating sandboxes does not need them."
    kind = file_system(place.standing)
    if clones(place.standing):
        return Check(name, Outcome.OK, f"{kind} has them", why)
    mend = "put the directory on XFS (mkfs.xfs -m reflink=1) or Btrfs"
    return Check(name, Outcome.WARN, f"{kind} copies in full", why, mend)


def clones(directory: Path) -> bool:
    """Try it, with two files that vanish again."""
    try:
        with (
            tempfile.TemporaryFile(dir=directory) as source,
            tempfile.TemporaryFile(dir=directory) as copy,
        ):
            source.write(bytes(4096))
            source.flush()
            fcntl.ioctl(copy.fileno(), FICLONE, source.fileno())
    except OSError:
        return False
    return True


def file_system(path: Path) -> str:
    """The type of the file system that a directory lies on, as the kernel calls it."""
    best, kind = -1, "this file system"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        mount = Path(fields.split()[4])
        if path.resolve().is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), source.split()[0]
    return kind


def memory(*, wanted: int, needed: int) -> Check:
    """What the kernel could give to new machines."""
    found = re.search(r"^MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    free = int(found[1]) * 1024 if found else 0
    outcome = Outcome.FAIL if free < needed else Outcome.WARN if free < wanted else Outcome.OK
    why = "A sandbox takes what its guest touches: about 45 MB when idle, up to the size of its template."
    mend = "" if outcome is Outcome.OK else "end other programs, or use a machine with more memory"
    return Check("memory", outcome, f"{free / GIB:.1f} GiB available", why, mend)


def cgroups(root: Path = Path("/sys/fs/cgroup"), *, swaps: bool | None = None) -> Check:
    """Which generation of control groups the kernel, which `swaps` or not, offers, and whether all that is
    needed is there.
    """
    swaps = can_swap() if swaps is None else swaps
    why = "They limit what each machine takes of the processor, of memory, of the disk and of processes."
    if (root / "cgroup.controllers").exists():
        offered = (root / "cgroup.controllers").read_text().split()
        given = (root / "cgroup.subtree_control").read_text().split()
        groups = {each: root for each in WANTED if each in given}
        lacks = unlimited(SECOND, _below(groups), swaps=swaps)
        return _controllers("version 2", [each for each in WANTED if each not in offered], lacks, why)
    first = {IN_FIRST.get(each, each): each for each in WANTED}
    groups = {name: root / name for name in first if (root / name).is_dir()}
    missing = [each for name, each in first.items() if name not in groups]
    lacks = unlimited(FIRST, _below(groups), swaps=swaps)
    return _controllers("version 1" if len(missing) < len(WANTED) else "none", missing, lacks, why)


def _below(groups: Mapping[str, Path]) -> dict[str, Path]:
    """Of each of these groups one below it, where there is one: at the root a kernel has not all files."""
    folders = {
        each: sorted(path for path in group.glob("*") if path.is_dir()) for each, group in groups.items()
    }
    return {each: found[0] for each, found in folders.items() if found}


def _controllers(found: str, missing: list[str], lacks: Sequence[str], why: str) -> Check:
    reasons = [f"no control group for {each}" for each in missing] + list(lacks)
    if not reasons:
        return Check("cgroups", Outcome.OK, found, why)
    mend = "boot with systemd.unified_cgroup_hierarchy=1, and let the service have them: Delegate=yes"
    if not missing:
        mend = "boot with swapaccount=1, or a kernel that has these limits"
    return Check("cgroups", Outcome.WARN, f"{found}; degraded: {', '.join(reasons)}", why, mend)


def networks() -> Check:
    """Whether sandboxes get networks of their own."""
    why = (
        "With networks of their own sandboxes reach the internet, and what their owners allow; else nothing."
    )
    missing = lacking()
    if missing is None:
        return Check("networks", Outcome.OK, "one for each sandbox, with rules", why)
    mend = "run the server as root" if missing == "not root" else "apt-get install iproute2 nftables"
    if TUN in missing:
        mend = "modprobe tun"
    return Check("networks", Outcome.WARN, f"none: {missing}", why, mend)


def privileges() -> Check:
    """Whose rights the machines have."""
    if os.geteuid() == 0:
        why = "Each machine is in a jail of its own, with a user that has no rights."
        return Check("jail", Outcome.OK, "root: machines are jailed", why)
    why = "Machines run with the server's rights: a guest that broke out would have those of this user."
    found = f"degraded: {NOT_ROOT} (uid {os.geteuid()})"
    return Check("jail", Outcome.WARN, found, why, "run the server as root to have machines jailed")


async def namespaces(*, needed: bool) -> Check:
    """Whether this user may make the namespaces that images are built in."""
    why = "Images are built in namespaces of their own; without root, a user namespace is one of them."
    try:
        await run_tool([*wrapper(), "true"], timeout=TOOL_SECONDS)
    except (BuildFailed, NoSpace) as error:
        outcome = Outcome.FAIL if needed else Outcome.WARN
        reason = error.message.splitlines()[-1]
        return Check("namespaces", outcome, f"refused: {reason}", why, _mend_namespaces(reason))
    return Check("namespaces", Outcome.OK, "allowed", why)


def _mend_namespaces(reason: str) -> str:
    if "/etc/sub" in reason:
        return "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER"
    if "/proc" in reason and "mount" in reason:
        return "mount -t proc proc /proc"
    return "sysctl user.max_user_namespaces=10000 kernel.apparmor_restrict_unprivileged_userns=0"


def listen_address(listen: str) -> Check:
    """Whether a server may listen there now. Errors: InvalidRequest for what is no address."""
    host, port = split_address(listen)
    why = "The server answers there."
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            mend = "choose another --listen, or end what listens there (a running server, perhaps)"
            return Check("address", Outcome.WARN, f"{listen}: {error.strerror}", why, mend)
    return Check("address", Outcome.OK, f"{listen} is free", why)


def tools(name: str, programs: Programs, wanted: Mapping[str, str], *, why: str, needed: bool) -> Check:
    """Whether the programs of `wanted` (program: Debian package) are there."""
    missing = programs.missing(wanted)
    if not missing:
        return Check(name, Outcome.OK, ", ".join(wanted), why)
    packages = " ".join(dict.fromkeys(wanted[program] for program in missing))
    outcome = Outcome.FAIL if needed else Outcome.WARN
    return Check(name, outcome, f"not installed: {', '.join(missing)}", why, f"apt-get install {packages}")


async def firecracker(programs: Programs, config: HostConfig, kvm: Check) -> Check:
    """Which Firecracker there is, whether it is used, and why not."""
    why = "Where hardware virtualization works, machines run on it, each in a jail; else on QEMU."
    found = await find_firecracker(
        programs.find, folder=config.firecracker_dir, allow_version=config.firecracker_allow_version
    )
    if isinstance(found, Refusal):
        there = programs.find("firecracker") is not None or config.firecracker_dir is not None
        wanted = there or (kvm.ok is Outcome.OK and os.geteuid() == 0)
        outcome = Outcome.WARN if wanted else Outcome.OK
        return Check("Firecracker", outcome, found.reason, why, found.mend if wanted else "")
    unused = why_not_used(config.driver, kvm=kvm.ok is Outcome.OK, root=os.geteuid() == 0)
    words = f"not used: {unused}" if unused else "used"
    return Check("Firecracker", Outcome.OK, f"{found.version} ({found.firecracker}), {words}", why)
