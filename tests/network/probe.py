"""What a guest tries: a program for its Python, which says as JSON what has answered."""

from __future__ import annotations

import time

import msgspec

from pandastack.host.app import LocalHost
from pandastack.host.readiness import run_to_end

PROGRAM = """
import json, select, socket, struct, sys, time
targets, port, patience = json.loads(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
WORD = b"pandastack-echo!"

def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF

def ping():
    head = struct.pack("!BBHHH", 8, 0, 0, 7, 1)
    return struct.pack("!BBHHH", 8, 0, checksum(head + WORD), 7, 1) + WORD

def begin(protocol, target):
    try:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        if protocol == "tcp":
            s = socket.socket(family, socket.SOCK_STREAM)
            s.setblocking(False)
            s.connect_ex((target, port))
        elif protocol == "udp":
            s = socket.socket(family, socket.SOCK_DGRAM)
            s.setblocking(False)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            s.connect((target, port))
            s.send(WORD)
        else:
            s = socket.socket(family, socket.SOCK_RAW, 1 if protocol == "icmp" else 132)
            s.setblocking(False)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            s.connect((target, 0))
            s.send(ping() if protocol == "icmp" else WORD)
        return s
    except OSError:
        return None

tried = {(t, p): begin(p, t) for t in targets for p in ("tcp", "udp", "icmp", "sctp")}
answered = {t: [] for t in targets}
open_ = {s: key for key, s in tried.items() if s is not None}
sent = set()
end = time.monotonic() + patience
while open_ and time.monotonic() < end:
    waiting = [s for s, key in open_.items() if key[1] == "tcp" and s not in sent]
    readable, writable, _ = select.select(list(open_), waiting, [], 0.2)
    for s in writable:
        sent.add(s)
        try:
            s.send(WORD)
        except OSError:
            open_.pop(s, None)
    for s in readable:
        target, protocol = open_.pop(s, (None, None))
        if target is None:
            continue
        try:
            data = s.recv(2048)
        except OSError:
            continue
        if protocol == "icmp" and ":" not in target and data[(data[0] & 15) * 4] != 0:
            open_[s] = (target, protocol)  # a refusal, which quotes what was sent: no answer
            continue
        if WORD in data:
            answered[target].append(protocol)
print(json.dumps(answered))
"""


async def reach(
    host: LocalHost, vm_id: str, *targets: str, port: int = 7, patience: float = 3.0
) -> dict[str, set[str]]:
    """By which of TCP, UDP, ICMP and SCTP each target has answered the guest."""
    listed = msgspec.json.encode(targets).decode()
    code, words = await run_to_end(
        host.guest(vm_id), f"python3 -c '{PROGRAM}' '{listed}' {port} {patience}", f"probe-{time.time_ns()}"
    )
    assert code == 0, words
    return {
        target: set(found) for target, found in msgspec.json.decode(words, type=dict[str, list[str]]).items()
    }
