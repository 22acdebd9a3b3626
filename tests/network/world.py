"""A host and an internet of a test's own: two network namespaces with a wire between them.

The thread that asks is in the host's namespace for the length of the block, and so is everything that it
starts: servers, machines, `ip` and `nft`. The internet has public addresses, and programs that answer there.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pandastack.host.network import namespace

HOST, INTERNET = "pandatest-host", "pandatest-net"
HOST_ADDRESS = "203.0.113.2"
"""The host's own, in a network that it shares with its router."""
ROUTER = "203.0.113.1"
SERVERS = ("198.51.100.10", "198.51.100.11", "198.51.100.12")
"""Public addresses that answer."""
PRIVATE = ("10.77.0.1", "169.254.169.254", "192.168.77.1", "172.16.77.1", "100.64.77.1")
"""Addresses that the router would lead to as well, and that answer."""


def ip(*lines: str, of: str) -> None:
    """Run `ip -batch` in a namespace."""
    text = "\n".join(lines) + "\n"
    subprocess.run(["ip", "-n", of, "-batch", "-"], input=text, text=True, check=True, timeout=10)


@contextmanager
def world() -> Iterator[None]:
    """Both namespaces, this thread in the host's."""
    for name in (HOST, INTERNET):
        namespace.remove(name)
        namespace.make(name, {})
    try:
        ip("link set lo up", f"link add eth0 type veth peer name eth0 netns {INTERNET}", of=HOST)
        ip(f"addr add {HOST_ADDRESS}/24 dev eth0", "link set eth0 up", of=HOST)
        ip(f"route add default via {ROUTER}", of=HOST)
        everywhere = [f"addr add {address}/32 dev lo" for address in (*SERVERS, *PRIVATE)]
        ip("link set lo up", *everywhere, f"addr add {ROUTER}/24 dev eth0", "link set eth0 up", of=INTERNET)
        with _entered(HOST):
            yield
    finally:
        for name in (HOST, INTERNET):
            namespace.remove(name)


@contextmanager
def program(code: str, *arguments: str, where: str = INTERNET) -> Iterator[subprocess.Popen[str]]:
    """A Python program in a namespace that says a line when it is ready; ended with the block."""
    command = ["nsenter", f"--net={namespace.path_of(where)}", "python3", "-u", "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline()
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


@contextmanager
def _entered(name: str) -> Iterator[None]:
    """Unlike `namespace.inside` for as long as a test takes."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with namespace.inside(name):
            yield
    finally:
        os.close(own)
