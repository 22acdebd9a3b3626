"""Frames that lie: other senders than the guest is, and protocols that nobody speaks with it."""

from __future__ import annotations

import subprocess
import time

import pytest

from pandastack.host.app import LocalHost
from pandastack.host.network import namespace
from pandastack.host.readiness import run_to_end
from tests.network.test_reach import start
from tests.network.world import HOST, SERVERS, sniffer, space_of

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root]

FORGER = r"""
import socket, struct, sys, time
server = socket.inet_aton(sys.argv[1])
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
OWN, GATEWAY, OTHER = (bytes.fromhex(x) for x in ("525400706473", "525400706401", "525400000bad"))
ME, NOT_ME = socket.inet_aton("10.0.2.15"), socket.inet_aton("10.0.2.99")

def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF

def udp(source, word):
    word = word.encode() + b" "
    body = struct.pack("!HHHH", 4000, 7, 8 + len(word), 0) + word
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0, source, server)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body

def arp(operation, mac, address):
    asked = mac + address + bytes(6) + socket.inet_aton("10.0.2.2")
    return struct.pack("!HHBBH", 1, 0x800, 6, 4, operation) + asked + b"pandastack-arp "

def frame(kind, body, source=OWN, target=GATEWAY):
    return target + source + struct.pack("!H", kind) + body

ALL = b"\xff" * 6
ROUTERS = b"\x60\0\0\0\0\x10\x3a\xff" + bytes(32) + b"\x86" + b"pandastack-advertisement "
frames = {
    "honest": frame(0x0800, udp(ME, "pandastack-honest")),
    "address": frame(0x0800, udp(NOT_ME, "pandastack-address")),
    "mac": frame(0x0800, udp(ME, "pandastack-mac"), source=OTHER),
    "gateway": frame(0x0800, udp(socket.inet_aton("10.0.2.2"), "pandastack-gateway"), source=GATEWAY),
    "arp-other": frame(0x0806, arp(1, OWN, NOT_ME), target=ALL),
    "arp-answer": frame(0x0806, arp(2, OWN, socket.inet_aton("10.0.2.2")), target=ALL),
    "arp-mac": frame(0x0806, arp(1, OTHER, ME), target=ALL),
    "vlan": frame(0x8100, struct.pack("!HH", 5, 0x0800) + udp(ME, "pandastack-vlan")),
    "stacked": frame(0x88A8, struct.pack("!HHHH", 5, 0x8100, 6, 0x0800) + udp(ME, "pandastack-stacked")),
    "v6": frame(0x86DD, b"\x60" + bytes(39) + b"pandastack-v6 "),
    "advertisement": frame(0x86DD, ROUTERS, target=bytes.fromhex("333300000001")),
}
for body in frames.values():
    for _ in range(3):
        s.send(body)
        time.sleep(0.02)
print(len(frames))
"""


async def forge(host: LocalHost) -> None:
    line = f"python3 -c '{FORGER}' {SERVERS[0]}"
    code, words = await run_to_end(host.guest("guest"), line, f"forge-{time.time_ns()}")
    assert code == 0, words


async def test_only_honest_frames_leave_a_guest(host: LocalHost) -> None:
    await start(host)
    with sniffer("eth0") as outside, sniffer(space_of(host, "guest"), HOST) as between:
        await forge(host)
        assert outside() == {"pandastack-honest"}
        assert between() == {"pandastack-honest"}
    neighbours = subprocess.run(
        ["ip", "-n", space_of(host, "guest"), "neigh"], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    assert "10.0.2.99" not in neighbours
    assert "10.0.2.15 dev tap0 lladdr 52:54:00:70:64:73 PERMANENT" in neighbours


async def test_without_the_guard_a_forged_sender_is_heard(host: LocalHost) -> None:
    """The negative control."""
    await start(host)
    within = ["nsenter", f"--net={namespace.path_of(space_of(host, 'guest'))}"]
    unguarded = [*within, "nft", "delete", "table", "netdev", "guard"]
    subprocess.run(unguarded, check=True, timeout=10)
    with sniffer("eth0") as outside:
        await forge(host)
        assert {"pandastack-honest", "pandastack-address"} <= outside()
