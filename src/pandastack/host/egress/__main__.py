"""The program: `python -m pandastack.host.egress --control FD`. It is started by the host, never by hand."""

from __future__ import annotations

import argparse
import ctypes
import encodings.idna  # noqa: F401 - what is loaded later can be read no more
import os
import resource
import socket
import sys
import time
from pathlib import Path

import dns.rdata
import uvloop

from pandastack.host.egress.authority import Issuer, make_ca
from pandastack.host.egress.channel import Channel
from pandastack.host.egress.server import Server
from pandastack.model.clock import Clock

PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
LAST_CAPABILITY = Path("/proc/sys/kernel/cap_last_cap")

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve until the host closes the control socket."""
    parser = argparse.ArgumentParser(prog="pandastack.host.egress")
    parser.add_argument("--control", type=int, required=True, help="a connected Unix socket, by number")
    parser.add_argument("--uid", type=int, help="the user to become, with no other group than `--gid`")
    parser.add_argument("--gid", type=int)
    wishes = parser.parse_args()
    control = socket.socket(fileno=wishes.control)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if wishes.uid is not None:
        _become(wishes.uid, wishes.gid if wishes.gid is not None else wishes.uid)
    uvloop.run(_serve(control))


def _become(uid: int, gid: int) -> None:
    """Give up every right for good, and be looked into by nobody but root: this memory holds values."""
    _load_all()
    for capability in range(int(LAST_CAPABILITY.read_text()) + 1):
        _prctl(PR_CAPBSET_DROP, capability)
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_DUMPABLE, 0)


def _load_all() -> None:
    """All code is loaded before the new user comes, who may not be able to read it; and from then on none is,
    so that what is forgotten here fails on every machine.
    """
    dns.rdata.load_all_types()  # type: ignore[no-untyped-call]  # it has no types of its own
    clock = Clock(time.time, time.monotonic)
    Issuer(make_ca(clock.now()), clock).context("example.invalid")  # cryptography loads when it is used
    sys.meta_path.clear()


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


async def _serve(control: socket.socket) -> None:
    channel = Channel(control)
    try:
        await Server(channel, Clock(time.time, time.monotonic), os.urandom, _tell).run()
    finally:
        channel.close()


def _tell(line: str) -> None:
    print(f"egress: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
