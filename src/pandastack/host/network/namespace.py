"""Network namespaces by system call: made, entered for a moment, removed.

Python 3.11 has no `setns`. A namespace belongs to the calling thread alone, and every function here has the
thread back in its own when it returns; none of them waits for anything.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pandastack.errors import MachineError

FOLDER = Path("/run/netns")
"""Where `ip -n NAME` looks for them."""

_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SHARED = 1 << 20
_MNT_DETACH = 2
_OWN = "/proc/thread-self/ns/net"

_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
TUN = "/dev/net/tun"

_NETLINK_NETFILTER = 12
_CONNTRACK_DELETE = 1 << 8 | 2
_REQUEST_ACK = 0x5

_libc = ctypes.CDLL(None, use_errno=True)


def path_of(name: str) -> Path:
    """Where a namespace of this name is bound."""
    return FOLDER / name


def share_folder() -> None:
    """Have the folder be a mount that is shared, as `ip netns add` does at its first time: where it comes
    later, it covers the namespaces that are bound there, and then nobody can unbind them. MachineError.

    Source: ip-netns(8), and what it asks of the kernel. It holds the same lock meanwhile.
    """
    FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder = os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    place = os.fsencode(FOLDER)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if _libc.mount(b"", place, b"none", _MS_SHARED | _MS_REC, None) != 0:  # it is no mount yet
            _call("mount", place, place, b"none", _MS_BIND | _MS_REC, None)
            _call("mount", b"", place, b"none", _MS_SHARED | _MS_REC, None)
    finally:
        os.close(folder)


def make(name: str, sysctls: dict[str, str]) -> None:
    """A new namespace, bound to its name, with settings below /proc/sys/net; one that somebody left under
    this name loses it. MachineError.
    """
    place = path_of(name)
    if place.exists():
        remove(name)
    place.touch(mode=0o444)
    try:
        with _back_again():
            _call("unshare", _CLONE_NEWNET)
            _call("mount", _OWN.encode(), os.fsencode(place), None, _MS_BIND, None)
            for key, value in sysctls.items():
                Path("/proc/sys/net", key).write_text(value)
    except BaseException:
        remove(name)
        raise


def remove(name: str) -> None:
    """Unbind it; it goes with the last process and descriptor in it. Fine without one. MachineError."""
    place = path_of(name)
    _unbind(place)
    try:
        with suppress(OSError):
            return place.unlink(missing_ok=True)
        for elsewhere in _bound_elsewhere(place):
            _unbind(elsewhere)
        place.unlink()
    except OSError as error:
        raise MachineError(
            f"the network namespace {name} cannot be removed ({error.strerror}): something was mounted over "
            f"{FOLDER} since; `umount --lazy {FOLDER}` takes that away"
        ) from error


def _unbind(place: Path) -> None:
    with suppress(MachineError):
        _call("umount2", os.fsencode(place), _MNT_DETACH)


def _bound_elsewhere(place: Path) -> Iterator[Path]:
    """Where else the same file has something mounted on it: in a root that shares this folder, as chroot(8)
    makes them, a server binds its namespaces where only that root's path leads.
    """
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        other = Path(line.split()[4])  # proc(5): the mount point
        with suppress(OSError):
            if other.name == place.name and other != place and other.parent.samefile(place.parent):
                yield other


@contextmanager
def own() -> Iterator[int]:
    """A descriptor of the namespace that this thread is in."""
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield own
    finally:
        os.close(own)


@contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread is in the namespace for the length of the block, which must not wait. MachineError."""
    with _back_again():
        try:
            there = os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise MachineError(f"the network namespace {name} is not there: {error}") from error
        try:
            _call("setns", there, _CLONE_NEWNET)
        finally:
            os.close(there)
        yield


@contextmanager
def nowhere() -> Iterator[None]:
    """This thread is in a new namespace without a name for the length of the block."""
    with _back_again():
        _call("unshare", _CLONE_NEWNET)
        yield


def open_tap(device: str) -> int:
    """A descriptor of the tap `device` of the namespace that this thread is in, made if it is not there.
    MachineError.

    Packets come and go without a header of the kernel's: a machine's offers to its guest must not depend on
    what holds the other end.
    """
    tap = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError as error:
        os.close(tap)
        raise MachineError(f"the tap {device} cannot be had: {error.strerror}") from error
    return tap


def lasting_tap(device: str) -> int:
    """As `open_tap`; the device stays when nobody has it open. MachineError."""
    tap = open_tap(device)
    try:
        fcntl.ioctl(tap, _TUNSETPERSIST, 1)
    except OSError as error:
        os.close(tap)
        raise MachineError(f"the tap {device} cannot be kept: {error.strerror}") from error
    return tap


def idle_tap() -> int:
    """A descriptor of a tap that leads nowhere, for a machine that is to be a template's."""
    with nowhere():
        return open_tap("tap0")


def forget_connections() -> socket.socket:
    """Have the namespace that this thread is in forget every connection that it tracks. MachineError.

    What it was asked by is the caller's to close: that waits, some milliseconds, for rules that were removed
    a moment before.
    """
    header = struct.pack("=IHHII", 20, _CONNTRACK_DELETE, _REQUEST_ACK, 1, 0)
    request = header + struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
    asked = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        asked.sendto(request, (0, 0))
        (error,) = struct.unpack_from("=i", asked.recv(4096), 16)
    except BaseException:
        asked.close()
        raise
    if error:
        asked.close()
        raise MachineError(f"connections cannot be forgotten: {os.strerror(-error)}")
    return asked


def forwards(device: str) -> bool:
    """Whether this thread's namespace passes on what comes in by a device."""
    return _forwarding(device).read_text().strip() == "1"


def set_forwarding(device: str, *, on: bool) -> None:
    """Have it pass that on, or not; fine when the device is gone."""
    with suppress(FileNotFoundError):
        _forwarding(device).write_text("1" if on else "0")


def _forwarding(device: str) -> Path:
    return Path("/proc/sys/net/ipv4/conf", device, "forwarding")


@contextmanager
def _back_again() -> Iterator[None]:
    with own() as before:
        try:
            yield
        finally:
            _call("setns", before, _CLONE_NEWNET)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise MachineError(f"{name} is refused: {os.strerror(number)}")
