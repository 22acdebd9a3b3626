"""A host and an internet of a test's own: two network namespaces with a wire between them.

The thread that asks is in the host's namespace for the length of the block, and so is everything that it
starts: servers, machines, `ip` and `nft`. The internet has public addresses, and programs that answer there.
"""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pandastack.host.app import LocalHost
from pandastack.host.network import namespace

HOST, INTERNET = f"pandatest-{os.getpid()}-host", f"pandatest-{os.getpid()}-net"
"""Of this program alone: others may have theirs at the same time."""
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


ECHO = """
import select, socket, sys
tcp = socket.create_server(("0.0.0.0", 7), backlog=64)
def bound(address, kind, protocol=0):
    s = socket.socket(socket.AF_INET, kind, protocol)
    s.bind((address, 7 if kind == socket.SOCK_DGRAM else 0))
    return s
udp = [bound(address, socket.SOCK_DGRAM) for address in sys.argv[1:]]
odd = [bound(address, socket.SOCK_RAW, 132) for address in sys.argv[1:]]
print("ready")
held = []
def answer(s):
    if s is tcp:
        held.append(tcp.accept()[0])
    elif s in udp:
        data, sender = s.recvfrom(2048)
        s.sendto(data, sender)
    elif s in odd:
        data = s.recv(2048)
        s.sendto(data[20:], (socket.inet_ntoa(data[12:16]), 0))
    else:
        data = s.recv(65536)
        s.sendall(data)
        if not data:
            raise OSError
while True:
    for s in select.select([tcp, *udp, *odd, *held], [], [])[0]:
        try:
            answer(s)
        except OSError:
            if s in held:
                held.remove(s)
                s.close()
"""
"""Says back what it hears on port 7 by TCP and UDP, and as protocol 132, which is SCTP's."""


@contextmanager
def lay() -> Iterator[None]:
    """Both namespaces, this thread in the host's."""
    for name in (*_left_behind(), HOST, INTERNET):
        namespace.remove(name)
    for name in (HOST, INTERNET):
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


def _left_behind() -> list[str]:
    """Namespaces of programs that were killed in the middle of a test."""
    found = [path.name for path in Path(namespace.path_of(HOST)).parent.glob("pandatest-*-*")]
    return [name for name in found if not Path("/proc", name.split("-")[1]).exists()]


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
def echo(where: str) -> Iterator[None]:
    """A program that echoes on every address of a namespace."""
    addresses = [HOST_ADDRESS] if where == HOST else [ROUTER, *SERVERS, *PRIVATE]
    with program(ECHO, *addresses, where=where):
        yield


NAMES = """
import socket, struct, sys
table = dict(word.split("=") for word in sys.argv[2:])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
print("ready")
while True:
    query, sender = s.recvfrom(2048)
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += query[at] + 1
    name, (kind,) = ".".join(labels).lower(), struct.unpack("!H", query[at + 1:at + 3])
    print(name, kind)
    found = [socket.inet_aton(a) for a in table.get(name, "").split("+") if a and kind == 1]
    answer = b"".join(b"\\xc0\\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + a for a in found)
    flags = 0x8180 if name in table else 0x8183
    head = query[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0)
    s.sendto(head + query[12:at + 5] + answer, sender)
"""
"""Answers for the names that it is told, and says every question that it hears."""


@contextmanager
def name_server(table: dict[str, str]) -> Iterator[Callable[[], set[str]]]:
    """A name server at `ROUTER`, and the names that it has been asked for so far."""
    entries = [f"{name}={addresses}" for name, addresses in table.items()]
    with program(NAMES, ROUTER, *entries) as process:
        heard = _words(process)
        yield lambda: {word for word in heard() if "." in word}


SERVE = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = ("served " + self.headers.get("Host", "")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("0.0.0.0", 80), Handler)
print("ready")
server.serve_forever()
"""
"""A web server on every address that tells by which name it was asked."""


SNIFF = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((sys.argv[1], 0))
print("ready")
while True:
    frame = s.recv(2048)
    at = frame.find(b"pandastack-")
    if at >= 0 and s is not None:
        print(frame[at:at + 32].split(b" ")[0].decode())
"""
"""Says every word of ours that comes by a device."""


@contextmanager
def sniffer(device: str, where: str = INTERNET) -> Iterator[Callable[[], set[str]]]:
    """What has come by a device so far."""
    with program(SNIFF, device, where=where) as process:
        yield _words(process)


def _words(process: subprocess.Popen[str]) -> Callable[[], set[str]]:
    """What a program has said so far."""
    assert process.stdout
    words, seen = process.stdout.fileno(), set[str]()

    def heard() -> set[str]:
        while select.select([words], [], [], 0.3)[0]:
            seen.update(os.read(words, 65536).decode().split())
        return seen

    return heard


@contextmanager
def _entered(name: str) -> Iterator[None]:
    """Unlike `namespace.inside` for as long as a test takes."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with namespace.inside(name):
            yield
    finally:
        os.close(own)


def space_of(host: LocalHost, vm_id: str) -> str:
    """The namespace of a machine's slot, which is also the name of the host's end of the way to it."""
    return f"panda{host.vms.find(vm_id).slot}"
